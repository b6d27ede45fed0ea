"""The hub: a model goes up as files that it shows well, and comes down by id, revision and cache, without a network."""

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from safetensors import safe_open

from ssdd import SSDD, AutoencoderSSDD
from ssdd_decoder import CheckpointError, Decoder
from ssdd_encoder import Encoder

COMMITS = {"main": "a" * 40, "old": "b" * 40}


@pytest.fixture
def publish(tmp_path):
    """Puts a model into the cache of the hub, as a download of a revision would, and returns the cache's options."""

    def put(model, revision: str = "main") -> dict:
        repository = tmp_path / "cache/models--owner--name"
        model.save_pretrained(repository / "snapshots" / COMMITS[revision])
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(COMMITS[revision])
        return {"cache_dir": tmp_path / "cache", "local_files_only": True}

    return put


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_every_class_comes_from_an_id_a_revision_and_a_cache(publish):
    new, old = SSDD("debug", "debug"), SSDD("debug", "debug")
    publish(old, "old")
    options = publish(new)
    assert equal(SSDD.from_pretrained("owner/name", **options), new)
    assert equal(SSDD.from_pretrained("owner/name", revision="old", **options), old)
    assert equal(Encoder.from_pretrained("owner/name", **options), new.encoder)
    assert equal(Decoder.from_pretrained("owner/name", revision=COMMITS["old"], **options), old.decoder)
    assert equal(AutoencoderSSDD.from_pretrained("owner/name", revision="old", **options), old)
    with pytest.raises(CheckpointError, match=r"no checkpoint of that name in the hub's cache"):
        SSDD.from_pretrained("owner/other", **options)
    with pytest.raises(TypeError, match="expected options among revision, cache_dir, token, local_files_only, got rev"):
        SSDD.from_pretrained("owner/name", rev="old")


def test_what_diffusers_saved_comes_from_an_id_too(publish, make_vae):
    new, old = make_vae(scaling_factor=0.5), AutoencoderSSDD("debug", "debug", scaling_factor=0.25)
    publish(old, "old")
    options = publish(new)
    assert equal(AutoencoderSSDD.from_pretrained("owner/name", **options), new)
    loaded = AutoencoderSSDD.from_pretrained("owner/name", revision="old", torch_dtype=torch.bfloat16, **options)
    assert (loaded.config.scaling_factor, loaded.dtype) == (0.25, torch.bfloat16)


def test_a_model_goes_up_with_its_card(monkeypatch):
    asked, uploaded = {}, {}

    def create(self, repo_id, **options):
        asked.update(options, token=self.token)
        return SimpleNamespace(repo_id=repo_id)

    def upload(self, folder_path, **options):
        uploaded.update({file.name: file.read_bytes() for file in Path(folder_path).iterdir()})
        with safe_open(Path(folder_path) / "ssdd.safetensors", "pt") as file:
            asked.update(options, header=file.metadata()["more"])
        return "https://huggingface.co/owner/name/commit/1"

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    model = SSDD("debug", "debug")
    address = model.push_to_hub(
        "owner/name", card="# Mine\n", metadata={"more": "1"}, private=True, token="t", revision="v1"
    )
    assert address.endswith("/commit/1")
    assert uploaded.keys() == {"ssdd.safetensors", "README.md"}
    assert uploaded["README.md"] == b"# Mine\n"
    assert asked == {
        "private": True,
        "exist_ok": True,
        "token": "t",
        "repo_id": "owner/name",
        "revision": "v1",
        "commit_message": "Upload SSDD",
        "header": "1",
    }
