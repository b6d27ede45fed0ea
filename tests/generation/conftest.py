"""A folder of small images in two classes, and a tiny encoder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssdd.data.image_folders import ImageFolder
from ssdd.data.image_index import index_images
from ssdd.generation.latent_images import images_of
from ssdd.generation.latent_shards import LatentJob
from ssdd.generation_parameters import LatentsParameters
from ssdd.parameters import RuntimeConfig
from ssdd_encoder import Encoder, encoder_config

QUIET = RuntimeConfig(device="cpu", threads=1, trackers=(), progress=False, workers=0)


def paint(folder: Path, count: int, side: int = 20) -> Path:
    """Writes `count` pictures: `cat/` and `dog/` in turn, and the last one outside of both."""
    rng = np.random.default_rng(0)
    for number in range(count):
        place = folder / ("cat", "dog")[number % 2] if number < count - 1 else folder
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (side, side + number % 3, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="session")
def encoder_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small encoder f4c4 with random weights."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    Encoder(encoder_config("debug")).save_pretrained(file)
    return file


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """21 pictures."""
    return paint(tmp_path_factory.mktemp("photos"), 21)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """20 pictures, each in the folder of a class."""
    folder = paint(tmp_path / "classes", 21)
    (folder / "020.png").unlink()
    return folder


@pytest.fixture
def make_job(encoder_file: Path, photos: Path):
    """Makes a job of small shards, with any parameter changed."""
    source = ImageFolder(photos)
    index = index_images(source, held_out=0.2, progress=False).index

    def make(folder: Path, processes: int = 1, all_have_a_class: bool = False, **changes) -> LatentJob:
        parameters = LatentsParameters(**{"im_size": 16, "batch_size": 2, "shard_size": 5, "flipped": True, **changes})
        return LatentJob(
            encoder=encoder_file,
            images=images_of(
                index[index["path"].str.contains("/")] if all_have_a_class else index,
                source,
                parameters.im_size,
                parameters.limit,
            ),
            parameters=parameters,
            folder=folder,
            runtime=QUIET.model_copy(update={"processes": processes}),
        )

    return make
