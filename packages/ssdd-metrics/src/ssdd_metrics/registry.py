"""The metrics by name, the sets of them, and the judges they ask."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from ssdd_metrics import pixelwise, ssim
from ssdd_metrics.dreamsim import find_dreamsim, load_dreamsim
from ssdd_metrics.images import to_unit
from ssdd_metrics.judges import DINOV2_BASE, Judge, PathLike, load_dinov2, load_inception, load_lpips, optional_module
from ssdd_metrics.random_conv import RandomConvFeatures
from ssdd_metrics.weights import ALEXNET, INCEPTION, VGG16, dinov2_file, find_weights

PIXEL_METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": pixelwise.mse,
    "mae": pixelwise.mae,
    "psnr": pixelwise.psnr,
    "ssim_gaussian": ssim.ssim_gaussian,
    "ssim_uniform": ssim.ssim_uniform,
    "gradient_energy_ratio": pixelwise.gradient_energy_ratio,
}
# metric: the judge it asks
PAIR_JUDGES = {"lpips_alex": "lpips_alex", "lpips_vgg": "lpips_vgg", "dreamsim": "dreamsim"}
FRECHET_JUDGES = {"frechet_random_conv": "random_conv", "rfid": "inception", "fdd": "dinov2"}
CAN_BE_INFINITE = ("psnr", "gradient_energy_ratio")

OFFLINE = (*PIXEL_METRICS, "swd", "frechet_random_conv")
FULL = (*OFFLINE, "lpips_alex", "lpips_vgg", "rfid", "fdd")
SETS = {"offline": OFFLINE, "full": FULL}
KNOWN = (*FULL, "dreamsim")

# the pretrained judges by name, and the extra and the module that each needs
JUDGES = {
    "inception": ("fid", "torch_fidelity.feature_extractor_inceptionv3"),
    "lpips_alex": ("perceptual", "lpips"),
    "lpips_vgg": ("perceptual", "lpips"),
    "dinov2": ("perceptual", "timm"),
    "dreamsim": ("dreamsim", "dreamsim"),
}


def metric_names(metrics: str | Sequence[str]) -> tuple[str, ...]:
    """Expands "offline" and "full", and checks names.

    Raises:
        ValueError: an unknown name, none, or one twice.
    """
    if isinstance(metrics, str):
        metrics = SETS.get(metrics, (metrics,))
    for name in metrics:
        if name not in KNOWN:
            near = difflib.get_close_matches(name, [*KNOWN, *SETS], n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join((*SETS, *KNOWN))}"
            raise ValueError(f"there is no metric {name!r}; {hint}")
    if not metrics or len(set(metrics)) != len(metrics):
        raise ValueError(f'expected "offline", "full" or distinct names of metrics, got {list(metrics)}')
    return tuple(metrics)


def judges_of(metrics: str | Sequence[str]) -> tuple[str, ...]:
    """The pretrained judges that metrics ask, by the names of `load_judge`; none for "offline".

    Raises:
        ValueError: see `metric_names`.
    """
    asked = PAIR_JUDGES | FRECHET_JUDGES
    return tuple(asked[name] for name in metric_names(metrics) if asked.get(name) in JUDGES)


def find_judge(name: str, path: PathLike | None = None, sha256: str | None = None) -> Path:
    """Finds, or else downloads, a judge's weights and checks them, without building the network.

    For the start of a long run: what this accepts, `load_judge` finds again when it is needed.

    Args:
        name: one of `JUDGES`.
        path: see the judge's loader.
        sha256: see the judge's loader.

    Returns:
        the weight file; of DreamSim, its adapter's.

    Raises:
        JudgeUnavailable, ValueError: see the judge's loader.
        ImportError: a package that the judge needs is not installed.
    """
    _check_judge(name)
    extra, module = JUDGES[name]
    optional_module(module, extra)
    if name == "dreamsim":
        return find_dreamsim(path, sha256)["ensemble_lora/adapter_model.*"]
    files = {"inception": INCEPTION, "lpips_alex": ALEXNET, "lpips_vgg": VGG16, "dinov2": dinov2_file(DINOV2_BASE)}
    return find_weights(files[name], path, sha256)


def load_judge(name: str, path: PathLike | None = None, sha256: str | None = None) -> Judge:
    """Loads a judge by name, with its loader's defaults.

    Args:
        name: one of `JUDGES`.
        path: see the judge's loader.
        sha256: see the judge's loader.

    Raises:
        JudgeUnavailable, ValueError: see the judge's loader.
    """
    _check_judge(name)
    if name == "inception":
        return load_inception(path, sha256)
    if name == "dinov2":
        return load_dinov2(path, sha256)
    if name == "dreamsim":
        return load_dreamsim(path, sha256)
    return load_lpips("vgg" if name == "lpips_vgg" else "alex", path, sha256)


def frechet_features(metric: str, judge: nn.Module, images: Tensor) -> Tensor:
    """Features (B, D) that a Frechet metric compares, of uint8 images (B, 3, H, W).

    DINOv2 takes floats; Inception and the random network ask for, or take, the 8-bit images themselves.
    """
    return judge(to_unit(images) if metric == "fdd" else images)


def identity(name: str, judge: nn.Module) -> tuple[str, str]:
    """A judge's name and its weights' SHA-256, for protocols."""
    return str(getattr(judge, "name", name)), str(getattr(judge, "sha256", "drawn from a fixed seed"))


def get_judge(name: str, given: Mapping[str, nn.Module]) -> nn.Module:
    """The given judge of that name, or else the one loaded from the usual cache.

    Raises:
        ValueError: it is not given, and there is no usual cache for it.
    """
    if name in given:
        return given[name]
    return RandomConvFeatures() if name == "random_conv" else load_judge(name)


def _check_judge(name: str) -> None:
    if name not in JUDGES:
        raise ValueError(f"expected one of the judges {list(JUDGES)}, got {name!r}")
