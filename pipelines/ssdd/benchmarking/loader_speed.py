"""Images per second of the loader alone: reading, decoding, cropping and batching, without a network."""

import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import ImageOps

from ssdd.data.embedded_sample import HELD_OUT_PHOTOGRAPHS, OWN_PHOTOGRAPHS, canvas
from ssdd.data.image_index import index_images
from ssdd.data.image_sets import open_source, training_images
from ssdd.data.loader import close_loader, make_loader
from ssdd.data.packing import pack
from ssdd.data.step_sampler import StepSampler
from ssdd.pack_parameters import PackParameters
from ssdd.parameters import DataParameters, StageParameters
from ssdd.progress import Show, bar

SIDES = (
    ("folder", "exact", None),
    ("folder", "fast", None),
    ("tar", "exact", "jpeg"),
    ("tar", "fast", "jpeg"),
    ("tar", "exact", "raw"),
    ("tar", "fast", "raw"),
)
"""Source, decoding, and the form of images that are packed (see `PackParameters`), with a short side of `PACKED`."""

WIDTH, HEIGHT = 500, 375  # of a usual image of ImageNet
PACKED = 256


def loader_rate(
    *,
    im_size: int = 128,
    aug_scale: float = 2.0,
    images: int = 128,
    workers: int = 0,
    rounds: int = 3,
    show: Show = True,
) -> list[dict[str, Any]]:
    """Measures the loader on JPEGs of 500 x 375 pixels, made of the sample's photographs.

    Args:
        im_size: side of the crops, pixels.
        aug_scale: the crops are from up to this times `im_size`.
        images: in one pass.
        workers: loader processes; 0 for this one.
        rounds: passes over the images, of which the fastest counts: other programs only slow it down.
        show: the display of the progress.

    Returns:
        a row for each side: source, decoding, packed, workers, images_per_second, and per_core of that.
    """
    stage = StageParameters(im_size=im_size, aug_scale=aug_scale, batch_size=32)
    rows = []
    with tempfile.TemporaryDirectory() as folder, bar("loader", len(SIDES) * rounds, show, "rounds") as advance:
        photographs = write_photographs(Path(folder) / "photographs", images)
        originals = index_images(open_source("folder", str(photographs)), held_out=0, progress=False).index
        for kind, decoding, packed in SIDES:
            root, index = photographs, originals
            if packed is not None:
                root = Path(folder) / packed
                form = PackParameters.model_validate({"side": PACKED, "stored_as": packed})
                pack(originals, open_source("folder", str(photographs)), form, root)
                index = index_images(open_source("tar", str(root)), held_out=0, progress=False).index
            data = DataParameters.model_validate({"kind": kind, "root": str(root), "decoding": decoding})
            times = []
            for epoch in range(rounds):
                times.append(_pass(index, data, stage, workers, epoch))
                advance(1)
            counted = images // stage.batch_size * stage.batch_size
            seconds, of_core = (min(column) for column in zip(*times, strict=True))
            rows.append(
                {
                    "source": kind,
                    "decoding": decoding,
                    "packed": packed or "no",
                    "workers": workers,
                    "images_per_second": counted / seconds,
                    # Without workers, the processor's time: other programs on a shared machine do not count.
                    "per_core": counted / (seconds * workers if workers else of_core),
                }
            )
    return rows


def write_photographs(folder: Path, count: int) -> Path:
    """Writes JPEGs of 500 x 375 pixels and of different content, cut from the sample's photographs."""
    folder.mkdir(parents=True)
    names = HELD_OUT_PHOTOGRAPHS + OWN_PHOTOGRAPHS
    for number in range(count):
        left = number // len(names) % 8 / 7  # another cut of the same photograph
        picture = ImageOps.fit(canvas(names[number % len(names)]), (WIDTH, HEIGHT), centering=(left, 0.5))
        picture.save(folder / f"{number:06d}.jpg", quality=90)
    return folder


def _pass(
    index: pd.DataFrame, data: DataParameters, stage: StageParameters, workers: int, epoch: int
) -> tuple[float, float]:
    """Returns the seconds of one epoch, once the workers have started, and those of this process's core."""
    dataset = training_images(index, data, stage)
    sampler = StepSampler(len(dataset), stage.batch_size)
    loader = make_loader(dataset, sampler, workers=workers)
    sampler.set_position(0, sampler.steps_per_epoch - 1)
    list(loader)  # starts the workers
    sampler.set_position(epoch)
    began, of_core = time.perf_counter(), time.process_time()
    for _ in loader:
        pass
    seconds, of_core = time.perf_counter() - began, time.process_time() - of_core
    close_loader(loader)
    return seconds, of_core
