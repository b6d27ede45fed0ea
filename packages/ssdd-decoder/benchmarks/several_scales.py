"""Decoding at two scales, half and full, against full scale alone: quality over time.

Run, after the quickstart: `python packages/ssdd-decoder/benchmarks/several_scales.py data/quickstart`. It keeps its
networks in a folder beside the run, and goes on there. Its results stand in `docs/performance.md`.

A network of half scale learns images of half the side, with latent cells of half as many pixels. A network of details
goes on at full scale from t = SWITCH, where it starts with such an image, enlarged and noisy. In its path, details fade
from t = 0 to SWITCH, and all else from t = 0 to 1. Students learn the run's cached teacher targets.
"""

# B batch, C latent channels, H W pixels

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pandas
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ssdd.autoencoder import SSDD
from ssdd.data.image_sets import held_out_images, training_images
from ssdd.data.loader import batches
from ssdd.evaluation.passes import image_noise
from ssdd.parameters import DataParameters, RuntimeConfig, StageParameters
from ssdd.training.interface import StepLosses, TrainingStep
from ssdd.training.loop import train
from ssdd.training.loss_networks import LossNetworks
from ssdd.training.loss_terms import Estimate
from ssdd.training.steps import AutoencoderStep
from ssdd.training.teacher_targets import CachedTargets
from ssdd.upscaling import enlarge
from ssdd_decoder import Decoder, DecoderConfig, decoder_config
from ssdd_decoder.flow import euler_step, interpolate, predict_clean
from ssdd_decoder.losses import flow_matching_loss, multiscale_gradient_loss, patch_border_loss
from ssdd_decoder.refinement import Refinement
from ssdd_decoder.sampler import euler_sample
from ssdd_decoder.times import sampling_grid, training_times
from ssdd_metrics import MetricSuite

SWITCH = 0.5  # time at which full scale takes over
METRICS = ("psnr", "ssim_gaussian", "gradient_energy_ratio", "swd", "efficientnet_distance", "frechet_efficientnet")
CONFIG = decoder_config("quickstart")


@dataclass(frozen=True)
class Network:
    """A network and its training by flow matching.

    Args:
        config: its shape.
        scale: what it learns.
        epochs: of the run's training images.
        from_teacher: start from the run's teacher, not from random weights.
    """

    config: DecoderConfig
    scale: Literal["half", "details", "full"]
    epochs: int
    from_teacher: bool


NETWORKS = {
    "half": Network(replace(CONFIG, downscale=CONFIG.downscale // 2), "half", 2, True),
    "details": Network(CONFIG, "details", 1, True),
    "narrow": Network(replace(CONFIG, base_channels=16, refinement_channels=8), "full", 4, False),
    "patch 8": Network(replace(CONFIG, patch_size=8), "full", 4, False),
}
RUNTIME = RuntimeConfig(device="cpu", threads=1, workers=0, trackers=(), progress="none", save_every=128)

Decode = Callable[[Tensor, Tensor], Tensor]
"""Latents (B, C, h, w) and noise (B, 3, H, W) -> images (B, 3, H, W)."""


def halve(x: Tensor) -> Tensor:
    """Images (B, 3, H, W) at half scale."""
    return F.avg_pool2d(x, 2)


def half_noise(noise: Tensor) -> Tensor:
    """Noise (B, 3, H, W) at half scale, with deviation 1 again: a mean of four has half of it."""
    return 2 * halve(noise)


class FlowStep(AutoencoderStep):
    """Flow matching of one network, as the quickstart's stages but at its own scale; see `DecoderStep`."""

    scale = "full"

    def forward(self, batch: dict[str, Any], step: int) -> StepLosses:
        """Losses of `image` (B, 3, H, W) and `index` (B,)."""
        x = batch["image"]
        with torch.no_grad():
            posterior = self.encoder(x, check_finite=False)
            z = posterior.sample(noise=self.noise("posterior", step, batch, posterior.mean.shape[1:]))
        eps = self.image_noise(step, batch)
        t = training_times(self.noise("time", step, batch, ()), self.stage.times.mean, self.stage.times.std)
        if self.scale == "half":
            x, eps = halve(x), half_noise(eps)
        elif self.scale == "details":
            # x_t = (1 - t / s) x + (t / s) ((1 - s) enlarged + s eps), s = SWITCH, written with another noise.
            t, eps = SWITCH * t, eps + (1 / SWITCH - 1) * (enlarge(halve(x), 2) - x)
        x_t = interpolate(x, eps, t)
        velocity = self.decoder.predict(x_t, t, self.decoder.condition(z)).velocity
        image = predict_clean(x_t, velocity, t)
        flow = flow_matching_loss(velocity, x, eps)
        return self.finish(Estimate(flow=flow, target=x, image=image, tokens=None, real=x, x_t=x_t, t=t, step=step))


class Student(nn.Module):
    """A student.

    Args:
        first: called once; at half scale, if there is a second part.
        second: goes on at full scale: another call, or a few convolutions.
    """

    def __init__(self, first: Decoder, second: Decoder | Refinement | None = None) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, z: Tensor, noise: Tensor) -> list[Tensor]:
        """The image (B, 3, H, W), and before it the one of half scale, if there is one."""
        if self.second is None:
            return [one_step(self.first, z, noise, 1.0)]
        small = one_step(self.first, z, half_noise(noise), 1.0)
        enlarged = enlarge(small, 2)
        if isinstance(self.second, Refinement):
            return [small, self.second(enlarged, noise)]
        start = interpolate(enlarged, noise, noise.new_tensor([SWITCH]))
        return [small, one_step(self.second, z, start, SWITCH)]

    def decode(self, z: Tensor, noise: Tensor) -> Tensor:
        """The image (B, 3, H, W) alone."""
        return self(z, noise)[-1]


class StudentStep(TrainingStep):
    """The losses of the quickstart's distillation, at every scale that the student puts out."""

    exported = ("student",)

    def __init__(self, student: Student, stage: StageParameters) -> None:
        super().__init__()
        self.student, self.patch, self.weights = student, student.first.config.patch_size, stage.loss

    def forward(self, batch: dict[str, Any], step: int) -> StepLosses:
        """Losses of `z`, `noise` and `target`."""
        losses = StepLosses(torch.zeros(()))
        for image in self.student(batch["z"], batch["noise"]):
            target = batch["target"] if image.shape == batch["target"].shape else halve(batch["target"])
            losses.total = (
                losses.total
                + F.mse_loss(image, target)  # of velocities at t = 1: the noise cancels out
                + self.weights.perceptual_weight * multiscale_gradient_loss(target, image)
                + self.weights.border * patch_border_loss(target, image, self.patch)
            )
        return losses


def save(network: nn.Module, path: Path) -> None:
    """Writes a network's weights."""
    save_file({name: weight.contiguous() for name, weight in network.state_dict().items()}, path)


def one_step(decoder: Decoder, z: Tensor, x_t: Tensor, t: float) -> Tensor:
    """The clean image that a decoder predicts at (x_t, t)."""
    times = x_t.new_tensor([t])
    return predict_clean(x_t, decoder.predict(x_t, times, decoder.condition(z)).velocity, times)


def in_steps(decoder: Decoder, steps: int) -> Decode:
    """Decodes at full scale alone."""
    return lambda z, noise: decoder.decode(z, steps, noise)


def two_scales(half: Decoder, details: Decoder, first: int, last: int) -> Decode:
    """Decodes with `first` steps at half scale and `last` at full scale, from fresh noise at SWITCH."""
    grid = [SWITCH * t for t in sampling_grid(last)]

    def decode(z: Tensor, noise: Tensor) -> Tensor:
        fresh = torch.randn(noise.shape, generator=torch.Generator().manual_seed(0))
        conditioning = half.condition(z)
        small = euler_sample(lambda x, t: half.predict(x, t, conditioning).velocity, half_noise(noise), first)
        x, conditioning = interpolate(enlarge(small, 2), fresh, noise.new_tensor([SWITCH])), details.condition(z)
        for t, s in pairwise(grid):
            x = euler_step(x, details.predict(x, x.new_tensor([t]), conditioning).velocity, t, s)
        return x

    return decode


class Experiment:
    """The networks of one seed, trained or read from a folder.

    Args:
        run: folder of a finished quickstart.
        folder: of the networks.
        seed: of weights and draws.
        stages: the parameters of `conf/base`.
    """

    def __init__(self, run: Path, folder: Path, seed: int, stages: dict[str, Any]) -> None:
        self.run, self.folder, self.seed, self.stages = run, folder / f"seed{seed}", seed, stages
        self.data = DataParameters(sample=stages["data"]["sample"])
        self.index = pandas.read_parquet(run / "images/index.parquet")
        self.teacher = SSDD.from_pretrained(run / "models/finetuned.safetensors")

    def decoder(self, name: str) -> Decoder:
        """A network of `NETWORKS`."""
        network = NETWORKS[name]
        fields = {key: value for key, value in self.stages["pretrain"].items() if key != "initialize"}
        stage = StageParameters(**{**fields, "seed": self.seed, "epochs": network.epochs})
        model = SSDD.from_pretrained(self.run / "models/finetuned.safetensors")
        torch.manual_seed(self.seed)
        model.decoder = Decoder(network.config)
        if network.from_teacher:
            model.decoder.load_state_dict(at_scale(self.teacher.decoder, network.config.downscale))
        step = FlowStep(model, stage, LossNetworks())
        step.scale = network.scale
        self._train(f"flow {name}", step, model.decoder, training_images(self.index, self.data, stage), stage)
        return model.decoder.eval()

    def student(self, name: str) -> Student:
        """A student of the run's teacher, which learns its cached results."""
        torch.manual_seed(self.seed)
        second: Decoder | Refinement | None = None
        if name == "half and details":
            second = self.decoder("details")
        elif name == "half, refined":
            second = Refinement(16, 4)
            second.initialize()
        student = Student(self.decoder(name if second is None else "half"), second)
        stage = StageParameters(**{**self.stages["distill"], "seed": self.seed})
        folder = self.run / "training/teacher_targets"
        images = training_images(self.index, self.data, stage, self.stages["teacher_targets"]["images"])
        targets = CachedTargets(images, folder, (folder / "fingerprint.txt").read_text(), with_images=False)
        step = StudentStep(student.requires_grad_(True), stage)
        self._train(f"student {name}", step, student, targets, stage)
        return student

    def _train(self, name: str, step: TrainingStep, network: nn.Module, images: Any, stage: StageParameters) -> None:
        file = self.folder / f"{name.replace(',', '').replace(' ', '-')}.safetensors"
        if not file.exists():
            start, work = time.process_time(), self.folder / "work" / file.stem
            work.mkdir(parents=True, exist_ok=True)
            train(step, images, stage, RUNTIME, work, name, export=lambda path: save(network, path))
            (work / "last.safetensors").rename(file)
            print(f"{name}: {time.process_time() - start:.0f} s of processor time", flush=True)
        network.load_state_dict(load_file(file))
        network.to(memory_format=torch.channels_last).requires_grad_(False).eval()


def at_scale(decoder: Decoder, downscale: int) -> dict[str, Tensor]:
    """The weights of a decoder for images of another side: all but the shortcut's, whose patches shrink."""
    weights, factor = decoder.state_dict(), decoder.config.downscale // downscale
    side = decoder.config.patch_reach * decoder.config.downscale
    for name in ("shortcut.weight", "shortcut.bias"):
        patches = weights[name].reshape(3, side, side, -1).permute(0, 3, 1, 2)
        shape = (-1, *weights[name].shape[1:])
        weights[name] = F.avg_pool2d(patches, factor).permute(0, 2, 3, 1).reshape(shape)
    return weights


def systems(experiment: Experiment) -> Iterator[tuple[str, Decode]]:
    """All ways to decode, with the names of their rows."""
    teacher = experiment.teacher.decoder
    student = Decoder.from_pretrained(experiment.run / "models/distilled.safetensors")
    yield "student", in_steps(student, 1)
    for steps in (8, 4, 2, 1):
        yield f"teacher, {steps}", in_steps(teacher, steps)
    half, details = experiment.decoder("half"), experiment.decoder("details")
    for first, last in ((6, 2), (4, 1), (1, 1)):
        yield f"half {first}, teacher {last}", two_scales(half, teacher, first, last)
        yield f"half {first}, details {last}", two_scales(half, details, first, last)
    for name in ("half and details", "half, refined", "narrow", "patch 8"):
        yield f"student, {name}", experiment.student(name).decode


@torch.no_grad()
def quality(experiment: Experiment, decode: Decode) -> dict[str, float]:
    """Figures on the held-out crops."""
    suite = MetricSuite(METRICS)
    for batch in batches(held_out_images(experiment.index, experiment.data, 64), 32):
        x, numbers = batch["image"], batch["index"]
        z, noise = experiment.teacher.encoder(x).mode(), image_noise(0, numbers.tolist(), x.shape[1:], x.device)
        suite.update((x + 1) / 2, (decode(z, noise) + 1) / 2, numbers)
    return suite.compute()


@torch.no_grad()
def cost(rows: dict[str, Decode], pixels: int, rounds: int) -> dict[str, float]:
    """Processor time of each row over that of one call at full scale: medians over alternated rounds."""
    z, noise = torch.randn(1, CONFIG.latent_channels, pixels // 8, pixels // 8), torch.randn(1, 3, pixels, pixels)
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(rounds + 1):
        for name, decode in rows.items():
            start = time.process_time()
            decode(z, noise)
            seconds[name].append(time.process_time() - start)
    base = seconds["student"][1:]
    return {name: statistics.median(a / b for a, b in zip(own[1:], base, strict=True)) for name, own in seconds.items()}


def main() -> None:
    """Trains, measures, and prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    project = Path(__file__).resolve().parents[3]
    stages = yaml.safe_load((project / "conf/base/parameters.yml").read_text())
    experiment = Experiment(options.run, options.run.with_name(f"{options.run.name}-scales"), options.seed, stages)
    rows = {}
    print("| decoding | " + " | ".join(METRICS) + " |\n" + "|---" * (1 + len(METRICS)) + "|")
    for name, decode in systems(experiment):
        rows[name] = decode
        figures = quality(experiment, decode)
        print(f"| {name} | " + " | ".join(f"{figures[metric]:.4g}" for metric in METRICS) + " |", flush=True)
    for pixels in (256, 512):
        print(f"\n| decoding, {pixels} px | processor time |\n|---|---|")
        for name, time_of in cost(rows, pixels, options.rounds).items():
            print(f"| {name} | {time_of:.2f} |", flush=True)


if __name__ == "__main__":
    main()
