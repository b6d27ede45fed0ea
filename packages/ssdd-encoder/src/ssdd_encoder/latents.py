"""Statistics of latents, and the functions that normalise latents with them and back."""

# B batch, C latent channels, h w latent cells

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LatentStatistics:
    """Mean and standard deviation of posterior modes, per channel and over all elements.

    Args:
        mean: (C,), float64.
        std: (C,), float64, unbiased.
        overall_mean: over all elements.
        overall_std: over all elements, unbiased.
        count: number of elements per channel in the statistics.
    """

    mean: Tensor
    std: Tensor
    overall_mean: float
    overall_std: float
    count: int

    def normalize(self, z: Tensor) -> Tensor:
        """(B, C, h, w) -> zero mean and unit standard deviation in each channel.

        Raises:
            ValueError: z has another number of channels, or a channel of the statistics does not vary.
        """
        if not bool((self.std > 0).all()):
            raise ValueError(
                f"expected standard deviations above 0, got {self.std.tolist()}: compute the statistics on more images"
            )
        mean, std = self._broadcast(z)
        return (z - mean) / std

    def denormalize(self, z: Tensor) -> Tensor:
        """Undoes `normalize`: (B, C, h, w) -> latents as the encoder makes and the decoder takes them.

        Raises:
            ValueError: z has another number of channels.
        """
        mean, std = self._broadcast(z)
        return z * std + mean

    def to_dict(self) -> dict[str, object]:
        """JSON-able form, which `from_dict` reads."""
        return {
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "overall_mean": self.overall_mean,
            "overall_std": self.overall_std,
            "count": self.count,
        }

    @classmethod
    def from_dict(cls, values: dict) -> "LatentStatistics":
        """Makes the statistics from the result of `to_dict`.

        Raises:
            ValueError: an entry is missing or is not a number.
        """
        try:
            return cls(
                mean=torch.tensor(values["mean"], dtype=torch.float64),
                std=torch.tensor(values["std"], dtype=torch.float64),
                overall_mean=float(values["overall_mean"]),
                overall_std=float(values["overall_std"]),
                count=int(values["count"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"expected what LatentStatistics.to_dict makes, got {str(values)[:100]}") from error

    def _broadcast(self, z: Tensor) -> tuple[Tensor, Tensor]:
        if z.ndim != 4 or z.shape[1] != self.mean.numel():
            raise ValueError(
                f"expected latents of shape (B, {self.mean.numel()}, h, w), got {tuple(z.shape)}: use the statistics "
                "of the encoder that made them"
            )
        return self.mean.to(z).view(1, -1, 1, 1), self.std.to(z).view(1, -1, 1, 1)


class LatentAccumulator:
    """Computes `LatentStatistics` over any number of batches in constant memory, in float64.

    Batches are combined by the pairwise update of Chan, Golub and LeVeque (1979). Sums of squares would lose the digits
    of a small variance around a large mean.
    """

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)  # sum of (z - mean)^2

    def update(self, z: Tensor) -> None:
        """Adds latents (B, C, h, w).

        Raises:
            ValueError: z has another number of channels, or holds NaN or infinity.
        """
        if z.ndim != 4 or z.shape[1] != self.mean.numel():
            raise ValueError(f"expected latents of shape (B, {self.mean.numel()}, h, w), got {tuple(z.shape)}")
        values = z.detach().to("cpu", torch.float64).transpose(0, 1).flatten(1)  # (C, B h w)
        if not torch.isfinite(values).all():
            raise ValueError("expected finite latents, got NaN or infinity: check the encoder and its images")
        mean = values.mean(dim=1)
        squares = (values - mean[:, None]).square().sum(dim=1)
        self._combine(values.shape[1], mean, squares)

    def merge(self, other: "LatentAccumulator") -> None:
        """Adds the latents of another accumulator (of another process).

        Raises:
            ValueError: the numbers of channels differ.
        """
        if other.mean.shape != self.mean.shape:
            raise ValueError(
                f"expected an accumulator of {self.mean.numel()} channels, got one of {other.mean.numel()}: "
                "merge those of one encoder"
            )
        self._combine(other.count, other.mean, other.squares)

    def compute(self) -> LatentStatistics:
        """Returns the statistics of all latents so far.

        Raises:
            ValueError: fewer than two elements per channel were added.
        """
        if self.count < 2:
            raise ValueError(f"expected at least two elements per channel, got {self.count}: add images first")
        total = self.count * self.mean.numel()
        overall = self.mean.mean()
        squares = self.squares.sum() + self.count * (self.mean - overall).square().sum()
        return LatentStatistics(
            mean=self.mean.clone(),
            std=(self.squares / (self.count - 1)).sqrt(),
            overall_mean=overall.item(),
            overall_std=(squares / (total - 1)).sqrt().item(),
            count=self.count,
        )

    def _combine(self, count: int, mean: Tensor, squares: Tensor) -> None:
        total = self.count + count
        if not count:
            return
        delta = mean - self.mean
        self.mean = self.mean + delta * (count / total)
        self.squares = self.squares + squares + delta.square() * (self.count * count / total)
        self.count = total
