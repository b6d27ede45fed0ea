"""Periodic evaluation, while a stage trains: reconstructs the held-out images and measures them."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from ssdd.autoencoder import SSDD
from ssdd.data.image_dataset import ImageDataset
from ssdd.data.loader import batches
from ssdd.evaluation.passes import reconstruct
from ssdd.parameters import StageParameters
from ssdd_metrics.suite import MetricSuite


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Result of one evaluation: figures by name, and images to look at, (N, 3, H, W) in [-1, 1]."""

    metrics: dict[str, float]
    images: Tensor | None = None


class Evaluator:
    """Callable for the loop; every process measures its share, all get the figures of the whole.

    Noise is drawn per image, keyed by the seed and the image's index, so the figures do not depend on how images
    are batched.

    Args:
        model: the networks that train.
        dataset: held-out images.
        stage: metrics, sampler steps and batch size of the evaluation, and the seed of the noise.
        workers: data loader workers.
        networks: the metrics' networks, by name; the others are loaded from the usual cache.

    Raises:
        ValueError: an unknown metric.
        NetworkUnavailable: a metric's network is missing (at once, not after the first epochs).
    """

    def __init__(
        self,
        model: SSDD,
        dataset: ImageDataset,
        stage: StageParameters,
        workers: int = 0,
        networks: Mapping[str, nn.Module] | None = None,
    ):
        self.model, self.dataset, self.stage, self.workers = model, dataset, stage, workers
        # A suite keeps the values of its images, so each evaluation has a new one; the networks are loaded once, here.
        self.networks = MetricSuite(stage.eval_metrics, networks=networks).networks

    def __call__(self, accelerator: Accelerator) -> Evaluation:
        """Evaluates the networks as they are."""
        rank, processes = accelerator.process_index, accelerator.num_processes
        suite = MetricSuite(self.stage.eval_metrics, networks=self.networks, device=accelerator.device)
        shown: list[Tensor] = []
        for batch in batches(self.dataset, self.stage.eval_batch_size, self.workers, rank, processes):
            image, numbers = batch["image"].to(accelerator.device), batch["index"].tolist()
            _, reconstruction = next(reconstruct(self.model, image, numbers, [self.stage.eval_steps], self.stage.seed))
            suite.update((image.clamp(-1, 1) + 1) / 2, (reconstruction + 1) / 2, batch["index"])
            missing = self.stage.eval_shown - sum(len(pair) // 2 for pair in shown)
            shown += [torch.cat([image[:missing], reconstruction[:missing]])] if missing > 0 else []
        return Evaluation(metrics=self._figures(suite, accelerator), images=_rows(shown) if shown else None)

    def _figures(self, suite: MetricSuite, accelerator: Accelerator) -> dict[str, float]:
        if accelerator.num_processes > 1:
            states = gather_object([{name: value.cpu() for name, value in suite.state().items()}])
            suite = MetricSuite(self.stage.eval_metrics, networks=self.networks, device=accelerator.device)
            for state in states:
                suite.merge(state)
        return {name: float(value) for name, value in suite.compute().items()}


def _rows(pairs: Sequence[Tensor]) -> Tensor:
    """Originals, then reconstructions: (2 N, 3, H, W)."""
    halves = [pair.chunk(2) for pair in pairs]
    return torch.cat([*(original for original, _ in halves), *(decoded for _, decoded in halves)])
