"""What the rounding of weights costs: two files of one model over the same held-out images."""

# B batch, S side in pixels

from pathlib import Path

import torch
from torch import Tensor

from ssdd.autoencoder import SSDD
from ssdd.data.image_dataset import ImageDataset
from ssdd.data.loader import batches
from ssdd.evaluation.passes import reconstruct
from ssdd.parameters import EvaluateParameters, RuntimeConfig
from ssdd.processes import choose_device
from ssdd_metrics import to_uint8
from ssdd_metrics.pixelwise import psnr


def compare_reconstructions(
    exact: Path, rounded: Path, dataset: ImageDataset, parameters: EvaluateParameters, runtime: RuntimeConfig
) -> dict[str, float]:
    """Decodes images with both files, from the same noise.

    Args:
        exact: the checkpoint before rounding.
        rounded: the one after.
        dataset: images with an `EvalTransform`.
        parameters: of the evaluation; the smallest of the student's numbers of steps.
        runtime: device.

    Returns:
        means over the images: the PSNR of each file's images (8 bits, as in the final evaluation), and the PSNR between
        the two, where no rounding to 8 bits hides a difference; the number of images and of steps.
    """
    device, steps = choose_device(runtime.device), min(parameters.student_steps)
    models = [SSDD.from_pretrained(file).to(device) for file in (exact, rounded)]
    found: dict[str, list[Tensor]] = {"psnr_exact": [], "psnr_rounded": [], "psnr_between": []}
    for batch in batches(dataset, parameters.batch_size, runtime.workers):
        x, numbers = batch["image"].to(device), batch["index"].tolist()
        pair = [_decode(model, x, numbers, steps, parameters.noise_seed) for model in models]
        for name, decoded in zip(("psnr_exact", "psnr_rounded"), pair, strict=True):
            found[name].append(psnr(to_uint8((x + 1) / 2), to_uint8(decoded)))
        found["psnr_between"].append(psnr(*pair))
    means = {name: float(torch.cat(values).mean()) for name, values in found.items()}
    return {"images": len(dataset), "steps": steps, **means}


def _decode(model: SSDD, x: Tensor, numbers: list[int], steps: int, seed: int) -> Tensor:
    """Returns reconstructions (B, 3, S, S) in [0, 1]."""
    ((_, decoded),) = reconstruct(model, x, numbers, [steps], seed)
    return ((decoded + 1) / 2).clamp(0, 1)
