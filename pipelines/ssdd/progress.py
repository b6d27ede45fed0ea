"""Progress bars that share the log's console: one counts images, the one of training shows loss and speed too."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
def bar(title: str, total: int, show: bool = True) -> Iterator[Callable[[float], None]]:
    """Yields a function that counts so many more images, or so much of one.

    Args:
        title: text before the bar.
        total: how many there are.
        show: False for no bar.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=rich.get_console(), disable=not show) as progress:
        task = progress.add_task(title, total=total)

        def advance(count: float = 1) -> None:
            done = progress.tasks[task].completed + count
            progress.update(task, completed=round(done, 6))  # parts of an image must add up to it

        yield advance


# Seconds over which rich averages the speed for the time left. Its default of 30 is less than one step of a large
# batch on a CPU, and the estimate would jump at every evaluation.
SPEED_PERIOD = 600.0


class TrainingBar:
    """A rich progress bar that shares the log's console.

    Args:
        title: text before the bar.
        total: steps of the whole run.
        done: steps of earlier sessions.
        shown: False for no bar, and on all but one process.
    """

    def __init__(self, title: str, total: int, done: int = 0, shown: bool = True):
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
        )
        # the log's console: with another one, lines of the log would break the bar
        console = rich.get_console()
        self._progress = Progress(*columns, console=console, disable=not shown, speed_estimate_period=SPEED_PERIOD)
        self._task = self._progress.add_task(title, total=total, completed=done, said="")

    def __enter__(self) -> "TrainingBar":
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def advance(self, loss: float, speed: float) -> None:
        """Counts one step."""
        self._progress.update(self._task, advance=1, said=f"loss {loss:.4f} {speed:.1f} images/s")
