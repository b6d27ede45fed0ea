"""Commands under torchrun: two ranks share the images, and the results are those of one process."""

import json
import os
import subprocess
import sys

import pytest
import torch

from ssdd.imaging.latent_files import StoredLatents
from ssdd.imaging.shared_files import Share

RANKS = '''
"""One rank: runs the commands that the file names, one after the other."""
import json, sys
from ssdd.commands.group import cli

for arguments in json.load(open(sys.argv[1])):
    cli(arguments, standalone_mode=False)
'''


def commands(folder, checkpoint, out):
    common = ["--model", str(checkpoint), "--batch-size", "2"]
    yield ["reconstruct", str(folder), "-o", str(out / "pictures"), *common]
    yield ["encode", str(folder), "-o", str(out / "latents.safetensors"), *common]
    yield ["encode", str(folder), "-o", str(out / "shards"), "--shards", "--im-size", "32", *common]


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_batch_belongs_to_one_rank():
    made, others = [["a", "b"], ["c"], ["d", "e"]], []
    assert list(Share(0, 2).of(made, others.append)) == [["a", "b"], ["d", "e"]]
    assert list(Share(1, 2).of(made, others.append)) == [["c"]]
    assert others == [1, 2, 2]
    assert list(Share().of(made, others.append)) == made


@pytest.mark.slow
def test_two_ranks_give_the_results_of_one_process(folder, checkpoint, ssdd, tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    said = [ssdd(*arguments) for arguments in commands(folder, checkpoint, alone)]
    assert [status for status, _, _ in said] == [0, 0, 0], said
    (tmp_path / "ranks.py").write_text(RANKS)
    (tmp_path / "commands.json").write_text(json.dumps(list(commands(folder, checkpoint, shared))))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, str(tmp_path / "ranks.py"), str(tmp_path / "commands.json")],
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.replace(str(shared), str(alone)).splitlines() == [
        line for _, out, _ in said for line in out.splitlines()
    ]
    assert files(shared / "pictures") == files(alone / "pictures")
    assert files(shared / "shards") == files(alone / "shards")
    one, two = (StoredLatents(out / "latents.safetensors") for out in (alone, shared))
    assert one.header.sizes == two.header.sizes
    assert one.shapes == two.shapes
    assert len(one.shapes) == 9
    assert all(torch.equal(one[name], two[name]) for name in one.shapes)
    assert sorted(path.name for path in shared.iterdir()) == ["latents.safetensors", "pictures", "shards"]
    assert done.stderr.count("skipped deep/text.jpg") == 3
