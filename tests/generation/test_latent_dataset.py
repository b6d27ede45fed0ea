"""The data set over shards of latents: order, draws, normalisation, and the engine's sampler."""

import pickle

import pytest
import torch
from safetensors.torch import load_file

from ssdd.data.step_sampler import StepSampler
from ssdd.generation import latent_dataset
from ssdd.generation.latent_dataset import LatentDataset
from ssdd.generation.latent_manifest import read_manifest
from ssdd.generation.latent_shards import write_latents
from ssdd.training.batches import run_batches


@pytest.fixture(scope="session")
def shards(encoder_file, photos, tmp_path_factory):
    return tmp_path_factory.mktemp("shards")


@pytest.fixture
def folder(shards, make_job):
    return shards if (shards / "manifest.json").is_file() else write_latents(make_job(shards))


def stored(folder, name, split="train"):
    records = [shard for shard in read_manifest(folder).shards if shard.split == split]
    return torch.cat([load_file(folder / record.file)[name] for record in records])


def test_items_are_the_images_of_the_split_in_order(folder):
    for split in ("train", "validation"):
        dataset = LatentDataset(folder, split, normalize=False)
        means, labels = stored(folder, "mean", split), stored(folder, "label", split)
        assert len(dataset) == len(means)
        for number in range(len(dataset)):
            item = dataset[number]
            assert torch.equal(item["z"], means[number].float())
            assert (item["label"], item["index"]) == (int(labels[number]), number)
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_normalised_latents_have_mean_0_and_deviation_1(folder):
    dataset = LatentDataset(folder)
    z = torch.stack([dataset[number]["z"] for number in range(len(dataset))])
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.transpose(0, 1).flatten(1).std(1), torch.ones(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(dataset.denormalize(z), stored(folder, "mean").float(), atol=1e-5, rtol=1e-5)


def test_samples_follow_from_seed_epoch_and_index(folder):
    dataset = LatentDataset(folder, latent="sample", normalize=False)
    again, other = (LatentDataset(folder, latent="sample", normalize=False, seed=seed) for seed in (0, 1))
    assert torch.equal(dataset[3, 5]["z"], again[3, 5]["z"])
    for different in (dataset[4, 5], other[3, 5], dataset[3, 6]):
        assert not torch.equal(dataset[3, 5]["z"], different["z"])
    draws = torch.stack([dataset[epoch, 5]["z"] for epoch in range(2000)])
    mean, std = stored(folder, "mean")[5].float(), (0.5 * stored(folder, "logvar")[5].float()).exp()
    assert ((draws.mean(0) - mean).abs() < 5 * std / 2000**0.5).all()
    torch.testing.assert_close(draws.std(0), std, rtol=0.1, atol=0)


def test_half_of_the_images_are_mirrored(folder):
    dataset = LatentDataset(folder, flip=True, normalize=False)
    plain, mirrored = stored(folder, "mean")[5].float(), stored(folder, "mean_flipped")[5].float()
    flips = [torch.equal(dataset[epoch, 5]["z"], mirrored) for epoch in range(200)]
    assert 60 < sum(flips) < 140
    assert all(torch.equal(dataset[epoch, 5]["z"], plain) for epoch, flip in enumerate(flips) if not flip)


def test_what_the_shards_lack_is_refused(folder, make_job, tmp_path):
    bare = write_latents(make_job(tmp_path, keep="mode", flipped=False))
    with pytest.raises(ValueError, match="keep=posterior"):
        LatentDataset(bare, latent="sample")
    with pytest.raises(ValueError, match="flipped=true"):
        LatentDataset(bare, flip=True)
    with pytest.raises(ValueError, match="split 'test'"):
        LatentDataset(folder, "test")
    (bare / "latents-00001.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacking \['latents-00001.safetensors'\]"):
        LatentDataset(bare)


def test_few_mapped_shards_give_the_same_latents(folder, monkeypatch):
    dataset = LatentDataset(folder)
    expected = [dataset[number]["z"] for number in range(len(dataset))]
    monkeypatch.setattr(latent_dataset, "MAPPED_SHARDS", 1)
    few = pickle.loads(pickle.dumps(dataset))
    for number in (16, 0, 7, 1, 12, 3):
        assert torch.equal(few[number]["z"], expected[number])
    assert len(few._mapped) == 1


def test_names_of_the_images(folder):
    dataset = LatentDataset(folder, "validation")
    assert len({dataset.path(number) for number in range(len(dataset))}) == 4
    assert all(dataset.path(number).endswith(".png") for number in range(len(dataset)))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_engines_batches_go_on_from_any_step(folder, workers):
    dataset = LatentDataset(folder, latent="sample", flip=True)
    whole = list(run_batches(dataset, StepSampler(17, 4, seed=3), 0, 12, workers=0))
    rest = list(run_batches(dataset, StepSampler(17, 4, seed=3), 7, 12, workers=workers))
    assert len(whole) == 12
    assert len(rest) == 5
    for expected, found in zip(whole[7:], rest, strict=True):
        assert expected["index"].tolist() == found["index"].tolist()
        assert torch.equal(expected["z"], found["z"])
        assert torch.equal(expected["label"], found["label"])
