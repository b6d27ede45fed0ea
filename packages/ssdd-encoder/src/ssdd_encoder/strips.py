"""Feature maps of one large image, computed and kept in strips of rows, so that memory does not grow with the image.

A convolution needs a few rows around its own, its halo. A norm needs the statistics of the whole map, which are taken
while the map is written. Maps lie in the host's memory up to a limit, and beyond it in temporary files that have no
name: they need space on a disk, and are gone when the process ends, however it ends.
"""

# C channels, H W feature map; strips are (1, C, rows, W), maps are kept as rows of (W, C)

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, cast

import torch
from torch import Tensor

MEMORY = 2**30  # bytes of all maps of an image that may stay in memory
# Features of a channel in one sum in float32. With 2**20, the deviation of a norm would be off by 3e-4 on a CPU, in
# PyTorch's own group norm too.
EXACT_SUM = 2**16
LEAST_ROWS = 8  # of a strip: with fewer, most of the work would be halo
SMALLEST_TILE, LARGEST_TILE = 16, 2**15

Rows = Callable[[int, int], Tensor]  # (top, bottom) -> (1, C, bottom - top, W)


class Moments:
    """Mean and variance of each channel, of features that come piece by piece.

    Args:
        like: (B, C, H, W), for channels, dtype and device.
    """

    def __init__(self, like: Tensor) -> None:
        self._count = 0
        self._mean = self._squares = torch.zeros(like.shape[1], dtype=torch.float64, device=like.device)
        self._dtype = torch.promote_types(like.dtype, torch.float32)

    def add(self, x: Tensor) -> None:
        """Counts features (1, C, H, W)."""
        for piece in x.split(max(1, EXACT_SUM // x.shape[3]), dim=2):
            self._add(piece)

    @property
    def mean(self) -> Tensor:
        """(C,), in float32 at least."""
        return self._mean.to(self._dtype)

    @property
    def variance(self) -> Tensor:
        """(C,), in float32 at least."""
        return (self._squares / self._count).to(self._dtype)

    def _add(self, x: Tensor) -> None:
        if x.device.type == "cpu":  # many times faster there than var_mean()
            unused = torch.zeros(x.shape[1], dtype=self._dtype)  # gives the result its dtype
            mean, variance = torch.batch_norm_update_stats(x, unused, unused, 0.0)
        else:
            variance, mean = torch.var_mean(x.to(self._dtype), (0, 2, 3), correction=0)
        # Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979
        count = x.shape[2] * x.shape[3]
        total, change = self._count + count, mean.double() - self._mean
        self._mean = self._mean + change * (count / total)
        self._squares = self._squares + variance.double() * count + change.square() * (self._count * count / total)
        self._count = total


def of_groups(means: Tensor, variances: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(variance + eps) of each channel's group, from means and variances of channels: all (B, C)."""
    means, variances = (each.unflatten(1, (groups, -1)) for each in (means, variances))
    between, mean = torch.var_mean(means, 2, correction=0, keepdim=True)
    inverse = (variances.mean(2, keepdim=True) + between).add_(eps).rsqrt_()
    return mean.expand_as(means).flatten(1), inverse.expand_as(means).flatten(1)


class FeatureMap:
    """A map (1, C, H, W), and the mean and variance of each channel.

    Args:
        like: a strip, for channels, width, dtype and device.
        height: H.
        in_memory: whether it lies in memory, not in a file.
    """

    def __init__(self, like: Tensor, height: int, in_memory: bool) -> None:
        self.channels, self.height, self.width = like.shape[1], height, like.shape[3]
        self._device, self._dtype = like.device, like.dtype
        self._row_bytes = self.channels * self.width * like.element_size()
        self._rows: Tensor | None = None
        self._file: BinaryIO | None = None
        if in_memory:
            self._rows = torch.empty(height, self.width, self.channels, dtype=like.dtype)
        else:
            self._file = cast("BinaryIO", tempfile.TemporaryFile(buffering=0))  # noqa: SIM115  # see `close`
        self._moments = Moments(like)

    @property
    def bytes(self) -> int:
        """Size of the map."""
        return self.height * self._row_bytes

    @property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of each channel: two (1, C), in float32 at least."""
        return self._moments.mean[None], self._moments.variance[None]

    def rows(self, top: int, bottom: int) -> Tensor:
        """Reads rows: (1, C, bottom - top, W), a copy in channels-last memory."""
        if self._rows is not None:
            rows = self._rows[top:bottom].to(self._device, copy=True)
        else:
            file, held = cast("BinaryIO", self._file), bytearray((bottom - top) * self._row_bytes)
            file.seek(top * self._row_bytes)
            view = memoryview(held)
            while view:
                view = view[cast("int", file.readinto(view)) :]  # type: ignore[attr-defined]
            rows = torch.frombuffer(held, dtype=self._dtype).view(-1, self.width, self.channels).to(self._device)
        return rows.permute(2, 0, 1)[None]

    def write(self, top: int, strip: Tensor) -> None:
        """Writes a strip, each one once, and counts it in the statistics."""
        self._moments.add(strip)
        rows = strip[0].permute(1, 2, 0)
        if self._rows is not None:
            self._rows[top : top + len(rows)].copy_(rows)
            return
        file, held = cast("BinaryIO", self._file), bytearray(len(rows) * self._row_bytes)
        torch.frombuffer(held, dtype=self._dtype).view(rows.shape).copy_(rows)
        file.seek(top * self._row_bytes)
        view = memoryview(held)
        while view:
            view = view[file.write(view) :]

    def close(self) -> None:
        """Frees the memory or the disk."""
        self._rows = None
        if self._file is not None:
            self._file.close()


class Workspace:
    """Computes the maps of one image strip by strip, and keeps them.

    Args:
        tile: a strip has about tile x tile features.
        work: features of all maps, for `progress`; see `fill`.
        progress: called after each strip with the part of the work that is done, from 0 to 1.
    """

    def __init__(self, tile: int, work: float = 1, progress: Callable[[float], None] | None = None) -> None:
        self._area, self._work, self._progress = tile**2, work, progress
        self._done = 0.0
        self._maps: list[FeatureMap] = []
        self._in_memory: set[FeatureMap] = set()

    def __enter__(self) -> "Workspace":
        return self

    def __exit__(self, *error: object) -> None:
        self.free(*self._maps)

    def strips(self, height: int, width: int, share: int = 1) -> Iterator[tuple[int, int]]:
        """Cuts a map into strips (top, bottom) of about equal height; `share` makes them so many times smaller."""
        count = -(-height // max(LEAST_ROWS, self._area // (share * width)))
        rows = -(-height // count)
        return ((top, min(top + rows, height)) for top in range(0, height, rows))

    def fill(
        self, compute: Rows, height: int, width: int, strips: Iterable[tuple[int, int]] | None = None
    ) -> FeatureMap:
        """Computes a map (1, C, height, width) by strips, which count as C x height x width of the work.

        Args:
            compute: a strip, given its first row and the one after its last.
            height, width: of the map.
            strips: its strips, if not those of `strips`.
        """
        result: FeatureMap | None = None
        for top, bottom in strips or self.strips(height, width):
            strip = compute(top, bottom)
            if result is None:
                result = self._new(strip, height)
            result.write(top, strip)
            self.advance(strip.numel())
        return cast("FeatureMap", result)

    def free(self, *maps: FeatureMap) -> None:
        """Frees maps that are no longer needed."""
        for each in maps:
            each.close()
            self._in_memory.discard(each)
        self._maps = [each for each in self._maps if each not in maps]

    def advance(self, work: float) -> None:
        """Counts so much of the work as done."""
        self._done += work
        if self._progress is not None:
            self._progress(min(1.0, self._done / self._work))

    def _new(self, like: Tensor, height: int) -> FeatureMap:
        held = sum(each.bytes for each in self._in_memory)
        fits = held + height * like[0, :, 0].numel() * like.element_size() <= MEMORY
        result = FeatureMap(like, height, fits)
        self._maps.append(result)
        if fits:
            self._in_memory.add(result)
        return result


def with_halo(maps: Sequence[FeatureMap], top: int, bottom: int, halo: int = 1) -> tuple[Tensor, int]:
    """Reads rows of maps, side by side in their channels, with a halo inside the map.

    Args:
        maps: of one height and width.
        top, bottom: of the rows, without halo.
        halo: rows above and below.

    Returns:
        the rows (1, C, n, W), and the place of row `top` in them.
    """
    first, end = max(0, top - halo), min(maps[0].height, bottom + halo)
    parts = [each.rows(first, end) for each in maps]
    return (torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]), top - first


def group_statistics(maps: Sequence[FeatureMap], groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """`of_groups`, of maps side by side in their channels."""
    means, variances = (torch.cat(each, dim=1) for each in zip(*(each.statistics for each in maps), strict=True))
    return of_groups(means, variances, groups, eps)


def check_tile(tile: object) -> None:
    """Refuses a side of tiles that is not an integer in range, with a ValueError."""
    if isinstance(tile, bool) or not isinstance(tile, int) or not SMALLEST_TILE <= tile <= LARGEST_TILE:
        raise ValueError(
            f"expected tile to be an integer from {SMALLEST_TILE} to {LARGEST_TILE}, in pixels, got {str(tile)[:100]}: "
            "leave it out to compute the image as a whole"
        )
