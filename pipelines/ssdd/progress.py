"""Progress bars that share the log's console: one that counts images, and that of training, with loss and speed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

import rich
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@contextmanager
def bar(title: str, total: int, show: bool = True) -> Iterator[Callable[[int], None]]:
    """Yields a function that counts so many more; the bar shares the log's console.

    Args:
        title: what stands before the bar.
        total: how many there are.
        show: False where no bar is wanted.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=rich.get_console(), disable=not show) as progress:
        task = progress.add_task(title, total=total)

        def advance(count: int = 1) -> None:
            progress.advance(task, count)

        yield advance


SPEED_PERIOD = 600.0  # seconds whose steps tell the time left: some evaluations, and some steps however slow


class TrainingBar:
    """A rich progress bar that shares the log's console.

    Args:
        title: what stands before the bar.
        total: steps of the whole run.
        done: steps of earlier sittings.
        shown: False on all but one process, and where no bar is wanted.
    """

    def __init__(self, title: str, total: int, done: int = 0, shown: bool = True):
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
        )
        console = rich.get_console()
        self._progress = Progress(*columns, console=console, disable=not shown, speed_estimate_period=SPEED_PERIOD)
        self._task = self._progress.add_task(title, total=total, completed=done, said="")

    def __enter__(self) -> "TrainingBar":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def advance(self, loss: float, speed: float) -> None:
        """Counts one step."""
        self._progress.update(self._task, advance=1, said=f"loss {loss:.4f} {speed:.1f} images/s")
