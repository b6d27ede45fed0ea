"""`SSDD.from_pretrained("demo")`: a model that comes with the package is found by its name, without a network."""

import socket
from pathlib import Path

import pytest
import torch

from ssdd import SSDD, packaged
from ssdd.files import sha256_file
from ssdd.lineage.stamps import read_stamp
from ssdd_decoder import CheckpointError

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """An empty working directory, and no network."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was used"))


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """A small model in the place of the packaged one, with its weights in bfloat16 and its vectors in float32."""
    model = SSDD("debug", "debug").eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.to(torch.bfloat16)
    model.save_pretrained(tmp_path / "models/demo.safetensors")
    monkeypatch.setattr(packaged, "FOLDER", tmp_path / "models")
    return model


def same(model, other):
    left, right = model.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name].float(), right[name]) for name in left)


def test_it_is_found_by_its_name_and_is_float32(demo):
    model = SSDD.from_pretrained("demo")
    assert same(demo, model)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert not model.training
    assert model.reconstruct(torch.zeros(1, 3, 16, 16)).dtype == torch.float32
    assert same(demo, SSDD("debug", "debug", checkpoint="demo"))
    assert same(demo.encoder, SSDD("debug", "debug", encoder_checkpoint="demo").encoder)
    assert SSDD.config_of("demo") == (demo.encoder.config, demo.decoder.config)
    assert SSDD.encoder_config_of("demo") == demo.encoder.config


def test_a_file_or_folder_of_that_name_goes_first(demo):
    other = SSDD("debug", "debug")
    other.save_pretrained("demo/ssdd.safetensors")
    assert same(other, SSDD.from_pretrained("demo"))
    Path("demo/ssdd.safetensors").rename("file")
    Path("demo").rmdir()
    Path("file").rename("demo")
    assert same(other, SSDD.from_pretrained("demo"))
    Path("demo").unlink()
    Path("demo").mkdir()  # a folder of something else
    assert same(demo, SSDD.from_pretrained("demo"))


def test_an_installation_without_the_file_is_named(demo):
    (packaged.FOLDER / "demo.safetensors").unlink()
    said = r"'demo' comes with ssdd, but .*demo\.safetensors: install ssdd again"
    for load in (SSDD.from_pretrained, SSDD.config_of, lambda name: SSDD("debug", "debug", checkpoint=name)):
        with pytest.raises(CheckpointError, match=said):
            load("demo")


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(CheckpointError, match=r"no file or folder 'dmo': .*; models that come with ssdd: demo$"):
        SSDD.from_pretrained("dmo")
    for path in ("dmo.safetensors", "a/folder/demo", "./demo"):
        with pytest.raises(CheckpointError) as caught:
            SSDD.from_pretrained(path)
        assert "come with ssdd" not in str(caught.value)


def test_names_lead_into_the_package():
    """The folder beside the modules, in an editable installation too."""
    assert ROOT / "pipelines/ssdd/models" == packaged.FOLDER


@pytest.mark.skipif(not (packaged.FOLDER / "demo.safetensors").is_file(), reason="the model is not made yet")
def test_the_packaged_model_is_whole_and_has_its_card_and_its_stamp():
    file = packaged.model_file("demo")
    model = SSDD.from_pretrained("demo")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    image = torch.linspace(-1, 1, 128).expand(1, 3, 128, 128)
    error = (model.reconstruct(image, generator=torch.Generator().manual_seed(0)) - image).square().mean()
    assert error < 0.01  # 26 dB, of a peak of 2
    card = file.with_suffix(".md").read_text(encoding="utf-8")
    assert sha256_file(file) in card
    assert 'SSDD.from_pretrained("demo")' in card
    stamp = read_stamp(file)
    assert stamp is not None
    assert (stamp.node, stamp.sha256) == ("release.pack_model", sha256_file(file))
