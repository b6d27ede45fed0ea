"""Reference statistics of a Frechet distance: computed once, stored, and tied to their protocol."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ssdd_metrics.files import atomic_write
from ssdd_metrics.images import check_reference_range, to_uint8
from ssdd_metrics.moments import Moments
from ssdd_metrics.precision import strict_float32


@dataclass(frozen=True)
class ReferenceStatistics:
    """Moments of the reference features and what they depend on.

    Args:
        moments: count, sum and sum of outer products of the features.
        protocol: `Protocol.reference_side(judge, sha256)` of the images and the judge.
    """

    moments: Moments
    protocol: dict[str, str]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a safetensors file, whole or not at all, with the protocol in its header."""
        tensors = {
            "count": self.moments.count.cpu().reshape(1),
            "total": self.moments.total.cpu(),
            "outer": self.moments.outer.cpu(),
        }
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, metadata={"protocol": json.dumps(self.protocol)})

    @classmethod
    def load(cls, path: str | os.PathLike[str], protocol: dict[str, str]) -> "ReferenceStatistics":
        """Reads statistics and refuses those of another protocol.

        Args:
            path: a file that `save` wrote.
            protocol: `Protocol.reference_side(judge, sha256)` of the evaluation at hand.

        Raises:
            ValueError: the file does not exist, is none of `save`, or belongs to another protocol: every
                entry that differs is named.
        """
        if not Path(path).is_file():
            raise ValueError(f"expected reference statistics at {path}, found no file: compute and save them first")
        try:
            with safe_open(path, "pt") as handle:
                stored = json.loads((handle.metadata() or {})["protocol"])
                tensors = {name: handle.get_tensor(name) for name in ("count", "total", "outer")}
        except (SafetensorError, KeyError) as error:
            raise ValueError(
                f"expected reference statistics, {path} holds none ({error}): compute them anew"
            ) from error
        names = sorted(stored.keys() | protocol.keys())
        differences = [
            f"{name}: expected {protocol.get(name)!r}, the file has {stored.get(name)!r}"
            for name in names
            if stored.get(name) != protocol.get(name)
        ]
        if differences:
            raise ValueError(
                f"the reference statistics {path} belong to another protocol ({'; '.join(differences)}): "
                "compute statistics for this one, or evaluate as the file says"
            )
        return cls(Moments(tensors["count"][0], tensors["total"], tensors["outer"]), stored)


def compute_reference(batches: Iterable[Tensor], extractor: nn.Module, protocol: dict[str, str]) -> ReferenceStatistics:
    """Runs the reference images through a feature network once, in constant memory.

    Args:
        batches: (B, 3, H, W) images, uint8 or in [0, 1], on the extractor's device.
        extractor: uint8 images -> (B, D) features, with the attribute `features` = D.
        protocol: `Protocol.reference_side(judge, sha256)`.

    Raises:
        ValueError: no image at all, or images that `to_uint8` refuses.
    """
    total: Moments | None = None
    for images in batches:
        check_reference_range(images)
        with torch.no_grad(), strict_float32(images.device):
            moments = Moments.of(extractor(to_uint8(images)))
        total = moments if total is None else total + moments
    if total is None:
        raise ValueError("expected at least one batch of reference images, got none")
    return ReferenceStatistics(total, protocol)
