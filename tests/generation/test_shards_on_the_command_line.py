"""`ssdd encode --shards`, and `ssdd decode` of shards."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from ssdd import SSDD
from ssdd.commands.group import cli
from ssdd.generation.latent_manifest import read_manifest
from ssdd.imaging.latent_header import SHARD_HEADER

SIDE = 64


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    made = SSDD("debug", "debug")
    for parameter in made.decoder.parameters():  # also what starts at zero
        torch.nn.init.normal_(parameter, std=0.05)
    return made.save_pretrained(tmp_path_factory.mktemp("model") / "ssdd.safetensors")


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """7 pictures that are as large as the latents' images, so that nothing is resized or padded."""
    folder = tmp_path_factory.mktemp("squares")
    for number in range(7):
        place = folder / ("cat" if number < 4 else "dog")
        place.mkdir(exist_ok=True)
        levels = torch.randint(256, (SIDE, SIDE, 3), generator=torch.Generator().manual_seed(number))
        Image.fromarray(levels.byte().numpy()).save(place / f"{number}.png")
    return folder


def ssdd(*arguments):
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    return done.exit_code, done.output


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def shards(model, squares, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards")
    command = ["encode", squares, "-o", out, "--model", model, "--shards", "--im-size", SIDE, "--dtype", "float32"]
    status, said = ssdd(*command)
    assert status == 0, said
    assert said.splitlines()[-1] == f"{out}: 7 images in 1 shard, 0 skipped"
    return out


def test_shards_decode_to_what_a_file_of_latents_decodes_to(shards, model, squares, tmp_path):
    assert read_manifest(shards).classes == ("cat", "dog")
    ssdd("encode", squares, "-o", tmp_path / "z.safetensors", "--model", model)
    places = {"file": tmp_path / "z.safetensors", "folder": shards, "shard": shards / "latents-00000.safetensors"}
    for name, place in places.items():
        status, said = ssdd("decode", place, "-o", tmp_path / name, "--model", model, "--steps", 2)
        assert status == 0, said
    assert tree(tmp_path / "folder") == tree(tmp_path / "shard")
    assert set(tree(tmp_path / "folder")) == set(tree(tmp_path / "file")) == set(tree(squares))
    for name in tree(squares):
        one, other = (np.asarray(Image.open(tmp_path / place / name)).astype(int) for place in ("folder", "file"))
        assert np.abs(one - other).max() <= 1  # the encoder rounds by the layout of its input


def test_the_same_command_again_changes_nothing(shards, model, squares):
    before = {name: (shards / name).stat().st_mtime_ns for name in tree(shards) if name != "manifest.json"}
    ssdd("encode", squares, "-o", shards, "--model", model, "--shards", "--im-size", SIDE, "--dtype", "float32")
    assert {name: (shards / name).stat().st_mtime_ns for name in before} == before


def test_a_shard_of_somebody_else_cannot_write_outside_the_output_folder(shards, model, tmp_path):
    with safe_open(shards / "latents-00000.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()[SHARD_HEADER])
        header["paths"][2] = "../../evil.png"
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, tmp_path / "bad.safetensors", {SHARD_HEADER: json.dumps(header)})
    status, said = ssdd("decode", tmp_path / "bad.safetensors", "-o", tmp_path / "o/out", "--model", model)
    assert status == 1
    assert "tampered" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["decode", "{empty}", "-o", "{out}"], "expected a folder of latents with a manifest.json"),
        (["encode", "{squares}", "-o", "{empty}"], "expected a file for the latents"),
        (["encode", "{squares}", "-o", "{file}", "--shards"], "expected a folder for the shards"),
        (["encode", "{empty}", "-o", "{out}", "--shards"], "found none"),
    ],
)
def test_errors_say_what_to_do(model, squares, tmp_path, arguments, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    places = {"squares": squares, **{name: tmp_path / name for name in ("empty", "out", "file")}}
    status, output = ssdd(*(argument.format(**places) for argument in arguments), "--model", model)
    assert status == 1
    assert said in " ".join(output.split())
    assert (tmp_path / "file").read_text() == "text"


def test_info_describes_a_folder_and_a_shard(shards):
    for place in (shards, shards / "latents-00000.safetensors"):
        status, said = ssdd("info", place)
        assert status == 0, said
        assert "latents of 7 images, f8c4" in " ".join(said.split())
