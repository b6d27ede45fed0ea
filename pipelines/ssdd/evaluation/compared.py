"""Decoders of several kinds over the held-out images, with one protocol: the rows of the comparison."""

# B batch, S side in pixels

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from ssdd.autoencoder import SSDD
from ssdd.baselines import FeedForward, KLAutoencoder
from ssdd.evaluation.diffusers_tokenizers import DiffusersTokenizer, content_of
from ssdd.evaluation.final import Evaluated, Measurement, Row, measure
from ssdd.evaluation.passes import image_noise
from ssdd.evaluation.reference_statistics import image_protocol
from ssdd.files import sha256_file
from ssdd.number_formats import number_format
from ssdd.processes import choose_device, join_group, launch, use_threads
from ssdd.upscaling import enlarge, shrink

Kind = Literal["ssdd", "kl", "feed_forward", "diffusers"]


class Tokenizer(Protocol):
    """The methods that all kinds have in common."""

    @property
    def upscale(self) -> int:
        """S' / S: how many times as large the decoder's images are as the encoder's."""

    def encode(self, x: Tensor) -> Any:
        """Images (B, 3, S, S) in [-1, 1] -> posterior, of which `mode()` is the latent."""

    def decode(self, z: Tensor, steps: int = 1, noise: Tensor | None = None, *, check_finite: bool = False) -> Tensor:
        """Latents -> images (B, 3, S', S'), not clamped."""


class SameSize(nn.Module):
    """A tokenizer whose images are as large as those that it is given: what its decoder enlarges is shrunk before.

    Args:
        model: the tokenizer.
        times: how many times smaller the copies are that its encoder gets; at least as many as its decoder enlarges.
            If they are more, the decoded images are resized (bicubic) to the size of the given ones.
    """

    def __init__(self, model: Tokenizer, times: int) -> None:
        super().__init__()
        self.model, self.times = model, max(times, model.upscale)
        self.resized = self.times // model.upscale

    def encode(self, x: Tensor) -> Any:
        """Images (B, 3, S, S) in [-1, 1] -> posterior, of which `mode()` is the latent."""
        return self.model.encode(shrink(x, self.times))

    def decode(self, z: Tensor, steps: int = 1, noise: Tensor | None = None, *, check_finite: bool = False) -> Tensor:
        """Latents -> images (B, 3, S, S), not clamped; noise is as large, and a corner of it is enough for a resize."""
        if noise is not None:
            noise = noise[..., : noise.shape[-2] // self.resized, : noise.shape[-1] // self.resized]
        image = self.model.decode(z, steps, noise, check_finite=check_finite)
        return enlarge(image.float(), self.resized) if self.resized > 1 else image


@dataclasses.dataclass(frozen=True)
class ComparedDecoder:
    """One decoder of the comparison.

    Args:
        name: of its rows.
        kind: how its file is read.
        source: a checkpoint; for `diffusers`, a folder or a hub id.
        steps: numbers of steps, each a row; (1,) for what decodes in one call.
        times: how many times smaller the copies are that its encoder gets; see `SameSize`.
    """

    name: str
    kind: Kind
    source: str
    steps: tuple[int, ...] = (1,)
    times: int = 1

    def open(self) -> SameSize:
        """Loads encoder and decoder, in evaluation mode.

        Raises:
            ValueError: the source is missing, damaged, or of another kind.
        """
        if self.kind == "diffusers":
            return SameSize(DiffusersTokenizer.from_pretrained(self.source), self.times)
        kinds: dict[str, Any] = {"ssdd": SSDD, "kl": KLAutoencoder, "feed_forward": FeedForward}
        return SameSize(kinds[self.kind].from_pretrained(self.source), self.times)

    @property
    def content(self) -> str:
        """The SHA-256 of its file or files, for the protocol."""
        return content_of(self.source) if self.kind == "diffusers" else sha256_file(Path(self.source))


def evaluate_decoder(decoder: ComparedDecoder, measurement: Measurement) -> list[Evaluated]:
    """Reconstructs every image with each number of steps, and measures the reconstructions.

    Raises:
        ValueError: the decoder cannot be read, or the images do not fit it.
    """
    use_threads(measurement.runtime)
    return launch(_evaluate, measurement.runtime.processes, decoder, measurement)


def _evaluate(decoder: ComparedDecoder, measurement: Measurement) -> list[Evaluated]:
    parameters = measurement.parameters
    rank, _ = join_group()
    device = choose_device(measurement.runtime.device, rank)
    model = place(decoder.open(), device, number_format(parameters.precision, device))
    protocol = dataclasses.replace(
        image_protocol(measurement.dataset, parameters.im_size),
        noise_seed=parameters.noise_seed,
        dtype=parameters.precision,
        model=f"sha256:{decoder.content}",
    )

    def decode(x: Tensor, numbers: list[int]) -> Iterator[tuple[Row, Tensor]]:
        for count, decoded in reconstruct(model, x, numbers, decoder.steps, parameters.noise_seed):
            yield (decoder.name, count), decoded

    protocols = {(decoder.name, count): dataclasses.replace(protocol, steps=count) for count in decoder.steps}
    return measure(decode, protocols, measurement, f"evaluating {decoder.name}")


@torch.no_grad()
def reconstruct(
    model: SameSize, x: Tensor, images: Sequence[int], steps: Sequence[int], seed: int
) -> Iterator[tuple[int, Tensor]]:
    """Encodes images once and decodes them with each number of steps, as `passes.reconstruct` does for SSDD.

    Args:
        model: of any kind.
        x: (B, 3, S, S) in [-1, 1].
        images: B numbers in the data set, which the noise depends on.
        steps: numbers of steps.
        seed: of the noise.

    Yields:
        number of steps, and images (B, 3, S, S), float32, not clamped.

    Raises:
        ValueError: the model makes images of another size.
    """
    z = model.encode(x).mode()
    noise = image_noise(seed, images, x.shape[1:], x.device)
    for count in steps:
        decoded = model.decode(z, count, noise, check_finite=True).float()
        if decoded.shape != x.shape:
            raise ValueError(
                f"expected reconstructions of the images' size {tuple(x.shape[2:])}, got {tuple(decoded.shape[2:])}: "
                "the decoder has a size of its own, set evaluate.im_size to it"
            )
        yield count, decoded


def place(model: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Moves a model to a device and a dtype, in the memory layout of convolutions."""
    return model.to(device, dtype).to(memory_format=torch.channels_last).eval()
