"""The progress bar of everything that counts images; training has its own, with the loss."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(title: str, total: int, show: bool = True) -> Iterator[Callable[[int], None]]:
    """Yields a function that counts so many more; the bar shares the log's console.

    Args:
        title: what stands before the bar.
        total: how many there are.
        show: False where no bar is wanted.
    """
    import rich
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=rich.get_console(), disable=not show) as progress:
        task = progress.add_task(title, total=total)

        def advance(count: int = 1) -> None:
            progress.advance(task, count)

        yield advance
