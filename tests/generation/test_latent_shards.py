"""Latents in shards: content, statistics, resume, several processes."""

import hashlib
import json
import os
import signal

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ssdd.encoders import load_encoder
from ssdd.evaluation.latent_statistics import latent_statistics
from ssdd.generation import latent_shards
from ssdd.generation.latent_manifest import read_manifest
from ssdd.generation.latent_shards import write_latents
from ssdd.imaging.latent_header import SHARD_HEADER
from ssdd_encoder import LatentAccumulator


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture
def written(make_job, tmp_path):
    return write_latents(make_job(tmp_path / "latents"))


def test_shards_hold_what_the_encoder_makes_of_each_image(written, make_job, encoder_file, tmp_path):
    job, encoder = make_job(tmp_path), load_encoder(encoder_file)
    seen = {}
    for record in read_manifest(written).shards:
        shard = load_file(written / record.file)
        dataset = next(images.dataset for images in job.images if images.split == record.split)
        assert {tensor.dtype for name, tensor in shard.items() if "mean" in name or "logvar" in name} == {torch.float16}
        for row in range(record.count):
            x = dataset[record.first + row]["image"][None]
            with torch.no_grad():
                for suffix, image in (("", x), ("_flipped", x.flip(3))):
                    posterior = encoder(image)
                    # another shape of batch rounds otherwise
                    torch.testing.assert_close(shard[f"mean{suffix}"][row], posterior.mean[0].half())
                    torch.testing.assert_close(shard[f"logvar{suffix}"][row], posterior.logvar[0].half())
            seen[int(shard["index"][row])] = (dataset.path(record.first + row), int(shard["label"][row]))
    assert sorted(seen) == list(range(21))
    with safe_open(written / "latents-00000.safetensors", framework="pt") as file:
        paths = json.loads(file.metadata()[SHARD_HEADER])["paths"]
    assert paths == [path for _, (path, _) in sorted(seen.items()) if path in paths]
    assert {label: {path.rpartition("/")[0] for path, other in seen.values() if other == label} for label in (-1, 0, 1)}
    for path, label in seen.values():
        assert label == {"": -1, "cat": 0, "dog": 1}[path.rpartition("/")[0]]


def test_manifest_counts_hashes_and_describes(written, encoder_file):
    manifest = read_manifest(written)
    assert manifest.images == {"train": 17, "validation": 4}
    assert manifest.classes == ("cat", "dog")
    assert manifest.shape == (4, 2, 2)
    assert manifest.encoder["sha256"] == hashlib.sha256(encoder_file.read_bytes()).hexdigest()
    assert [shard.count for shard in manifest.shards] == [5, 5, 5, 2, 4]
    assert {shard.file: shard.sha256 for shard in manifest.shards} == {
        name: digest for name, digest in hashes(written).items() if name != "manifest.json"
    }


def test_statistics_are_those_of_the_stored_means_of_the_training_split(written):
    sums = LatentAccumulator(4)
    for record in read_manifest(written).shards:
        if record.split == "train":
            sums.update(load_file(written / record.file)["mean"])
    found, expected = read_manifest(written).statistics, sums.compute()
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.std, expected.std, rtol=1e-12, atol=1e-12)
    assert found.count == 17 * 4
    told = json.loads((written / "manifest.json").read_text())["statistics"]
    assert told == found.to_dict()


def test_mode_alone_without_copies(make_job, tmp_path):
    folder = write_latents(make_job(tmp_path, keep="mode", flipped=False, dtype="bfloat16"))
    shard = load_file(folder / "latents-00000.safetensors")
    assert set(shard) == {"mean", "label", "index"}
    assert shard["mean"].dtype == torch.bfloat16


def test_a_killed_pass_goes_on_to_the_same_bytes(written, make_job, tmp_path, monkeypatch):
    other = tmp_path / "other"
    save, job = latent_shards._save, make_job(other)

    def killed(job, shard, *rest):
        if shard.number == 2:
            (job.folder / ".latents-00002.abc.partial.safetensors").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        save(job, shard, *rest)

    monkeypatch.setattr(latent_shards, "_save", killed)
    if (child := os.fork()) == 0:
        write_latents(job)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert sorted(path.name for path in other.glob("[!.]*")) == [
        "latents-00000.safetensors",
        "latents-00001.safetensors",
    ]
    first = (other / "latents-00000.safetensors").stat()
    monkeypatch.setattr(latent_shards, "_save", save)
    write_latents(job)
    assert hashes(other) == hashes(written)
    assert (other / "latents-00000.safetensors").stat().st_mtime_ns == first.st_mtime_ns  # not made again


@pytest.mark.parametrize("changes", [{"im_size": 24}, {"keep": "mode"}, {"limit": 3}, {"shard_size": 4}])
def test_shards_of_other_parameters_are_made_again(written, make_job, tmp_path, changes):
    fresh = write_latents(make_job(tmp_path / "fresh", **changes))
    write_latents(make_job(written, **changes))
    assert hashes(written) == hashes(fresh)


def test_a_damaged_shard_is_made_again(written, make_job):
    before = hashes(written)
    (written / "latents-00001.safetensors").write_bytes(b"rubbish")
    write_latents(make_job(written))
    assert hashes(written) == before


def test_classes_keep_their_numbers_whatever_the_limit(make_job, tmp_path):
    assert read_manifest(write_latents(make_job(tmp_path, limit=1))).classes == ("cat", "dog")


@pytest.mark.slow
def test_two_processes_write_the_same_bytes_as_one(written, make_job, tmp_path):
    write_latents(make_job(tmp_path / "shared", processes=2))
    assert hashes(tmp_path / "shared") == hashes(written)


def test_unfinished_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a folder of latents"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": "ssdd-latents", "version": 99}')
    with pytest.raises(ValueError, match="version 99"):
        read_manifest(tmp_path)


@pytest.mark.slow
def test_two_processes_find_the_same_statistics_as_one(make_job, encoder_file, tmp_path):
    """17 images in batches of 2: the processes take 5 and 4 of them."""
    dataset = make_job(tmp_path).images[0].dataset
    one, two = (latent_statistics(encoder_file, dataset, 2, processes=n, progress=False) for n in (1, 2))
    assert two.to_dict() == one.to_dict()
