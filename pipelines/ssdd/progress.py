"""The progress of long work, as a bar on a terminal or as lines in a file; both share the log's console."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, Self

import rich
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Mode = Literal["auto", "bar", "lines", "none"]

# Seconds over which rich averages the speed for the time left. Its default of 30 is less than one step of a large
# batch on a CPU, and the estimate would jump at every evaluation.
SPEED_PERIOD = 600.0


@dataclass(frozen=True)
class Display:
    """The way in which progress is shown.

    Attributes:
        mode: `bar`, `lines`, `none`, or `auto`: a bar on a terminal or in a notebook, lines everywhere else.
        seconds: between two lines.
    """

    mode: Mode = "auto"
    seconds: float = 30.0

    def on(self, console: Console) -> Mode:
        """Returns the mode on a console, never `auto`."""
        if self.mode == "auto":
            return "bar" if console.is_terminal or console.is_jupyter else "lines"
        return self.mode


Show = Display | bool
"""True stands for the default display, False for none."""


class Meter:
    """Counts to a total, and shows how far it is; enter it to begin.

    Args:
        title: text in front.
        total: how many there are.
        done: how many were done before.
        show: the display.
        unit: what is counted, with its speed in the lines; "" for no speed.
    """

    def __init__(self, title: str, total: int, done: int = 0, show: Show = True, unit: str = "images") -> None:
        display = show if isinstance(show, Display) else Display("auto" if show else "none")
        # the log's console: with another one, lines of the log would break the bar
        self._console = rich.get_console()
        self._mode, self._seconds = display.on(self._console), display.seconds
        # Lines take the time left from rich too, so that they tell the numbers of the bar.
        self._progress = Progress(
            *self._columns(), console=self._console, disable=self._mode != "bar", speed_estimate_period=SPEED_PERIOD
        )
        self._title, self._unit, self._before = title, unit, done
        self._task = self._progress.add_task(title, total=total, completed=done, said="")
        self._began = self._told = self._progress.get_time()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self._progress.stop()
        if kind is None and self._mode == "lines":
            self._tell(f"done in {_clock(self._progress.get_time() - self._began)}")

    def count(self, number: float = 1) -> None:
        """Counts so many more, or so much of one."""
        self._advance(number)

    def _advance(self, number: float, said: str = "") -> None:
        task = self._progress.tasks[0]
        # Rank 0 counts for all, and the others may have had less in the last batch.
        number = min(number, (task.total or 0) - task.completed)
        # Rounded, for the parts of an image must add up to it.
        self._progress.update(self._task, advance=round(task.completed + number, 6) - task.completed, said=said)
        if self._mode == "lines" and self._progress.get_time() - self._told >= self._seconds:
            left = self._progress.tasks[0].time_remaining
            self._tell("time left unknown" if left is None else f"{_clock(left)} left")

    def _tell(self, time: str) -> None:
        self._told = self._progress.get_time()
        parts = [*self._figures(self._progress.tasks[0]), time, peak_memory()]
        line = f"{datetime.now():%H:%M:%S} {self._title}: {', '.join(part for part in parts if part)}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _columns(self) -> list[Any]:
        return [
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(),
        ]  # fmt: skip

    def _figures(self, task: Any) -> list[str]:
        speed = (task.completed - self._before) / max(self._told - self._began, 1e-9)
        return [_share(task), _rate(speed, self._unit) if self._unit and task.completed > self._before else ""]


class TrainingBar(Meter):
    """Counts steps, and shows the loss and the speed of the last one.

    Args:
        title: text in front.
        total: steps of the whole run.
        done: steps of earlier sessions.
        show: the display.
        per_epoch: steps of an epoch.
    """

    def __init__(self, title: str, total: int, done: int = 0, show: Show = True, per_epoch: int = 1) -> None:
        super().__init__(title, total, done, show)
        self._per_epoch, self._last = per_epoch, [""]

    def advance(self, loss: float, speed: float, waiting: float | None = None) -> None:
        """Counts one step.

        Args:
            loss: of the step.
            speed: images per second.
            waiting: share of its time in which this process waited for the batch; None: not measured.
        """
        self._last = [f"loss {loss:.4f}", _rate(speed, "images")]
        if waiting is not None:
            self._last.append(f"data {100 * waiting:.0f} %")
        self._advance(1, " ".join(self._last))

    def _columns(self) -> list[Any]:
        said = TextColumn("{task.fields[said]}")
        return [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), said, TimeRemainingColumn()]

    def _figures(self, task: Any) -> list[str]:
        epochs = -(-int(task.total) // self._per_epoch)
        epoch = min(int(task.completed) // self._per_epoch + 1, epochs)
        return [f"step {_share(task)}", f"epoch {epoch}/{epochs}", *self._last]


@contextmanager
def bar(title: str, total: int, show: Show = True, unit: str = "images") -> Iterator[Callable[[float], None]]:
    """Yields a function that counts so many more, or so much of one; see `Meter`."""
    with Meter(title, total, show=show, unit=unit) as meter:
        yield meter.count


def peak_memory() -> str:
    """Returns the most memory that this process has held so far, in words: of its GPU if it uses one, else its own."""
    torch = sys.modules.get("torch")  # imported by whoever uses a GPU
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return f"peak GPU memory {torch.cuda.max_memory_allocated() / 1e9:.2f} GB"
    try:
        import resource
    except ImportError:  # Windows
        return ""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return f"peak memory {most * (1 if sys.platform == 'darwin' else 1024) / 1e9:.2f} GB"


def _share(task: Any) -> str:
    done, total = int(task.completed), int(task.total)
    return f"{done}/{total} ({100 * task.completed / max(total, 1):.1f} %)"  # parts of an image count


def _rate(speed: float, unit: str) -> str:
    """A speed per second in words; per minute or hour if it would read 0.0."""
    for seconds, name in ((1, "s"), (60, "min")):
        if speed * seconds >= 0.1:
            return f"{speed * seconds:.1f} {unit}/{name}"
    return f"{speed * 3600:.1f} {unit}/h"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
