"""Periodic evaluation: reconstructs the validation images and measures them with the metric suite."""

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from ssdd.autoencoder import SSDD
from ssdd.data.image_dataset import ImageDataset
from ssdd.evaluation.passes import batches, reconstruct
from ssdd.parameters import EvalConfig
from ssdd.training.loop import Evaluation
from ssdd_metrics.suite import MetricSuite


class Evaluator:
    """Callable for the loop; every process measures its share, all get the figures of the whole.

    Noise is drawn per image, keyed by the seed and the image's index, so the figures do not depend on how images
    are batched.

    Args:
        model: the networks that train.
        dataset: validation images.
        config: metrics, sampling steps, batch size.
        seed: of the noise.
        workers: data loader workers.
        networks: those that the metrics ask, by name; the others are loaded from the usual cache.

    Raises:
        ValueError: an unknown metric.
        NetworkUnavailable: a metric's network is not there (at once, not after the first epochs).
    """

    def __init__(
        self,
        model: SSDD,
        dataset: ImageDataset,
        config: EvalConfig,
        seed: int,
        workers: int = 0,
        networks: Mapping[str, nn.Module] | None = None,
    ):
        self.model, self.dataset, self.config = model, dataset, config
        self.seed, self.workers = seed, workers
        self.networks = MetricSuite(config.metrics, networks=networks).networks

    def __call__(self, accelerator: Accelerator) -> Evaluation:
        """Evaluates the networks as they are."""
        rank, processes = accelerator.process_index, accelerator.num_processes
        suite = MetricSuite(self.config.metrics, networks=self.networks, device=accelerator.device)
        shown: list[Tensor] = []
        for batch in batches(self.dataset, self.config.batch_size, self.workers, rank, processes):
            image, numbers = batch["image"].to(accelerator.device), batch["index"].tolist()
            _, reconstruction = next(reconstruct(self.model, image, numbers, [self.config.steps], self.seed))
            suite.update((image.clamp(-1, 1) + 1) / 2, (reconstruction + 1) / 2, batch["index"])
            missing = self.config.shown - sum(len(pair) // 2 for pair in shown)
            shown += [torch.cat([image[:missing], reconstruction[:missing]])] if missing > 0 else []
        return Evaluation(metrics=self._figures(suite, accelerator), images=_rows(shown) if shown else None)

    def _figures(self, suite: MetricSuite, accelerator: Accelerator) -> dict[str, float]:
        if accelerator.num_processes > 1:
            states = gather_object([{name: value.cpu() for name, value in suite.state().items()}])
            suite = MetricSuite(self.config.metrics, networks=self.networks, device=accelerator.device)
            for state in states:
                suite.merge(state)
        return {name: float(value) for name, value in suite.compute().items()}


def _rows(pairs: Sequence[Tensor]) -> Tensor:
    """Originals, then reconstructions: (2 N, 3, H, W)."""
    halves = [pair.chunk(2) for pair in pairs]
    return torch.cat([*(original for original, _ in halves), *(decoded for _, decoded in halves)])
