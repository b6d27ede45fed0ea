"""Random draws that depend on (seed, purpose, step, sample) alone.

Each sample of a batch has its own generator. A draw is therefore the same with any other samples in the batch, in any
number of processes or pieces, and after an interruption. There is no random state to save: the step count in the resume
state is enough.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def sample_seed(seed: int, purpose: str, step: int, sample: int) -> int:
    """Returns a 63-bit generator seed for one draw; equal arguments give equal seeds on every machine."""
    # A hash, and not seed + step: neighbouring seeds of one generator are correlated, and sums of numbers collide.
    text = f"{seed}/{purpose}/{step}/{sample}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1  # torch takes int64


def sample_seeds(seed: int, purpose: str, step: int, samples: Sequence[int]) -> list[int]:
    """Returns one `sample_seed` per sample."""
    return [sample_seed(seed, purpose, step, sample) for sample in samples]


def sample_noise(seeds: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Draws N(0, 1) noise, one generator per sample.

    Args:
        seeds: B generator seeds.
        shape: shape of one sample, without the batch.
        device: of the draw; CPU and GPU generators give different (equally good) numbers.

    Returns:
        (B, *shape), float32.
    """
    noise = torch.empty((len(seeds), *shape), device=device)
    generator = torch.Generator(device=device)
    for row, seed in zip(noise, seeds, strict=True):
        row.normal_(generator=generator.manual_seed(seed))
    return noise
