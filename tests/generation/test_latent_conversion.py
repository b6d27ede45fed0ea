"""Converted latents, read as the trainers read them."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open

from ssdd.commands.group import cli
from ssdd.generation.latent_conversion import convert
from ssdd.generation.latent_dataset import LatentDataset
from ssdd.generation.latent_shards import write_latents


@pytest.fixture
def folder(make_job, tmp_path):
    return write_latents(make_job(tmp_path / "latents", all_have_a_class=True))


def ssdd(*arguments):
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    return done.exit_code, " ".join(done.output.split())


def test_fast_dit_reads_features_and_labels(folder, tmp_path):
    status, said = ssdd("convert-latents", folder, "-o", tmp_path / "out", "--to", "dit")
    assert (status, said.endswith("out: 16 images")) == (0, True), said
    features, labels = (tmp_path / "out" / f"imagenet256_{kind}" for kind in ("features", "labels"))
    names, dataset = sorted(path.name for path in features.iterdir()), LatentDataset(folder)
    assert names == sorted(path.name for path in labels.iterdir()) == sorted(f"{n}.npy" for n in range(len(dataset)))
    for name in names:
        item = dataset[int(name.removesuffix(".npy"))]
        x, y = torch.from_numpy(np.load(features / name)), torch.from_numpy(np.load(labels / name))
        assert torch.equal(x[0], item["z"])
        assert y.tolist() == [item["label"]]
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)


def test_lightningdit_reads_files_and_statistics(folder, tmp_path):
    status, said = ssdd("convert-latents", folder, "-o", tmp_path / "out", "--to", "lightningdit")
    assert status == 0, said
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    statistics = torch.load(tmp_path / "out/latents_stats.pt", weights_only=True)
    with safe_open(files[0], framework="pt") as file:
        latents, flipped, labels = (file.get_tensor(name) for name in ("latents", "latents_flip", "labels"))
    plain, mirrored = LatentDataset(folder), LatentDataset(folder, flip="all")
    z = (latents - statistics["mean"]) / statistics["std"]
    torch.testing.assert_close(z, torch.stack([item["z"] for item in map(plain.__getitem__, range(16))]))
    z = (flipped - statistics["mean"]) / statistics["std"]
    torch.testing.assert_close(z, torch.stack([item["z"] for item in map(mirrored.__getitem__, range(16))]))
    assert not torch.equal(latents, flipped)
    assert labels.tolist() == [plain[number]["label"] for number in range(16)]


def test_many_files_hold_every_image_once(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("ssdd.generation.latent_conversion.IMAGES_PER_FILE", 6)
    dataset = LatentDataset(folder, normalize=False)
    convert(dataset, tmp_path / "out", "lightningdit", dataset, progress=False)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    parts = [safe_open(file, framework="pt").get_tensor("latents") for file in files]
    assert [len(part) for part in parts] == [6, 6, 4]
    assert torch.equal(torch.cat(parts), torch.stack([dataset[number]["z"] for number in range(len(dataset))]))


def test_a_failure_leaves_nothing(folder, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError("the disk is full")

    monkeypatch.setattr("ssdd.generation.latent_conversion.torch.save", full)
    status, said = ssdd("convert-latents", folder, "-o", tmp_path / "new/out", "--to", "lightningdit")
    assert (status, "the disk is full" in said) == (1, True)
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--to", "lightningdit"], "expected mirrored copies"),
        (["--to", "dit", "--latent", "sample"], "expected logvar"),
        (["--to", "dit", "--split", "test"], "expected latents of the split 'test'"),
        (["--to", "dit"], "expected a class for each image"),
    ],
)
def test_what_cannot_be_converted_is_refused(make_job, tmp_path, options, said):
    bare = write_latents(make_job(tmp_path / "bare", flipped=False, keep="mode"))
    status, output = ssdd("convert-latents", bare, "-o", tmp_path / "out", *options)
    assert (status, said in output) == (1, True), output
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(folder):
    assert "choose another" in ssdd("convert-latents", folder, "-o", folder, "--to", "dit")[1]
