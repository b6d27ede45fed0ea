"""The table of metrics. Everything else that depends on a metric's name is derived from its one entry here.

Derived are the measurement itself, the sets "offline" and "full", the pretrained networks to load, the direction of
`extremes`, and in applications the columns of reports and the panels of figures.
"""

import difflib
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ssdd_metrics import pixelwise, ssim
from ssdd_metrics.networks import SMALLEST_SIDES
from ssdd_metrics.pretrained import NETWORKS, RANDOM_CONV


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric: how it is computed, and how its values are read.

    Args:
        name: the key in results, tables and parameters.
        title: the heading of a column or panel, with the unit.
        better: "higher", "lower" or "near 1".
        digits: decimals in reports.
        scale: the factor that values carry, 1 for none.
        kind: "pixelwise": `function` maps two uint8 (B, 3, H, W) to (B,) values.
            "pairwise": `network` maps two (B, 3, H, W) to (B,) values.
            "frechet": the Frechet distance between the features (B, D) that `network` computes of either side.
            "distribution": `function` makes a torchmetrics metric, whose `update` takes two uint8 (B, 3, H, W).
        function: see `kind`.
        network: see `kind`; a name of `NETWORKS`, or "random_conv".
        smallest_side: of an image, in pixels.
        can_be_infinite: values may be infinite for good reasons; `MetricSuite.compute` then reports how many are.
        in_report: reports show it; False for a second form of a metric that they show already.
    """

    name: str
    title: str
    better: Literal["higher", "lower", "near 1"]
    digits: int
    scale: int = 1
    kind: Literal["pixelwise", "pairwise", "frechet", "distribution"]
    function: Any = None
    network: str = ""
    smallest_side: int = 1
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
        """Tells how to read a value, such as "higher is better" or "x 1000, lower is better"."""
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


# The order is that of columns and panels. `in_report=False` marks a twin: MSE and MAE add little to PSNR, and two forms
# of SSIM or LPIPS side by side invite a comparison between them, which means nothing.
_TABLE = (
    Metric(
        name="mse", title="MSE", better="lower", digits=5, kind="pixelwise", function=pixelwise.mse, in_report=False
    ),
    Metric(
        name="mae", title="MAE", better="lower", digits=4, kind="pixelwise", function=pixelwise.mae, in_report=False
    ),
    Metric(
        name="psnr",
        title="PSNR (dB)",
        better="higher",
        digits=2,
        kind="pixelwise",
        function=pixelwise.psnr,
        can_be_infinite=True,  # for identical images
    ),
    Metric(
        name="ssim_gaussian",
        title="SSIM",
        better="higher",
        digits=3,
        kind="pixelwise",
        function=ssim.ssim_gaussian,
        smallest_side=len(ssim.GAUSSIAN_TAPS),
    ),
    Metric(
        name="ssim_uniform",
        title="SSIM (uniform window)",
        better="higher",
        digits=3,
        kind="pixelwise",
        function=ssim.ssim_uniform,
        smallest_side=len(ssim.UNIFORM_TAPS),
        in_report=False,
    ),
    Metric(
        name="gradient_energy_ratio",
        title="gradient energy ratio",
        better="near 1",
        digits=3,
        kind="pixelwise",
        function=pixelwise.gradient_energy_ratio,
        can_be_infinite=True,  # for a constant reference
    ),
    Metric(
        name="swd",
        title="sliced Wasserstein",
        better="lower",
        digits=1,
        scale=1000,
        kind="distribution",
        function=_sliced_wasserstein,
        smallest_side=7,  # swd.PATCH; importing swd would import torchmetrics
    ),
    Metric(
        name="frechet_random_conv",
        title="Frechet, random features",
        better="lower",
        digits=4,
        kind="frechet",
        network=RANDOM_CONV,
    ),
    Metric(
        name="lpips_alex",
        title="LPIPS (alex)",
        better="lower",
        digits=4,
        kind="pairwise",
        network="lpips_alex",
        smallest_side=SMALLEST_SIDES["alex"],
    ),
    Metric(
        name="lpips_vgg",
        title="LPIPS (vgg)",
        better="lower",
        digits=4,
        kind="pairwise",
        network="lpips_vgg",
        smallest_side=SMALLEST_SIDES["vgg"],
        in_report=False,
    ),
    Metric(name="rfid", title="rFID", better="lower", digits=3, kind="frechet", network="inception"),
    Metric(name="fdd", title="FDD", better="lower", digits=2, kind="frechet", network="dinov2"),
    Metric(name="dreamsim", title="DreamSim", better="lower", digits=4, kind="pairwise", network="dreamsim"),
)
METRICS = {metric.name: metric for metric in _TABLE}


def metric_sets() -> dict[str, tuple[str, ...]]:
    """The named sets: "offline" needs no pretrained network, "full" only such as find their weights by themselves."""
    offline = tuple(name for name, metric in METRICS.items() if metric.network not in NETWORKS)
    downloads = (name for name, m in METRICS.items() if m.network in NETWORKS and NETWORKS[m.network].downloads)
    return {"offline": offline, "full": (*offline, *downloads)}


def metric_names(metrics: str | Sequence[str]) -> tuple[str, ...]:
    """Expands "offline" and "full", and checks names.

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
        raise ValueError(f'expected "offline", "full" or distinct names of metrics, got {list(metrics)}')
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
