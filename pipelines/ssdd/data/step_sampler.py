"""The images of each step: a pure function of (seed, epoch, step), for any number of processes."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from ssdd.data.image_dataset import Key


class StepSampler(Sampler[list[Key]]):
    """Batches of (epoch, index) keys for one process, for a loader's `batch_sampler`.

    Every epoch visits the images in a new order (or in their own, without `shuffle`), cut into global batches
    of `batch_size`. Process `rank` gets a contiguous slice of each, so that the processes' slices in the
    order of ranks are the global batch. An iteration yields the rest of ONE epoch, from the position set last. It
    does not move the position, since a loader takes keys before training has used their images.

    Args:
        length: number of images.
        batch_size: images per step over ALL processes.
        seed: seed of the orders.
        shuffle: whether epochs are shuffled.
        drop_last: True (training): the length % batch_size images that come last in an epoch's order are left
            out of that epoch, and all processes have equal slices. False (evaluation): every image exactly
            once; the last batch fills the slices of the first processes, and a process whose slice is empty
            makes one step less. So n * world_size images per step are cut into the same slices of n for any
            number of processes.
        rank: rank of this process.
        world_size: number of processes.

    Raises:
        ValueError: an argument is out of range; with `drop_last`, there is no whole batch, or slices are unequal.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if length < 1 or batch_size < 1 or seed < 0 or not 0 <= rank < world_size:
            raise ValueError(
                "expected length and batch_size of at least 1, seed of at least 0 and 0 <= rank < "
                f"world_size, got {length}, {batch_size}, {seed}, {rank}, {world_size}"
            )
        if drop_last and batch_size > length:
            raise ValueError(f"expected at least one batch of {batch_size} images, got {length}: lower batch_size")
        if drop_last and batch_size % world_size != 0:
            raise ValueError(
                f"expected a total batch_size that {world_size} processes can share equally, got "
                f"{batch_size}: take a multiple of {world_size}"
            )
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.shuffle, self.drop_last = shuffle, drop_last
        self.rank, self.world_size = rank, world_size
        self.epoch, self.step = 0, 0
        self._order: tuple[int, np.ndarray] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Global batches in one epoch, the same for all processes."""
        whole, rest = divmod(self.length, self.batch_size)
        return whole if self.drop_last or rest == 0 else whole + 1

    def set_position(self, epoch: int, step: int = 0) -> None:
        """Sets where the next iteration starts.

        Args:
            epoch: from 0.
            step: within the epoch, in [0, steps_per_epoch]; the end gives an empty iteration.

        Raises:
            ValueError: there is no such position.
        """
        if epoch < 0 or not 0 <= step <= self.steps_per_epoch:
            raise ValueError(
                f"expected an epoch of at least 0 and a step in [0, {self.steps_per_epoch}], got {epoch} and {step}"
            )
        self.epoch, self.step = epoch, step

    def batch(self, epoch: int, step: int) -> list[Key]:
        """Returns this process's keys of one step; it may be empty only in evaluation."""
        return [(epoch, int(index)) for index in self._permutation(epoch)[self._slice(step)]]

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self.epoch
        for step in range(self.step, self.steps_per_epoch):
            keys = self.batch(epoch, step)
            if keys:
                yield keys

    def __len__(self) -> int:
        """Batches that iterating yields from the position set last."""
        slices = map(self._slice, range(self.step, self.steps_per_epoch))
        return sum(part.start < part.stop for part in slices)

    def _slice(self, step: int) -> slice:
        """Returns the positions, in the epoch's order, of this process's images of one step."""
        start = step * self.batch_size
        size = min(self.batch_size, self.length - start)
        ends = (rank * self.batch_size // self.world_size for rank in (self.rank, self.rank + 1))
        first, last = (start + min(end, size) for end in ends)
        return slice(first, last)

    def _permutation(self, epoch: int) -> np.ndarray:
        """Returns the epoch's order (length,); the order used last is cached.

        It sorts raw 64-bit words. numpy keeps the stream of a bit generator for ever, but may change `shuffle` and
        `permutation`; a resumed run must see the same order after an update.
        """
        if self._order is None or self._order[0] != epoch:
            order = np.arange(self.length)
            if self.shuffle:
                words = np.random.PCG64([5, self.seed, epoch]).random_raw(self.length)
                order = np.argsort(words, kind="stable")
            self._order = (epoch, order)
        return self._order[1]
