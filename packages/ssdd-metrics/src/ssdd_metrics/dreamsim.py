"""DreamSim (Fu et al. 2023, arXiv 2306.09344), built by the `dreamsim` package from local files alone.

Legend: B batch, H W pixels.
"""

import hashlib
import io
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssdd_metrics.files import sha256_file
from ssdd_metrics.networks import MetricNetwork, PathLike, optional_module
from ssdd_metrics.weights import NetworkUnavailable, read_pth_weights

ARCHIVE = (
    "https://github.com/ssundaram21/dreamsim/releases/download/v0.2.0-checkpoints/dreamsim_ensemble_checkpoint.zip"
)
# The package would fetch this trunk from torch hub, together with code from a moving branch.
DINO = "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth"
_WANTED = {
    "dino_vitb16_pretrain.pth": ARCHIVE,
    "clip_vitb16_pretrain.pth.tar": ARCHIVE,
    "open_clip_vitb16_pretrain.pth.tar": ARCHIVE,
    "ensemble_lora/adapter_config.json": ARCHIVE,
    "ensemble_lora/adapter_model.*": ARCHIVE,
    "dino_vitbase16_pretrain.pth": DINO,
}


class DreamSim(MetricNetwork):
    """The ensemble of DINO, CLIP and OpenCLIP, at its own 224 px: two (B, 3, H, W) in [0, 1] -> (B,)."""

    @torch.no_grad()
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns the distance of each pair of images, resized (bicubic, antialiased) to 224 x 224."""
        a, b = (
            F.interpolate(images, size=(224, 224), mode="bicubic", antialias=True, align_corners=False)
            # The bicubic filter overshoots at edges; the package's own resize of 8-bit images cannot.
            .clamp(0, 1)
            for images in (a, b)
        )
        return self.network(a, b).flatten()


def load_dreamsim(path: PathLike | None, sha256: str | None = None) -> DreamSim:
    """Loads the DreamSim ensemble without a download or code of torch hub. Needs the extra `dreamsim`.

    Args:
        path: a folder with the unpacked `dreamsim_ensemble_checkpoint.zip`, and in it (or in its folder
            `checkpoints`) DINO's own `dino_vitbase16_pretrain.pth`.
        sha256: leading digits to insist on, see `dreamsim_sha256`; none are published.

    Raises:
        NetworkUnavailable: a file is missing; the message names it and its place of publication.
        ValueError: the files are not the expected ones.
        ImportError: the package is not installed.
    """
    files = find_dreamsim(path, sha256)
    package = optional_module("dreamsim", "dreamsim")
    for file in files.values():
        if file.suffix == ".bin":
            # A `.bin` is a pickle and the package will read it, so one that does more than name tensors is refused.
            read_pth_weights(file)
    trunk = files["dino_vitbase16_pretrain.pth"]
    with torch.random.fork_rng(devices=[]), _hub_replaced(trunk):
        network, _ = package.dreamsim(pretrained=True, cache_dir=str(path), device="cpu")
    return DreamSim("dreamsim-ensemble", dreamsim_sha256(files), network)


def find_dreamsim(path: PathLike | None, sha256: str | None = None) -> dict[str, Path]:
    """Finds DreamSim's files without building the network; see `load_dreamsim`."""
    if path is None:
        raise NetworkUnavailable(f"expected a folder with DreamSim's files, got none: unpack {ARCHIVE}, pass its path")
    found: dict[str, Path] = {}
    for name, source in _WANTED.items():
        places = [*sorted(Path(path).glob(name)), *sorted(Path(path).glob(f"checkpoints/{name}"))]
        if not places:
            raise NetworkUnavailable(f"expected DreamSim's {name} in {path}, found none: it is part of {source}")
        found[name] = places[0]
    if sha256 is not None and not (actual := dreamsim_sha256(found)).startswith(sha256.lower()):
        raise ValueError(
            f"expected DreamSim with SHA-256 {sha256}..., the files in {path} have {actual}: fetch them again"
        )
    return found


def dreamsim_sha256(files: dict[str, Path]) -> str:
    """Returns one SHA-256 for all files: that of the lines `<name> <SHA-256>`, sorted by name."""
    lines = [f"{name} {sha256_file(file)}\n" for name, file in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextmanager
def _hub_replaced(trunk: Path) -> Iterator[None]:
    """Replaces torch hub for the package: a call returns its own copy of DINO's network, with local weights."""

    def load(repository: str, model: str, *arguments: Any, **options: Any) -> nn.Module:
        if model != "dino_vitb16":
            raise ValueError(f"expected the dreamsim package to load dino_vitb16, got {model}: use version 0.2")
        vision: types.ModuleType = optional_module("dreamsim.feature_extraction.vision_transformer", "dreamsim")
        network: nn.Module = vision.vit_base(patch_size=16, num_classes=0)
        network.load_state_dict(read_pth_weights(trunk))
        return network

    with (
        mock.patch.object(torch.hub, "load", load),
        mock.patch.object(torch.hub, "set_dir"),
        redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # about the package's own use of PyTorch and peft
        yield
