import gc
import tracemalloc

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pytest
import torch
from PIL import Image

from ssdd.data import (
    EmbeddedSample,
    EvalTransform,
    ImageDataset,
    ImageFolder,
    StepSampler,
    TrainTransform,
    close_loader,
    index_images,
    make_loader,
)


@pytest.fixture
def training_set(image_folder):
    source = ImageFolder(image_folder)
    index = index_images(source, progress=False, held_out=0).index
    return ImageDataset(index, source, TrainTransform(im_size=16, aug_scale=1.5, seed=5))


def same(first: list[dict], second: list[dict]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a["image"], b["image"]) and torch.equal(a["index"], b["index"]) and a["path"] == b["path"]
        for a, b in zip(first, second, strict=True)
    )


def two_epochs(dataset: ImageDataset, workers: int, **options: int) -> list[dict]:
    sampler = StepSampler(len(dataset), 4, seed=1, **options)
    loader = make_loader(dataset, sampler, workers=workers)
    batches = []
    try:
        for epoch in range(2):
            sampler.set_position(epoch)
            batches += list(loader)
    finally:
        close_loader(loader)
    return batches


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_do_not_depend_on_the_number_of_workers(training_set, workers):
    expected = two_epochs(training_set, 0)
    assert len(expected) == 2 * (23 // 4)
    assert expected[0]["image"].shape == (4, 3, 16, 16)
    assert expected[0]["index"].dtype == torch.int64
    assert same(two_epochs(training_set, workers), expected)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_resuming_in_the_middle_of_an_epoch_continues_exactly(training_set, workers):
    expected = two_epochs(training_set, 0)[5 + 2 :]
    sampler = StepSampler(len(training_set), 4, seed=1)
    sampler.set_position(1, 2)
    loader = make_loader(training_set, sampler, workers=workers)
    assert len(loader) == 3
    assert same(list(loader), expected)


def test_two_ranks_together_have_the_batches_of_one_process(training_set):
    alone = two_epochs(training_set, 0)
    ranks = [two_epochs(training_set, 0, rank=rank, world_size=2) for rank in range(2)]
    joined = [
        {key: torch.cat([a[key], b[key]]) if key != "path" else a[key] + b[key] for key in a}
        for a, b in zip(*ranks, strict=True)
    ]
    assert same(joined, alone)


def test_an_image_looks_different_in_every_epoch_but_not_in_evaluation(training_set):
    assert not torch.equal(training_set[(0, 3)]["image"], training_set[(1, 3)]["image"])
    assert torch.equal(training_set[3]["image"], training_set[(0, 3)]["image"])
    training_set.transform = EvalTransform(im_size=16)
    assert torch.equal(training_set[(0, 3)]["image"], training_set[(1, 3)]["image"])


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_leaves_the_global_random_state_alone(training_set, workers):
    torch.manual_seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    two_epochs(training_set, workers)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["gone", "cut", "resized"])
def test_a_file_damaged_after_prepare_is_named(training_set, image_folder, workers, damage):
    victim = image_folder / "b" / "07.png"
    if damage == "gone":
        victim.unlink()
    elif damage == "cut":
        victim.write_bytes(victim.read_bytes()[:-40])
    else:
        Image.new("RGB", (99, 99)).save(victim)
    with pytest.raises(ValueError, match=r"cannot use image 'b/07\.png' of ImageFolder"):
        two_epochs(training_set, workers)


def test_closing_ends_the_workers_and_the_loader_can_be_used_again(training_set):
    before = set(psutil.Process().children())
    loader = make_loader(training_set, StepSampler(23, 4), workers=2)
    first = list(loader)
    workers = set(psutil.Process().children()) - before
    assert len(workers) == 2
    assert same(list(loader), first)
    assert set(psutil.Process().children()) - before == workers  # kept from epoch to epoch
    close_loader(loader)
    assert not any(worker.is_running() for worker in workers)
    assert same(list(loader), first)
    close_loader(loader)
    close_loader(make_loader(training_set, StepSampler(23, 4)))


def test_missing_rows_and_misfitting_samplers(training_set):
    for index in (-1, 23):
        with pytest.raises(IndexError):
            training_set[index]
    with pytest.raises(ValueError, match="23 images"):
        make_loader(training_set, StepSampler(22, 4))
    with pytest.raises(ValueError, match="workers"):
        make_loader(training_set, StepSampler(23, 4), workers=-1)


def test_dataset_takes_one_split_and_a_limit(image_folder):
    source = ImageFolder(image_folder)
    index = index_images(source, progress=False, held_out=0.3).index
    transform = EvalTransform(im_size=8)
    sets = {split: ImageDataset(index, source, transform, split=split) for split in ("train", "validation")}
    paths = {split: {part.path(i) for i in range(len(part))} for split, part in sets.items()}
    assert not paths["train"] & paths["validation"]
    assert len(paths["train"] | paths["validation"]) == 23
    limited = ImageDataset(index, source, transform, split="train", limit=5)
    assert {limited.path(i) for i in range(len(limited))} < paths["train"]
    assert len(limited) == 5


def test_evaluation_loader_covers_each_image_once_over_ranks(training_set):
    seen = []
    for rank in range(3):
        sampler = StepSampler(23, 11, shuffle=False, drop_last=False, rank=rank, world_size=3)
        seen += [path for batch in make_loader(training_set, sampler) for path in batch["path"]]
    assert sorted(seen) == sorted(training_set.path(i) for i in range(23))


def test_embedded_sample_loads_through_workers():
    source = EmbeddedSample(train_images=24, validation_images=4, canvases=1)
    dataset = ImageDataset(
        index_images(source, progress=False).index, source, TrainTransform(im_size=32), split="train"
    )
    assert same(two_epochs(dataset, 2), two_epochs(dataset, 0))


def test_memory_does_not_grow_with_the_images_read(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(30):  # 30 x 3 MB decoded
        Image.fromarray(rng.integers(0, 256, (1000, 1000, 3), dtype=np.uint8)).save(tmp_path / f"{i}.bmp")
    source = ImageFolder(tmp_path)
    index = index_images(source, progress=False, held_out=0).index
    dataset = ImageDataset(index, source, EvalTransform(im_size=16))

    def resident() -> int:
        gc.collect()
        return psutil.Process().memory_info().rss

    for i in range(5):
        dataset[i]
    before = resident()
    for i in range(30):
        dataset[i]
    assert resident() - before < 15e6


class Unread(ImageFolder):
    """A source whose pictures are all the same, so that any number of them costs no time."""

    picture = Image.new("RGB", (16, 16))

    def open(self, path):
        return self.picture


def test_memory_does_not_grow_with_the_length_of_the_data_set(tmp_path):
    def held(length: int) -> tuple[int, int]:
        """Bytes held by a data set and its sampler within an epoch, and those of the index."""
        names = [f"class-{i % 1000:04d}/image-{i:08d}.jpeg" for i in range(length)]
        hashes = [f"{i:064x}" for i in range(length)]
        columns = {"path": names, "split": "train", "width": 16, "height": 16, "bytes": 9, "sha256": hashes}
        index = pd.DataFrame(columns)
        gc.collect()
        tracemalloc.start()
        before = pa.total_allocated_bytes()
        dataset = ImageDataset(index, Unread(tmp_path), EvalTransform(im_size=16), split="train")
        sampler = StepSampler(length, 8, seed=0)
        sampler.set_position(3, sampler.steps_per_epoch - 5)
        assert len([batch for batch in make_loader(dataset, sampler)]) == 5
        gc.collect()
        found = tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes() - before
        tracemalloc.stop()
        return found, int(index.memory_usage(deep=True).sum())

    held(1000)  # what is made once
    (short, _), (long, index) = held(10_000), held(50_000)
    row = (long - short) / 40_000
    assert row < 80  # 30 of the name, 4 of its place, 8 of the order; the sizes here are the index's own
    assert row < 0.5 * index / 50_000
    assert short - 10_000 * row < 1e6
