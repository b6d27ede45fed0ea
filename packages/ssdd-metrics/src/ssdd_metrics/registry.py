"""The table of metrics. Everything else that depends on a metric's name is derived from its one entry here.

Derived are the measurement itself, the sets "offline", "packaged" and "full", the pretrained networks to load, the
direction of `extremes`, and in applications the columns of reports and the panels of figures.
"""

import difflib
from collections.abc import Container, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from ssdd_metrics.efficientnet import SMALLEST_SIDE as EFFICIENTNET_SIDE
from ssdd_metrics.networks import SMALLEST_SIDES as SMALLEST
from ssdd_metrics.pixelwise import gradient_energy_ratio, mae, mse, psnr
from ssdd_metrics.pretrained import NETWORKS, RANDOM_CONV
from ssdd_metrics.ssim import GAUSSIAN_TAPS, UNIFORM_TAPS, ssim_gaussian, ssim_uniform


@dataclass(frozen=True)
class Metric:
    """One metric: how it is computed, and how its values are read.

    Args:
        name: the key in results, tables and parameters.
        title: the heading of a column or panel, with the unit.
        better: "higher", "lower" or "near 1".
        digits: decimals in reports.
        kind: "pixelwise": `function` maps two uint8 (B, 3, H, W) to (B,) values.
            "pairwise": `network` maps two (B, 3, H, W) to (B,) values.
            "frechet": the Frechet distance between the features (B, D) that `network` computes of either side.
            "distribution": `function` makes a torchmetrics metric, whose `update` takes two uint8 (B, 3, H, W).
        function: see `kind`.
        network: see `kind`; a name of `NETWORKS`, or "random_conv".
        scale: the factor that values carry, 1 for none.
        min_side: of an image, in pixels.
        can_be_infinite: values may be infinite for good reasons; `MetricSuite.compute` then reports how many are.
        in_report: reports show it; False for a second form of a metric that they show already.
    """

    name: str
    title: str
    better: Literal["higher", "lower", "near 1"]
    digits: int
    kind: Literal["pixelwise", "pairwise", "frechet", "distribution"]
    function: Any = None
    _: KW_ONLY
    network: str = ""
    scale: int = 1
    min_side: int = 1
    can_be_infinite: bool = False
    in_report: bool = True

    @property
    def per_image(self) -> bool:
        """Each image has a value of its own, so that there are tables and intervals; else only the set has one."""
        return self.kind in ("pixelwise", "pairwise")

    @property
    def extra(self) -> str | None:
        """The extra of this package that the metric needs."""
        return NETWORKS[self.network].extra if self.network in NETWORKS else None

    @property
    def direction(self) -> str:
        """The reading of a value, such as "higher is better" or "x 1000, lower is better"."""
        factor = f"x {self.scale}, " if self.scale != 1 else ""
        return f"{factor}{self.better} is better"

    def badness(self, values: Any) -> Any:
        """Maps an array of values to one in which the lowest is the best."""
        if self.better == "higher":
            return -values
        return values if self.better == "lower" else abs(values - 1)


def _sliced_wasserstein() -> Any:
    # The import takes seconds, because torchmetrics does; `import ssdd_metrics` must not.
    from ssdd_metrics.swd import SlicedWasserstein

    return SlicedWasserstein()


# Columns and panels stand in this order. `in_report=False` marks a twin: MSE and MAE add little to PSNR, and two forms
# of SSIM or LPIPS side by side invite a comparison between them, which means nothing.
_TABLE = (
    Metric("mse", "MSE", "lower", 5, "pixelwise", mse, in_report=False),
    Metric("mae", "MAE", "lower", 4, "pixelwise", mae, in_report=False),
    Metric("psnr", "PSNR (dB)", "higher", 2, "pixelwise", psnr, can_be_infinite=True),  # for identical images
    Metric("ssim_gaussian", "SSIM", "higher", 3, "pixelwise", ssim_gaussian, min_side=len(GAUSSIAN_TAPS)),
    Metric(
        "ssim_uniform",
        "SSIM (uniform window)",
        "higher",
        3,
        "pixelwise",
        ssim_uniform,
        min_side=len(UNIFORM_TAPS),
        in_report=False,
    ),
    # Infinite for a constant reference.
    Metric(
        "gradient_energy_ratio",
        "gradient energy ratio",
        "near 1",
        3,
        "pixelwise",
        gradient_energy_ratio,
        can_be_infinite=True,
    ),
    # The side is `swd.PATCH`; importing that here would import torchmetrics.
    Metric("swd", "sliced Wasserstein", "lower", 1, "distribution", _sliced_wasserstein, scale=1000, min_side=7),
    Metric("frechet_random_conv", "Frechet, random features", "lower", 4, "frechet", network=RANDOM_CONV),
    Metric("lpips_alex", "LPIPS (alex)", "lower", 4, "pairwise", network="lpips_alex", min_side=SMALLEST["alex"]),
    Metric(
        "lpips_vgg",
        "LPIPS (vgg)",
        "lower",
        4,
        "pairwise",
        network="lpips_vgg",
        min_side=SMALLEST["vgg"],
        in_report=False,
    ),
    Metric("rfid", "rFID", "lower", 3, "frechet", network="inception"),
    Metric("fdd", "FDD", "lower", 2, "frechet", network="dinov2"),
    Metric("dreamsim", "DreamSim", "lower", 4, "pairwise", network="dreamsim"),
    Metric(
        "efficientnet_distance",
        "perceptual distance (EfficientNet)",
        "lower",
        4,
        "pairwise",
        network="efficientnet",
        min_side=EFFICIENTNET_SIDE,
    ),
    Metric(
        "frechet_efficientnet",
        "Frechet, EfficientNet features",
        "lower",
        3,
        "frechet",
        network="efficientnet",
        min_side=EFFICIENTNET_SIDE,
    ),
)
METRICS = {metric.name: metric for metric in _TABLE}


def metric_sets() -> dict[str, tuple[str, ...]]:
    """The named sets.

    "offline" needs no pretrained network. "packaged" adds the metrics of networks whose weights are in a Python
    package; "full" adds to "offline" the metrics of networks whose weights are in a cache or downloaded.
    """

    def at(place: str | None) -> tuple[str, ...]:
        places = {name: NETWORKS[m.network].place if m.network in NETWORKS else None for name, m in METRICS.items()}
        return tuple(name for name, where in places.items() if where == place)

    return {"offline": at(None), "packaged": (*at(None), *at("package")), "full": (*at(None), *at("cache"))}


def metric_names(metrics: str | Sequence[str]) -> tuple[str, ...]:
    """Expands "offline", "packaged" and "full", and checks names.

    Raises:
        ValueError: an unknown name, none, or one twice.
    """
    sets = metric_sets()
    if isinstance(metrics, str):
        metrics = sets.get(metrics, (metrics,))
    for name in metrics:
        if name not in METRICS:
            near = difflib.get_close_matches(name, [*METRICS, *sets], n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join((*sets, *METRICS))}"
            raise ValueError(f"there is no metric {name!r}; {hint}")
    if not metrics or len(set(metrics)) != len(metrics):
        raise ValueError(f'expected "offline", "packaged", "full" or distinct names of metrics, got {list(metrics)}')
    return tuple(metrics)


def networks_of(metrics: str | Sequence[str]) -> tuple[str, ...]:
    """Returns the pretrained networks that metrics need, each once, by the names of `load_network`.

    Raises:
        ValueError: see `metric_names`.
    """
    needed = (METRICS[name].network for name in metric_names(metrics))
    return tuple(dict.fromkeys(name for name in needed if name in NETWORKS))


def reported_metrics(columns: Container[str]) -> list[Metric]:
    """Returns the metrics among some columns that a report shows, in the order in which it shows them."""
    return [metric for name, metric in METRICS.items() if metric.in_report and name in columns]
