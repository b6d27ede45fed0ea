"""The pretrained networks of metrics: Inception, LPIPS, DINOv2. Frozen, always in eval mode.

All take images in [0, 1], except Inception, which takes uint8. LPIPS and DINOv2 pass gradients to their inputs, for use
as losses.

Legend: B batch, H W pixels, D features.
"""

import importlib
import io
import os
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssdd_metrics.files import sha256_file
from ssdd_metrics.images import check_shapes
from ssdd_metrics.weights import (
    ALEXNET,
    INCEPTION,
    VGG16,
    dinov2_file,
    find_weights,
    read_pth_weights,
    read_weights,
)

DINOV2_BASE = "vit_base_patch14_dinov2.lvd142m"
SMALLEST_SIDES = {"vgg": 16, "alex": 31}  # in pixels; the poolings of a smaller image leave nothing
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PathLike = str | os.PathLike[str]


class MetricNetwork(nn.Module):
    """A frozen network: no gradient for its weights, and no dropout even inside a module that trains.

    Args:
        name: its name in protocols.
        sha256: of the weight file.
        network: the network.
    """

    def __init__(self, name: str, sha256: str, network: nn.Module) -> None:
        super().__init__()
        self.name, self.sha256 = name, sha256
        self.network = network.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode, whatever `mode` is."""
        # A training loop calls train() on everything that it holds, a loss network included.
        return super().train(False)


class InceptionFeatures(MetricNetwork):
    """FID's network as torch-fidelity has it, with its own resize: (B, 3, H, W) uint8 -> (B, 2048) float32."""

    features = 2048

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Returns features of uint8 images of any size."""
        return self.network(images)[0]


class Lpips(MetricNetwork):
    """LPIPS 0.1 (Zhang et al. 2018, arXiv 1801.03924): two (B, 3, H, W) in [0, 1] -> (B,) distances.

    Args:
        name: see `MetricNetwork`.
        sha256: see `MetricNetwork`.
        network: an `lpips.LPIPS`.
        smooth: normalise features by `sqrt(sum + 1e-8)` instead of the package's `sqrt(sum) + 1e-10`, whose
            gradient is NaN where the squares of a pixel's features vanish. For training only; values differ
            by less than 1e-4 from the metric's.
    """

    def __init__(self, name: str, sha256: str, network: nn.Module, smooth: bool) -> None:
        super().__init__(name, sha256, network)
        self.smooth = smooth

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns the distance of each pair of images.

        Raises:
            ValueError: shapes differ, or a side is under 16 (vgg) or 31 (alex) pixels.
        """
        network: Any = self.network
        check_shapes(a, b, SMALLEST_SIDES[network.pnet_type])
        pairs = zip(*(network.net(network.scaling_layer(2 * images - 1)) for images in (a, b)), strict=True)
        distance = torch.zeros((), device=a.device)
        for linear, (features_a, features_b) in zip(network.lins, pairs, strict=True):
            difference = self._normalise(features_a) - self._normalise(features_b)
            distance = distance + linear(difference.square()).mean((1, 2, 3))
        return distance

    def _normalise(self, features: Tensor) -> Tensor:
        features = features.float()  # under autocast they come in half precision, too coarse for sums of squares
        energy = features.square().sum(1, keepdim=True)
        return features / ((energy + 1e-8).sqrt() if self.smooth else energy.sqrt() + 1e-10)


class DinoV2(MetricNetwork):
    """DINOv2 with patches of 14 pixels; normalises images in [0, 1] by ImageNet's mean and deviation."""

    patch = 14

    @property
    def features(self) -> int:
        """The width D of the tokens: 768 for the base model."""
        return int(self.network.num_features)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Returns class tokens (B, D) of images (B, 3, H, W) resized to 224 x 224 (bicubic, antialiased)."""
        return self._tokens(images, (16, 16))[:, 0]

    def patch_tokens(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Returns patch tokens (B, rows * columns, D) of images (B, 3, H, W) resized to that many patches.

        Args:
            images: in [0, 1].
            grid: rows and columns of tokens.
        """
        prefix = int(self.network.num_prefix_tokens)  # type: ignore[arg-type]
        return self._tokens(images, grid)[:, prefix:]

    def _tokens(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        size = (self.patch * grid[0], self.patch * grid[1])
        images = F.interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False)
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        network: Any = self.network
        return network.forward_features((images - mean) / std)


def load_inception(path: PathLike | None = None, sha256: str | None = None) -> InceptionFeatures:
    """Loads the Inception network of 2015-12-05, which FID is defined with. Needs the extra `fid`.

    Args:
        path: the weight file, or a safetensors conversion; by default torch hub's cache, then a download.
        sha256: leading digits to insist on, for weights other than the published ones.

    Raises:
        NetworkUnavailable: the file is not on this machine and cannot be fetched.
        ValueError: the file is not the expected one.
    """
    extractor = optional_module("torch_fidelity.feature_extractor_inceptionv3", "fid")
    file = find_weights(INCEPTION, path, sha256)
    # The extractor unpickles its file without restriction, so it gets a copy of the plain tensors instead.
    tensors = io.BytesIO()
    torch.save(read_weights(file), tensors)
    tensors.seek(0)

    def build() -> nn.Module:
        return extractor.FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=tensors
        )

    return InceptionFeatures(INCEPTION.network, sha256_file(file), build_network(build, file))


def load_lpips(
    net: Literal["vgg", "alex"] = "vgg",
    path: PathLike | None = None,
    sha256: str | None = None,
    smooth: bool = False,
) -> Lpips:
    """Loads LPIPS. Needs the extra `perceptual`.

    Args:
        net: the trunk; distances of different trunks cannot be compared.
        path: torchvision's ImageNet weights of that network, or a safetensors conversion of them.
        sha256: leading digits to insist on, for weights other than the published ones.
        smooth: finite gradients for training, see `Lpips`.

    Raises:
        NetworkUnavailable: the file is not on this machine and cannot be fetched.
        ValueError: an unknown net, or the file is not the expected one.
    """
    files = {"vgg": VGG16, "alex": ALEXNET}
    if net not in files:
        raise ValueError(f'expected net "vgg" or "alex", got {net!r}')
    lpips = optional_module("lpips", "perceptual")
    file = find_weights(files[net], path, sha256)
    calibration = Path(str(lpips.__file__)).parent / "weights" / "v0.1" / f"{net}.pth"

    def build() -> nn.Module:
        network = lpips.LPIPS(net=net, pnet_rand=True, pretrained=False, verbose=False)
        # The trunk's own names put a slice where torchvision has `features`: `slice2.5.weight`, `features.5.weight`.
        weights = read_weights(file)
        trunk = {key: weights[f"features.{key.split('.', 1)[1]}"] for key in network.net.state_dict()}
        network.net.load_state_dict(trunk)
        lins = read_pth_weights(calibration)
        for index, linear in enumerate(network.lins):
            linear.load_state_dict({"model.1.weight": lins[f"lin{index}.model.1.weight"]})
        return network

    return Lpips(f"lpips-0.1-{net}", sha256_file(file), build_network(build, file), smooth)


def load_dinov2(path: PathLike | None = None, sha256: str | None = None, model: str = DINOV2_BASE) -> DinoV2:
    """Loads a DINOv2 network of timm. Needs the extra `perceptual`.

    Args:
        path: the model's `model.safetensors` from the hub; by default the Hugging Face cache, then a
            download.
        sha256: leading digits to insist on; none are published, but the Hugging Face cache records them.
        model: timm's name of a model with patches of 14 pixels.

    Raises:
        NetworkUnavailable: the file is not on this machine and cannot be fetched.
        ValueError: the file does not fit the model.
    """
    timm = optional_module("timm", "perceptual")
    file = find_weights(dinov2_file(model), path, sha256)

    def build() -> nn.Module:
        network = timm.create_model(model, pretrained=False, num_classes=0, dynamic_img_size=True)
        weights = read_weights(file)
        weights.pop("mask_token", None)  # only training uses it, and timm's network lacks it
        network.load_state_dict(weights)
        return network

    return DinoV2(model, sha256_file(file), build_network(build, file))


def build_network(build: Callable[[], nn.Module], file: Path) -> nn.Module:
    """Builds a network without touching the caller's random state; an error names the file that does not fit."""
    try:
        # The libraries draw initial weights before ours are loaded; a run must not depend on whether it evaluates.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torchvision, about arguments that lpips still passes
            return build()
    except (KeyError, RuntimeError) as error:
        what = textwrap.shorten(str(error), 300)  # PyTorch lists every key, which hides the file's name
        raise ValueError(f"expected weights that fit this network, {file} holds others: {what}") from error


def optional_module(module: str, extra: str) -> ModuleType:
    """Imports a library that only some metric networks need.

    Raises:
        ImportError: it is not installed; the message names the extra of this package that has it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"this metric needs `pip install 'ssdd-metrics[{extra}]'`: {error}") from error
