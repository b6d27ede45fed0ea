"""`ssdd`, as users call it: what it writes, says and refuses."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import click
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ssdd import SSDD
from ssdd.commands.group import cli
from ssdd.data import EvalTransform
from ssdd.imaging.canvas import pad, to_images
from ssdd.imaging.latent_header import read_header
from ssdd_decoder.checkpoint import read, write
from ssdd_encoder import Encoder, LatentStatistics

COMMANDS = ("encode", "decode", "convert-latents", "reconstruct", "info", "lineage", "compare", "z-stats")


def tree(folder):
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def pixels(file):
    with Image.open(file) as image:
        return np.asarray(image).astype(int)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(ssdd, command):
    status, said, _ = ssdd(command, "--help")
    assert status == 0
    assert said.startswith(f"Usage: cli {command}")
    assert f"ssdd {command}" in said  # an example
    for parameter in cli.commands[command].params:
        assert isinstance(parameter, click.Argument) or len((parameter.help or "").split()) > 2, parameter.name


def test_help_needs_no_torch():
    code = "import sys; from ssdd.commands.group import cli; cli(['--help'], standalone_mode=False); "
    code += "sys.exit(bool({'torch', 'pandas', 'kedro', 'numpy'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert all(command in said.stdout for command in COMMANDS)


def test_encode_then_decode_is_reconstruct(ssdd, small, tmp_path, checkpoint):
    latents = tmp_path / "z.safetensors"
    status, said, beside = ssdd("encode", small, "-o", latents, "--model", checkpoint)
    assert (status, said) == (0, f"{latents}: 3 images, 0 skipped\n")
    assert re.fullmatch(r"\s*\d\d:\d\d:\d\d encoding: 3/3 .* done in .*\n", beside)  # the progress, without a terminal
    assert {name: tuple(z.shape) for name, z in load_file(latents).items()} == {
        "a.png": (16, 8, 8),
        "b/c.png": (16, 12, 9),
        "d.png": (16, 8, 8),
    }
    one, two = tmp_path / "one", tmp_path / "two"
    assert ssdd("decode", latents, "-o", one, "--model", checkpoint, "--steps", 2, "--batch-size", 1)[0] == 0
    status, said, _ = ssdd("reconstruct", small, "-o", two, "--model", checkpoint, "--steps", 2)
    assert status == 0
    assert said.splitlines()[-1] == f"{two}: 3 images, none skipped"
    assert tree(one) == ["a.png", "b/c.png", "d.png"] == [name for name in tree(two) if name != "rejected.csv"]
    for name in tree(one):
        assert pixels(one / name).shape == pixels(small / name).shape
        assert np.abs(pixels(one / name) - pixels(two / name)).max() <= 1  # rounding of other batch sizes
    ssdd("reconstruct", small, "-o", tmp_path / "other", "--model", checkpoint, "--steps", 1)
    assert np.abs(pixels(tmp_path / "other/a.png") - pixels(two / "a.png")).max() > 5


def test_a_reconstruction_is_the_models(ssdd, tmp_path, checkpoint):
    levels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(levels).save(tmp_path / "in/x.png")
    ssdd("encode", tmp_path / "in/x.png", "-o", tmp_path / "z.safetensors", "--model", checkpoint)
    x = torch.from_numpy(levels).permute(2, 0, 1)[None] / 127.5 - 1
    want = SSDD.from_pretrained(checkpoint).encode(x).mode()[0]
    torch.testing.assert_close(load_file(tmp_path / "z.safetensors")["x.png"], want)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_latents_are_kept_as_they_come(one_line, ssdd, small, tmp_path, checkpoint, precision):
    out = tmp_path / "new/z.safetensors"
    places = ["encode", small, "-o", out, "--model", checkpoint]
    assert ssdd(*places, "--precision", precision, "--batch-size", 1)[0] == 0
    assert tree(tmp_path / "new") == ["z.safetensors"]  # nothing temporary
    latents = load_file(out)
    encoder = Encoder.from_pretrained(checkpoint).to(getattr(torch, precision))
    for name, z in latents.items():
        with Image.open(small / name) as image:
            x = to_images([pad(name, image, encoder.config.downscale)], torch.device("cpu"))
        with torch.no_grad():
            want = encoder(x).mode()[0]
        assert z.dtype == want.dtype == getattr(torch, precision)
        assert torch.equal(z, want)
    status, said, _ = ssdd("decode", out, "-o", tmp_path / "out", "--model", checkpoint)
    assert (status, said.splitlines()[-1]) == (0, f"{tmp_path / 'out'}: 3 images")
    out.write_bytes(out.read_bytes()[:-1])
    assert "is not a whole file of latents" in one_line(
        ssdd("decode", out, "-o", tmp_path / "no", "--model", checkpoint)[2]
    )


def test_bad_files_are_skipped_named_and_listed(ssdd, folder, tmp_path, checkpoint, bad):
    status, said, error = ssdd("reconstruct", folder, "-o", tmp_path / "out", "--model", checkpoint)
    assert status == 0
    assert said.endswith("9 images, 5 skipped, see rejected.csv\n")
    for name, reason in bad.items():
        assert f"skipped {name}: {reason} (" in error
    status, said, error = ssdd("encode", folder, "-o", tmp_path / "z.safetensors", "--model", checkpoint)
    assert status == 0
    assert "skipped cut.jpg: truncated" in error
    assert len(load_file(tmp_path / "z.safetensors")) == 9


def test_only_bad_files_are_a_failure(one_line, ssdd, folder, tmp_path, checkpoint, bad, good):
    for name in good:
        (folder / name).unlink()
    status, _, error = ssdd("reconstruct", folder, "-o", tmp_path / "out", "--model", checkpoint)
    assert status == 1
    assert "none of 5 files could be read and written" in one_line(error)
    assert tree(tmp_path / "out") == ["rejected.csv"]
    status, _, error = ssdd("encode", folder, "-o", tmp_path / "z.safetensors", "--model", checkpoint)
    assert status == 1
    assert "none of 5 files" in one_line(error)
    assert not (tmp_path / "z.safetensors").exists()


def test_a_file_name_cannot_act_on_the_terminal(ssdd, small, tmp_path, checkpoint):
    (small / "\x1b[31m[bold]red.png").write_bytes(b"x")
    _, _, error = ssdd("reconstruct", small, "-o", tmp_path / "out", "--model", checkpoint)
    assert "\x1b" not in error
    assert "skipped \\x1b[31m[bold]red.png: not an image" in error


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["reconstruct", "{small}", "-o", "{out}", "--model", "{missing}"], 1, "there is no file or folder"),
        (["reconstruct", "{small}", "-o", "{out}", "--model", "{text}"], 1, "is not a whole safetensors file"),
        (["reconstruct", "{small}", "-o", "{out}", "--model", "{encoder}"], 1, "no decoder"),
        (["reconstruct", "{small}", "-o", "{small}", "--model", "{model}"], 1, "choose another"),
        (["reconstruct", "{small}", "-o", "{text}/x", "--model", "{model}"], 1, "Not a directory"),
        (
            ["reconstruct", "{small}", "-o", "{out}", "--model", "{model}", "--device", "cuda"],
            1,
            "expected a CUDA device",
        ),
        (["reconstruct", "{small}", "-o", "{out}"], 2, "Missing option '--model'"),
        (["reconstruct", "{missing}", "-o", "{out}", "--model", "{model}"], 2, "does not exist"),
        (["reconstruct", "{small}", "-o", "{out}", "--model", "{model}", "--steps", "0"], 2, "0 is not in the range"),
        (["decode", "{model}", "-o", "{out}", "--model", "{model}"], 1, "expected latents of `ssdd encode`"),
        (["decode", "{text}", "-o", "{out}", "--model", "{model}"], 1, "is not a whole file of latents"),
        (["encode", "{text}", "-o", "{text}", "--model", "{model}"], 1, "apart from the images"),
        (["z-stats", "{text}", "-o", "{text}", "--model", "{model}"], 1, "apart from the images"),
        (["z-stats", "-o", "{out}", "--model", "{model}"], 2, "Missing argument 'IMAGES...'"),
        (["info", "{text}"], 1, "is not a whole safetensors file"),
        (["lineage", "{model}"], 1, "its stamp beside it: nothing at"),
        (["compare", "{text}", "{text}"], 1, "could not read one"),
        (["z-stats", "{empty}", "-o", "{out}", "--model", "{model}"], 1, "found none"),
        (["reconstrukt"], 2, "No such command 'reconstrukt'"),
    ],
)
def test_a_users_error_is_one_line(one_line, ssdd, small, tmp_path, checkpoint, monkeypatch, arguments, status, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    encoder = Encoder("quickstart").save_pretrained(tmp_path / "encoder.safetensors")
    (tmp_path / "text.txt").write_text("text")
    (tmp_path / "empty").mkdir()
    places = {
        "small": small,
        "out": tmp_path / "out",
        "model": checkpoint,
        "encoder": encoder,
        "empty": tmp_path / "empty",
    }
    places |= {"missing": tmp_path / "missing.safetensors", "text": tmp_path / "text.txt"}
    code, _, error = ssdd(*(argument.format(**places) for argument in arguments))
    assert code == status
    assert said in one_line(error)
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "text.txt").read_text() == "text"


def test_a_traceback_is_there_for_who_wants_it(ssdd, tmp_path, monkeypatch):
    monkeypatch.setenv("SSDD_TRACEBACK", "1")
    (tmp_path / "x").write_text("text")
    with pytest.raises(ValueError, match="not a whole safetensors"):
        ssdd("info", tmp_path / "x")


def test_latents_for_another_decoder_are_refused(one_line, ssdd, small, tmp_path, checkpoint):
    latents = tmp_path / "z.safetensors"
    ssdd("encode", small, "-o", latents, "--model", checkpoint)
    other = SSDD("f8c4", "debug").save_pretrained(tmp_path / "other.safetensors")
    status, _, error = ssdd("decode", latents, "-o", tmp_path / "out", "--model", other)
    assert status == 1
    assert "expected f8c4 latents for this decoder, got f8c16, made by ssdd.safetensors" in one_line(error)


@pytest.mark.parametrize("name", ["../x.png", "/x.png", "a/../../x.png"])
def test_latents_cannot_write_outside_the_output_folder(one_line, ssdd, small, tmp_path, checkpoint, name):
    from safetensors import safe_open

    latents = tmp_path / "z.safetensors"
    ssdd("encode", small / "a.png", "-o", latents, "--model", checkpoint)
    with safe_open(latents, framework="pt") as file:
        header = {key: value.replace('"a.png"', json.dumps(name)) for key, value in file.metadata().items()}
        save_file({name: file.get_tensor("a.png")}, tmp_path / "bad.safetensors", header)
    status, _, error = ssdd("decode", tmp_path / "bad.safetensors", "-o", tmp_path / "o/out", "--model", checkpoint)
    assert status == 1
    assert "tampered" in one_line(error)


def test_info_tells_what_a_file_holds(ssdd, small, tmp_path, checkpoint):
    status, said, _ = ssdd("info", checkpoint)
    model = SSDD.from_pretrained(checkpoint)
    assert status == 0
    text = " ".join(said.split())
    for part in (model.encoder, model.decoder):
        assert f"f8c16, {sum(p.numel() for p in part.parameters()):,} parameters, float32" in text
    assert "holds encoder and decoder" in text
    assert "intact" in text
    assert "prediction=sample" in text
    assert "none beside it" in text
    Encoder("quickstart").half().save_pretrained(tmp_path / "encoder.safetensors")
    text = " ".join(ssdd("info", tmp_path)[1].split())
    assert "holds encoder tensors" in text
    assert "float16" in text
    bare = {key.removeprefix("decoder."): value for key, value in load_file(checkpoint).items() if "decoder" in key}
    save_file(bare, tmp_path / "bare.safetensors")
    text = " ".join(ssdd("info", tmp_path / "bare.safetensors")[1].split())
    assert "not checked" in text
    ssdd("encode", small, "-o", tmp_path / "z.safetensors", "--model", checkpoint)
    text = " ".join(ssdd("info", tmp_path / "z.safetensors")[1].split())
    assert "latents of 3 images, f8c16" in text


def test_info_needs_no_torch(ssdd, small, tmp_path, checkpoint):
    latents = tmp_path / "z.safetensors"
    ssdd("encode", small, "-o", latents, "--model", checkpoint)
    code = "import sys; from ssdd.commands.group import cli; cli(sys.argv[1:], standalone_mode=False); "
    code += "sys.exit('torch' in sys.modules)"
    for file in (checkpoint, Encoder("quickstart").save_pretrained(tmp_path), latents, "demo"):
        done = subprocess.run([sys.executable, "-c", code, "info", file], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "f8c16" in done.stdout


@pytest.mark.parametrize(
    "steps", [{"float16": 1}, {"bfloat16": 2}, {"float16": 1, "bfloat16": 2}, {"float16": 1, "float64": 2}]
)
def test_info_tells_by_the_header_what_loading_would_show(ssdd, tmp_path, checkpoint, steps):
    contents = read(checkpoint)
    tensors = dict(contents.tensors)
    for dtype, step in steps.items():
        tensors |= {name: tensors[name].to(getattr(torch, dtype)) for name in sorted(tensors)[::step]}
    file = write(tmp_path / "x.safetensors", tensors, contents.config)
    said, model = " ".join(ssdd("info", file)[1].split()), SSDD.from_pretrained(file)
    for part in (model.encoder, model.decoder):
        (dtype,) = {str(p.dtype).removeprefix("torch.") for p in part.parameters()}
        config = ", ".join(f"{name}={value}" for name, value in asdict(part.config).items())
        assert f"f8c16, {sum(p.numel() for p in part.parameters()):,} parameters, {dtype}; {config}" in said


def test_only_files_of_latents_have_their_header(ssdd, small, tmp_path, checkpoint):
    latents = tmp_path / "z.safetensors"
    ssdd("encode", small, "-o", latents, "--model", checkpoint)
    assert set(read_header(latents).sizes) == {"a.png", "b/c.png", "d.png"}
    assert read_header(checkpoint) is None
    (tmp_path / "cut").write_bytes(latents.read_bytes()[:-1])
    (tmp_path / "text").write_text("text")
    assert read_header(tmp_path / "cut") is read_header(tmp_path / "text") is None
    with pytest.raises(OSError, match="No such file"):
        read_header(tmp_path / "missing")


def test_info_finds_a_damaged_checkpoint(one_line, ssdd, tmp_path, checkpoint):
    data = bytearray(checkpoint.read_bytes())
    data[-1] ^= 1
    (tmp_path / "x.safetensors").write_bytes(data)
    status, _, error = ssdd("info", tmp_path / "x.safetensors")
    assert status == 1
    assert "is damaged: its content does not match its hash" in one_line(error)


def test_z_stats_are_those_of_the_latents(ssdd, folder, tmp_path, checkpoint, good):
    out = tmp_path / "stats.json"
    status, _, error = ssdd("z-stats", folder, "-o", out, "--model", checkpoint, "--im-size", 16, "--batch-size", 2)
    assert status == 0
    assert "skipped cut.jpg: truncated" in error
    content = json.loads(out.read_text())
    used = [name for name in good if min(pixels(folder / name).shape[:2]) >= 16]
    assert content["images"] == len(used)
    encoder = Encoder.from_pretrained(checkpoint)
    from ssdd.data import decode_image

    with torch.no_grad():
        z = torch.cat([encoder(EvalTransform(im_size=16)(decode_image(good[name]))[None]).mode() for name in used])
    values = z.double().transpose(0, 1).flatten(1).numpy()
    found = LatentStatistics.from_dict(content)
    np.testing.assert_allclose(found.mean.numpy(), values.mean(1), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.std.numpy(), values.std(1, ddof=1), rtol=1e-5)


def test_z_stats_takes_files_and_folders_as_encode_does(one_line, ssdd, small, tmp_path, checkpoint):
    out, model = tmp_path / "stats.json", ["--model", checkpoint, "--im-size", 16]
    contents = []
    for places in ([small], [small / "a.png", small / "d.png", small / "b"]):
        status, said, _ = ssdd("z-stats", *places, "-o", out, *model)
        assert status == 0
        assert said.endswith("over 3 images\n")
        contents.append(LatentStatistics.from_dict(json.loads(out.read_text())))
    torch.testing.assert_close(contents[0].mean, contents[1].mean)
    torch.testing.assert_close(contents[0].std, contents[1].std)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/a.png").write_bytes(b"this is no picture")
    (tmp_path / "other/notes.txt").write_bytes(b"nor is this")
    status, said, error = ssdd("z-stats", small / "d.png", tmp_path / "other", "-o", out, *model)
    assert status == 0
    assert said.endswith("over 1 image\n")
    assert "skipped a.png: not an image" in error
    assert "skipped notes.txt: not an image" in error
    status, _, error = ssdd("z-stats", tmp_path / "other", "-o", tmp_path / "none.json", *model)
    assert status == 1
    assert "2 of 2 files" in one_line(error)
    assert "so no image is left" in one_line(error)
    assert not (tmp_path / "none.json").exists()
    status, _, error = ssdd("z-stats", small, tmp_path / "other", "-o", out, *model)
    assert status == 1
    assert "expected images of different names" in one_line(error)


def test_an_interruption_leaves_no_half_written_file(ssdd, small, tmp_path, checkpoint, monkeypatch):
    from pathlib import Path

    (tmp_path / "out").mkdir()
    (tmp_path / "out/d.png").write_bytes(b"before")
    write = Path.write_bytes

    def half(path, data):
        if ".d.png." in path.name:
            write(path, data[: len(data) // 2])
            raise KeyboardInterrupt
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", half)
    status, _, error = ssdd("reconstruct", small, "-o", tmp_path / "out", "--model", checkpoint, "--batch-size", 1)
    assert status == 130
    assert "Interrupted: no file is half-written" in error
    assert "a.png" in tree(tmp_path / "out")
    assert [name for name in tree(tmp_path / "out") if "partial" in name] == []
    assert (tmp_path / "out/d.png").read_bytes() == b"before"


@pytest.mark.parametrize("moment", ["encoding", "writing"])
def test_an_interruption_keeps_the_latents_of_before(ssdd, small, tmp_path, checkpoint, monkeypatch, moment):
    def stop(*_, **__):
        raise KeyboardInterrupt

    (tmp_path / "out").mkdir()
    (tmp_path / "out/z.safetensors").write_bytes(b"before")
    if moment == "writing":
        monkeypatch.setattr("shutil.copyfileobj", stop)
    else:
        monkeypatch.setattr("ssdd.imaging.latent_files.LatentWriter.add", stop)
    status, _, error = ssdd("encode", small, "-o", tmp_path / "out/z.safetensors", "--model", checkpoint)
    assert status == 130
    assert "Interrupted: no file is half-written" in error
    assert tree(tmp_path / "out") == ["z.safetensors"]
    assert (tmp_path / "out/z.safetensors").read_bytes() == b"before"


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(tmp_path, checkpoint, kind):
    (tmp_path / "in").mkdir()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8))
    for i in range(400):
        image.save(tmp_path / f"in/{i}.png")
    command = [sys.executable, "-c", "from ssdd.commands import main; main()", "reconstruct", tmp_path / "in"]
    command += ["-o", tmp_path / "out", "--model", checkpoint, "--steps", "8", "--batch-size", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while process.poll() is None and not list((tmp_path / "out").glob("[0-9]*.png")):
        time.sleep(0.05)
    os.kill(process.pid, kind)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.count("Interrupted") == 1
    assert "Traceback" not in error
    written = list((tmp_path / "out").iterdir())
    assert 0 < len(written) < 400
    for file in written:
        assert file.suffix == ".png"
        assert pixels(file).shape == (200, 200, 3)
