"""Parameters and files that ask for the impossible: refused in one line, before memory or disk is spent.

Hostile headers, offsets, shapes, pickles and configurations meet the loaders one by one in the packages'
test_encoder_checkpoint.py and test_decoder_checkpoint.py; here they meet a run whose memory is bounded.
"""

import json
import pickle
import struct
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import save

from ssdd_decoder import decoder_config
from ssdd_encoder import encoder_config

ROOM = 2**30  # bytes of address space above what an idle process has
PARAMETERS = [
    "distill.batch_size=-1",
    "distill.batch_size=1000000000000",
    "distill.epochs=-5",
    "distill.epochs=1000000000000000",
    "distill.im_size=1048576",
    "distill.im_size=-8",
    "distill.aug_scale=1e9",
    "distill.optim.lr=1e400",
    "distill.optim.lr=.nan",
    "distill.seed=-1",
    "distill.accumulation=1000000000",
    "distill.eval_images=-4",
    "distill.eval_steps=1000000000",
    "teacher_targets.teacher_steps=1000000000000",
    "teacher_targets.shard_size=-1",
    "evaluate.im_size=4194304",
    "evaluate.student_steps=[1000000000]",
    "evaluate.student_steps=[-1]",
    "evaluate.student_steps=[]",
    "evaluate.shown=1000000",
    "prepare.held_out=-0.5",
    "data.sample.train_images=1000000000000000",
    "data.sample.train_images=-1",
    "data.sample.crop_max=1000000000",
    "data.sample.canvases=1000000000",
    "runtime.processes=1000000",
    "runtime.processes=-1",
    "runtime.workers=1000000",
    "runtime.threads=1000000000",
    "runtime.threads=three",
    "runtime.save_every=-1",
    "model.decoder=XXXXXXXX",
    "model.encoder=f8c100000000",
    "model.encoder=f1073741824c4",
    "run_name=../../x",
    "run_name=/elsewhere/x",
    "run_name=..",
]


def refused(runs, settings):
    """Runs with bounded memory; it must end soon, with an error of one line, and have made nothing."""
    name = "hostile"
    before = runs.contents(name)
    attempt = runs.start(name, room=ROOM, settings=f"{settings},runtime.progress=false")
    code = attempt.wait()
    assert code == 1, f"{settings}: {attempt.said}"
    assert "Traceback" not in attempt.said, f"{settings}: {attempt.said}"
    assert "MemoryError" not in attempt.said, settings
    errors = [line for line in attempt.said.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, f"{settings}: {attempt.said}"
    assert "done: distill.distill_teacher" not in attempt.said
    assert {k: v for k, v in runs.contents(name).items() if k in before} == before
    assert runs.processes() == []
    return errors[0]


def test_absurd_parameters(runs, tally):
    runs.prepare("hostile")
    outside = sorted(runs.data.parent.iterdir())
    for text in PARAMETERS:
        assert "cannot use image" not in refused(runs, text), text
        tally("absurd parameters", tried=1, survived=1)
    assert sorted(runs.data.parent.iterdir()) == outside


def raw(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def configured(**changes):
    """A small file whose header asks for another network."""
    config = {"encoder": asdict(encoder_config("quickstart")), "decoder": asdict(decoder_config("quickstart"))}
    config["decoder"] |= changes
    return save({"decoder.conv_in.weight": torch.zeros(1)}, {"ssdd": json.dumps(config)})


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
FILES = {
    "oversized header": struct.pack("<Q", 2**63) + b"{}",
    "header past the end": struct.pack("<Q", 10**8) + b"{}",
    "overlapping offsets": raw({"a": F32, "b": F32}, bytes(8)),
    "absurd shape": raw({"a": {**F32, "shape": [2**62, 2**62]}}, bytes(8)),
    "absurd shape of nothing": raw({"a": {**F32, "shape": [0, 2**62], "data_offsets": [0, 0]}}),
    "offsets past the end": raw({"a": {**F32, "data_offsets": [0, 2**40], "shape": [2**38]}}, bytes(8)),
    "deep header": raw(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "pickle": pickle.dumps({"a": 1}),
    "torch.save": b"PK\x03\x04" + bytes(1000),
    "gigantic network": configured(base_channels=10**9),
    "very wide network": configured(multipliers=[4096, 4096, 4096, 4096]),
    "endless network": configured(transformer_blocks=10**9),
    "absurd latent": configured(latent_channels=10**9),
}


@pytest.mark.parametrize("kind", FILES)
def test_hostile_teachers(runs, tmp_path, tally, kind):
    runs.prepare("hostile")
    file = tmp_path / "teacher.safetensors"
    file.write_bytes(FILES[kind])
    error = refused(runs, f"teacher={file}")
    assert "teacher.safetensors" in error
    tally("hostile files", tried=1, survived=1)
