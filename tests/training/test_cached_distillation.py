"""A student that learns from cached targets is as good as one whose teacher computes for each batch."""

import dataclasses

import pytest

from ssdd.data import EvalTransform, ImageDataset, TrainTransform, index_images, open_source
from ssdd.parameters import EmaConfig, LossWeights, OptimConfig, RuntimeConfig, StageParameters, TargetParameters
from ssdd.training.history import read_rows
from ssdd.training.jobs import TrainingJob, cache_targets, run_job

STAGE = StageParameters(
    epochs=2,
    batch_size=8,
    precision="no",
    eval_every=2,
    best_metric="psnr",
    best_is="highest",
    eval_metrics=("psnr", "ssim_gaussian"),
    eval_steps=8,
    optim=OptimConfig(lr=0.01),
    ema=EmaConfig(start_step=0),
    loss=LossWeights(perceptual="msgrad", repa=0),
)


@pytest.mark.slow
def test_cached_targets_teach_as_well_as_a_live_teacher(tmp_path):
    """The quickstart's networks and photographs, held-out ones for the figures; smaller and shorter."""
    source = open_source("sample", train_images=384, validation_images=32)
    index = index_images(source, progress=False).index
    images = ImageDataset(index, source, TrainTransform(im_size=32), split="train")
    first = TrainingJob(
        kind="autoencoder",
        images=images,
        validation=ImageDataset(index, source, EvalTransform(im_size=32), split="validation"),
        encoder="quickstart",
        decoder="quickstart",
        stage=STAGE,
        runtime=RuntimeConfig(device="cpu", workers=0, trackers=(), progress=False),
        folder=tmp_path / "teacher",
        fingerprint="f",
    )
    cached = dataclasses.replace(
        first,
        kind="distillation",
        images=ImageDataset(index, source, TrainTransform(im_size=32), split="train", limit=96),
        encoder=None,
        decoder=None,
        checkpoint=run_job(first).last,
        stage=STAGE.model_copy(update={"optim": OptimConfig(lr=0.002), "eval_steps": 1}),
        targets=TargetParameters(teacher_steps=4, cached=True, shard_size=32),
        targets_folder=tmp_path / "targets",
        targets_fingerprint="t",
        folder=tmp_path / "cached",
    )
    cache_targets(cached)
    live = dataclasses.replace(cached, folder=tmp_path / "live", targets=TargetParameters(teacher_steps=4))
    idle = STAGE.model_copy(update={"optim": OptimConfig(lr=1e-9), "eval_steps": 1})
    before = dataclasses.replace(cached, folder=tmp_path / "idle", stage=idle)
    found = {}
    for name, job in {"before": before, "cached": cached, "live": live}.items():
        found[name] = next(row for row in read_rows(run_job(job).history) if row["split"] == "eval")
    for name in ("cached", "live"):
        assert found[name]["psnr"] > found["before"]["psnr"] + 0.5, found
    assert found["cached"]["psnr"] == pytest.approx(found["live"]["psnr"], abs=0.2), found
    assert found["cached"]["ssim_gaussian"] == pytest.approx(found["live"]["ssim_gaussian"], abs=0.02), found
