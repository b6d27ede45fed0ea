"""The share of a command's images that each rank of a launcher takes, and the lists of all ranks together.

Every rank reads all images, because that decides the batches; the networks' work and the writing are shared.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """The place of this process among those that share the images of one command.

    Args:
        rank: of this process.
        ranks: their number.
    """

    rank: int = 0
    ranks: int = 1

    @classmethod
    def of_launcher(cls) -> "Share":
        """Joins the ranks that torchrun, srun or mpirun has started; a process without such is alone.

        Raises:
            ValueError: the launcher's variables contradict each other.
        """
        from ssdd.launchers import adopt
        from ssdd.processes import join_group

        adopt()
        return cls(*join_group())

    @property
    def leads(self) -> bool:
        """Whether this process writes what all have in common, and speaks to the user."""
        return self.rank == 0

    def of(self, batches: Iterable[Sequence[T]], advance: Callable[[float], object]) -> Iterator[Sequence[T]]:
        """Yields this rank's batches of those that all ranks make alike.

        A result may differ in its last bits in another batch, so the ranks share whole batches, not images.

        Args:
            batches: the same in all ranks.
            advance: told the size of each batch that another rank has.
        """
        for number, batch in enumerate(batches):
            if number % self.ranks == self.rank:
                yield batch
            else:
                advance(len(batch))

    def together(self, mine: Sequence[T]) -> list[T]:
        """Returns the lists of all ranks in one, in every rank; all call it."""
        if self.ranks == 1:
            return list(mine)
        from ssdd.processes import gather_everywhere

        return [item for part in gather_everywhere(list(mine)) for item in part]


ALONE = Share()
