"""Finding checkpoints: in files, in folders, and in the hub's cache without a network."""

import os

import pytest
import torch
from safetensors.torch import save_file

from ssdd_encoder import CheckpointError, Encoder, sources

NAME = "encoder.safetensors"


def touch(*files):
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"a": torch.zeros(1)}, file)


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty hub cache, with the network switched off; returns a function that adds a cached file."""
    pytest.importorskip("huggingface_hub")
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def add(repository: str, name: str):
        revision = "0123456789abcdef0123456789abcdef01234567"
        repo = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        file = repo / "snapshots" / revision / name
        file.parent.mkdir(parents=True, exist_ok=True)
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / "main").write_text(revision)
        return file

    return add


def test_file_itself(tmp_path):
    touch(tmp_path / "any name.safetensors")
    assert sources.resolve(tmp_path / "any name.safetensors", NAME) == tmp_path / "any name.safetensors"
    assert sources.resolve(str(tmp_path / "any name.safetensors"), NAME) == tmp_path / "any name.safetensors"


def test_folder_prefers_the_usual_names_in_order(tmp_path):
    names = ["x.safetensors", "model.safetensors", "diffusion_pytorch_model.safetensors", "ssdd.safetensors", NAME]
    for name in names:
        touch(tmp_path / name)
        assert sources.resolve(tmp_path, NAME) == tmp_path / name
        touch(tmp_path / "y.safetensors") if name == "model.safetensors" else None


def test_folder_with_several_unusual_names_is_not_guessed(tmp_path):
    touch(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    with pytest.raises(
        CheckpointError, match=r"a.safetensors, b.safetensors, and no encoder.safetensors: name the file"
    ):
        sources.resolve(tmp_path, NAME)


NOWHERE = [
    "",
    ".",
    "no/such/folder",
    "nothing.safetensors",
    "a/b.safetensors",
    "x" * 5000,
    "a\0b",
    "~/x",
    "../x",
    "a b/c",
]


@pytest.mark.parametrize("source", NOWHERE)
def test_nothing_there_is_one_clear_error(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        Encoder.from_pretrained(source)
    assert len(str(caught.value)) < 600


def test_directory_named_like_a_file(tmp_path):
    (tmp_path / "x.safetensors").mkdir()
    with pytest.raises(CheckpointError, match="holds no safetensors file"):
        Encoder.from_pretrained(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="holds no safetensors file"):
        Encoder.from_pretrained(tmp_path)


def test_symlink_loop(tmp_path):
    os.symlink(tmp_path / "b.safetensors", tmp_path / "a.safetensors")
    os.symlink(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError):
        Encoder.from_pretrained(tmp_path / "a.safetensors")


def test_unreadable_file(make_encoder, tmp_path):
    file = make_encoder().save_pretrained(tmp_path)
    file.chmod(0)
    if os.access(file, os.R_OK):
        pytest.skip("this user reads everything")
    with pytest.raises(CheckpointError, match="permissions"):
        Encoder.from_pretrained(file)


@pytest.mark.parametrize("name", [NAME, "ssdd.safetensors", "diffusion_pytorch_model.safetensors", "model.safetensors"])
def test_hub_id_is_read_from_the_cache(make_encoder, hub_cache, name):
    encoder = make_encoder()
    encoder.save_pretrained(hub_cache("some-one/a.model_1", name))
    loaded = Encoder.from_pretrained("some-one/a.model_1")
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), encoder.parameters(), strict=True))


def test_hub_id_that_is_nowhere(hub_cache):
    with pytest.raises(CheckpointError, match=r"no file or folder some/model, and no checkpoint .* on the hub"):
        Encoder.from_pretrained("some/model")


def test_hub_id_without_the_hub_client(monkeypatch, tmp_path):
    import sys

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="install huggingface-hub"):
        Encoder.from_pretrained("some/model")


def test_folder_that_looks_like_a_hub_id_comes_first(make_encoder, hub_cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_encoder("quickstart").save_pretrained(tmp_path / "some" / "model")
    make_encoder("debug").save_pretrained(hub_cache("some/model", NAME))
    assert Encoder.from_pretrained("some/model").config.name == "f8c16"


def test_destination(tmp_path):
    assert sources.destination(tmp_path, NAME) == tmp_path / NAME
    assert sources.destination(tmp_path / "x.safetensors", NAME) == tmp_path / "x.safetensors"
    assert sources.destination("model.v2", NAME).name == NAME
