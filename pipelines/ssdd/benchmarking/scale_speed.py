"""Images per second of loading, of training steps, and of both, with one rank and with several."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ssdd.benchmark_parameters import ScaleSweep
from ssdd.benchmarking.loader_speed import HEIGHT, WIDTH, write_photographs
from ssdd.data.image_dataset import ImageDataset
from ssdd.data.image_index import index_images
from ssdd.data.image_sets import open_source
from ssdd.data.loader import close_loader, make_loader
from ssdd.data.step_sampler import StepSampler
from ssdd.data.transforms import TrainTransform
from ssdd.parameters import EmaConfig, LossWeights, RuntimeConfig, StageParameters
from ssdd.training.history import read_rows
from ssdd.training.jobs import TrainingJob, run_job

PICTURES = 32  # files; more would only wait longer for the same work
WARM_UP = 2  # steps that allocate and choose algorithms

Row = dict[str, Any]


class InMemory(Dataset[Any]):
    """The same images, loaded once and kept: what is left is the training step.

    Args:
        images: of any number; all are loaded now.
    """

    def __init__(self, images: ImageDataset) -> None:
        self._examples = [images[0, index] for index in range(len(images))]

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, key: Any) -> Any:
        _, index = key
        return self._examples[index] | {"index": index}


def measure_scale(sweep: ScaleSweep, runtime: RuntimeConfig) -> list[Row]:
    """Returns a row for loading alone and, for each number of ranks, for steps alone and for loading and steps.

    Each rank has `sweep.batch_size` images in a step. `data_seconds` of a step is the time in which rank 0 waits for
    its batch.

    Args:
        sweep: networks and sizes.
        runtime: the device.
    """
    with tempfile.TemporaryDirectory(prefix="ssdd-scale-") as folder:
        images = _pictures(Path(folder) / "images", sweep)
        rows = [loading_rate(images, sweep)]
        kept = InMemory(images)
        for ranks in sweep.ranks:
            for what, data in (("steps", kept), ("loading and steps", images)):
                place = Path(folder) / f"{what}-{ranks}"
                rows.append(_train(what, sweep, runtime, data, ranks, place))
    return rows


def loading_rate(images: ImageDataset, sweep: ScaleSweep) -> Row:
    """Returns the row of loading alone, in one process with `sweep.workers` workers."""
    sampler = StepSampler(len(images), sweep.batch_size, seed=0)
    loader, times = make_loader(images, sampler, workers=sweep.workers), []
    began = time.perf_counter()
    for epoch in range(_epochs(sweep, ranks=1)):
        sampler.set_position(epoch, 0)
        for _ in loader:
            times.append(time.perf_counter() - began)
            began = time.perf_counter()
    close_loader(loader)
    # The mean: workers hand over several batches at a time, and then none for a while.
    seconds = statistics.mean(times[WARM_UP:])
    return _row("loading", 1, sweep, seconds, seconds)


def _train(what: str, sweep: ScaleSweep, runtime: RuntimeConfig, data: Any, ranks: int, folder: Path) -> Row:
    """Trains for a few steps with the loop of all stages, and returns the mean of the steps."""
    stage = StageParameters(
        epochs=_epochs(sweep, ranks),
        batch_size=sweep.batch_size * ranks,
        precision=sweep.precision,
        im_size=sweep.pixels,
        log_every=1,
        ema=EmaConfig(start_step=0),
        # without pretrained networks, which a benchmark must not need
        loss=LossWeights(perceptual="msgrad", repa=0),
        eval_metrics=("psnr",),
    )
    changes: Row = {"processes": ranks, "workers": sweep.workers, "threads": None}
    changes |= {"save_every": 2**30, "trackers": (), "progress": "none"}
    job = TrainingJob(
        kind="autoencoder",
        images=data,
        folder=folder,
        fingerprint="scale",
        encoder=sweep.encoder,
        decoder=sweep.size,
        stage=stage,
        runtime=runtime.model_copy(update=changes),
    )
    rows = read_rows(run_job(job).timings)[WARM_UP:]
    seconds, data_seconds = (statistics.mean(row[name] for row in rows) for name in ("seconds", "data_seconds"))
    return _row(what, ranks, sweep, seconds, data_seconds)


def _row(what: str, ranks: int, sweep: ScaleSweep, seconds: float, data_seconds: float) -> Row:
    return {
        "what": what,
        "ranks": ranks,
        "workers": sweep.workers,
        "size": sweep.size,
        "pixels": sweep.pixels,
        "batch": sweep.batch_size * ranks,
        "seconds": seconds,
        "data_seconds": data_seconds,
        "images_per_second": sweep.batch_size * ranks / seconds,
    }


def _epochs(sweep: ScaleSweep, ranks: int) -> int:
    """The epochs that hold the wanted steps after the first ones."""
    per_epoch = max(_count(sweep) // (sweep.batch_size * ranks), 1)
    return -(-(sweep.steps + WARM_UP) // per_epoch)


def _count(sweep: ScaleSweep) -> int:
    """The images: a whole number of the largest batches."""
    largest = sweep.batch_size * max(sweep.ranks)
    return largest * -(-PICTURES // largest)


def _pictures(folder: Path, sweep: ScaleSweep) -> ImageDataset:
    source = open_source("folder", str(write_photographs(folder, _count(sweep))))
    index = index_images(source, held_out=0, progress=False).index
    return ImageDataset(index, source, TrainTransform(im_size=sweep.pixels, aug_scale=sweep.aug_scale), split="train")


def scale_page(machine: dict[str, Any], rows: Any) -> str:
    """Writes the table of all rows as one Markdown page.

    Args:
        machine: from `describe_machine`.
        rows: table of `measure_scale`.
    """
    titles = ["what", "ranks", "workers", "size", "pixels", "batch", "s", "waiting for data", "images/s"]
    lines = [
        f"Machine: {machine['device']}, {machine['cores']} cores, torch {machine['torch']}.",
        f"Pictures of {WIDTH} x {HEIGHT} pixels, JPEG. Seconds of one step, the mean of several.",
        "",
        f"| {' | '.join(titles)} |",
        f"| {' | '.join('---' for _ in titles)} |",
    ]
    for row in rows.to_dict("records"):
        names = ("what", "ranks", "workers", "size", "pixels", "batch")
        share = f"{100 * row['data_seconds'] / row['seconds']:.0f} %"
        cells = [*(str(row[name]) for name in names), f"{row['seconds']:.3f}", share, f"{row['images_per_second']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])
