"""The metrics by name, the sets of them, and the judges they ask."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from ssdd_metrics import pixelwise, ssim
from ssdd_metrics.judges import JUDGES, load_judge
from ssdd_metrics.random_conv import RandomConvFeatures

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


def metric_names(metrics: str | Sequence[str]) -> tuple[str, ...]:
    """Expands "offline" and "full", and checks names.

    Raises:
        ValueError: an unknown name, none, or one twice.
    """
    if isinstance(metrics, str):
        metrics = SETS.get(metrics, (metrics,))
    unknown = [name for name in metrics if name not in KNOWN]
    if unknown or not metrics or len(set(metrics)) != len(metrics):
        raise ValueError(f'expected "offline", "full" or distinct names out of {list(KNOWN)}, got {list(metrics)}')
    return tuple(metrics)


def judges_of(metrics: str | Sequence[str]) -> tuple[str, ...]:
    """The pretrained judges that metrics ask, by the names of `load_judge`; none for "offline".

    Raises:
        ValueError: see `metric_names`.
    """
    asked = PAIR_JUDGES | FRECHET_JUDGES
    return tuple(asked[name] for name in metric_names(metrics) if asked.get(name) in JUDGES)


def get_judge(name: str, given: Mapping[str, nn.Module]) -> nn.Module:
    """The given judge of that name, or else the one loaded from the usual cache.

    Raises:
        ValueError: it is not given, and there is no usual cache for it.
    """
    if name in given:
        return given[name]
    return RandomConvFeatures() if name == "random_conv" else load_judge(name)
