"""Reference rows: codes that need no training, and that any tokenizer has to beat.

* Resize: shrunk by F and enlarged again, 3 numbers for each F x F patch.
* Resize to as many numbers as the latents have: by less than F where C is more than 3.
* PCA: the best linear code of F x F patches with C numbers, fitted on training images.

All keep real numbers, as latents are, so rounding costs them nothing.
"""

# B batch, H W pixels, F down-scale, C numbers for each patch, N patches, D = 3 F^2

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ssdd.data.image_dataset import ImageDataset
from ssdd.data.loader import batches
from ssdd.evaluation.final import Evaluated, Measurement, Row, measure
from ssdd.evaluation.reference_statistics import image_protocol
from ssdd.parameters import RuntimeConfig
from ssdd.processes import launch, use_threads
from ssdd.upscaling import enlarge, shrink

FITTED_IMAGES = 1024  # far more patches than numbers in a patch
FITTED_BATCH = 32


def resize(x: Tensor, downscale: int) -> Tensor:
    """Shrinks images (B, 3, H, W) by F (means of patches) and enlarges them again (bicubic)."""
    small = F.avg_pool2d(x, downscale)
    return F.interpolate(small, scale_factor=downscale, mode="bicubic", align_corners=False)


def resize_to_numbers(x: Tensor, downscale: int, channels: int) -> Tensor:
    """Shrinks images (B, 3, H, W) to as many numbers as F x F patches with C numbers hold, and enlarges them again.

    Both ways are bicubic, the way down with antialiasing, for the factor is not a whole number.
    """
    factor = max(1.0, downscale * math.sqrt(3 / channels))
    small = [max(1, round(side / factor)) for side in x.shape[2:]]
    shrunk = F.interpolate(x, size=small, mode="bicubic", antialias=True)
    return F.interpolate(shrunk, size=x.shape[2:], mode="bicubic")


@dataclass(frozen=True)
class PatchPca:
    """A linear code of patches.

    Args:
        downscale: F.
        mean: (D,).
        basis: (D, C), orthonormal columns.
    """

    downscale: int
    mean: Tensor
    basis: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Codes and decodes images (B, 3, H, W)."""
        patches = F.pixel_unshuffle(x, self.downscale).movedim(1, -1)  # (B, H / F, W / F, D)
        mean, basis = self.mean.to(x), self.basis.to(x)
        coded = (patches - mean) @ basis @ basis.T + mean
        return F.pixel_shuffle(coded.movedim(-1, 1), self.downscale)


def fit_patch_pca(images: Iterable[Tensor], downscale: int, channels: int) -> PatchPca:
    """Fits the code of C numbers with the least squared error, in float64 and constant memory.

    Args:
        images: batches (B, 3, H, W), sides multiples of F.
        downscale: F.
        channels: C.

    Raises:
        ValueError: there are no images.
    """
    size = 3 * downscale**2
    count, total, products = 0, torch.zeros(size).double(), torch.zeros(size, size).double()
    for batch in images:
        patches = F.pixel_unshuffle(batch.double(), downscale).movedim(1, -1).reshape(-1, size)  # (N, D)
        count += len(patches)
        total += patches.sum(0)
        products += patches.T @ patches
    if not count:
        raise ValueError("expected images to fit the principal components of, got none: prepare the images again")
    mean = total / count
    _, vectors = torch.linalg.eigh(products / count - mean.outer(mean))  # ascending
    return PatchPca(downscale, mean, vectors[:, -channels:])


def fit_on(training: ImageDataset, downscale: int, channels: int, runtime: RuntimeConfig) -> PatchPca:
    """Fits the PCA of F x F patches with C numbers on training images."""
    images = (batch["image"] for batch in batches(training, FITTED_BATCH, runtime.workers))
    return fit_patch_pca(images, downscale, channels)


def reference_codes(pca: PatchPca, upscale: int = 1) -> dict[str, Callable[[Tensor], Tensor]]:
    """Returns all reference rows of a latent space by name, each a map of images (B, 3, H, W).

    Args:
        pca: of the latent space's patches.
        upscale: s of a decoder that enlarges. The row of that case enlarges the encoder's input itself: a decoder
            without upscale, followed by a resize, can come near to it at best.
    """
    scale, numbers = pca.downscale, pca.basis.shape[1]
    enlarged = {f"encoder's input, resized by {upscale}": lambda x: enlarge(shrink(x, upscale), upscale)}
    return (enlarged if upscale > 1 else {}) | {
        f"resize by {scale}": lambda x: resize(x, scale),
        "resize to as many numbers": lambda x: resize_to_numbers(x, scale, numbers),
        f"PCA of {scale} x {scale} patches, {numbers} numbers": pca,
    }


def evaluate_references(
    training: ImageDataset, space: tuple[int, int], measurement: Measurement, upscale: int = 1
) -> list[Evaluated]:
    """Measures all reference rows on the held-out images, with the protocol of the models.

    Args:
        training: images to fit the principal components of.
        space: F and C of the latent space that the rows are a reference for.
        measurement: the same as of the models.
        upscale: see `reference_codes`.
    """
    runtime = measurement.runtime
    use_threads(runtime)
    return launch(_evaluate_references, runtime.processes, fit_on(training, *space, runtime), measurement, upscale)


def _evaluate_references(pca: PatchPca, measurement: Measurement, upscale: int) -> list[Evaluated]:
    rows = reference_codes(pca, upscale)

    def decode(x: Tensor, _: list[int]) -> Iterator[tuple[Row, Tensor]]:
        for name, code in rows.items():
            yield (name, 0), code(x)

    protocol = image_protocol(measurement.dataset, measurement.parameters.im_size)
    protocols = {(name, 0): replace(protocol, model=name, steps=0, dtype="float32") for name in rows}
    return measure(decode, protocols, measurement, "evaluating the references")
