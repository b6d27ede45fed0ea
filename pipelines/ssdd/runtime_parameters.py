"""The machine's side of a run: devices, processes, states, progress."""

from typing import Any, Literal

from pydantic import Field, field_validator

from ssdd.loop_parameters import Frozen
from ssdd.progress import Display, Mode

MOST_THREADS = 1024  # a value beyond it is a typing error, refused before memory or hours are spent


class RuntimeConfig(Frozen):
    """The machine's side of a run: it never changes a result, so it never enters a fingerprint."""

    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: a GPU if there is one")
    threads: int | Literal["auto"] | None = Field(
        default=None,
        description="CPU threads of all processes; null: torch decides; auto: a training stage of one process on a CPU "
        "measures whether one or all cores are faster, everything else does as with null",
    )
    processes: int = Field(default=1, ge=1, le=256, description="that train or evaluate together")
    trainings_at_once: int = Field(
        default=1,
        ge=1,
        le=16,
        description="training stages that run side by side where none needs another's result, each in a process of its "
        "own with its share of the cores; without effect if processes is not 1",
    )
    sharding: Literal["none", "optimizer"] = Field(
        default="none",
        description="what is divided among the processes of a training stage; optimizer: moments and moving average",
    )
    workers: int = Field(default=4, ge=0, le=256, description="data loader workers per process")
    save_every: int = Field(default=1000, ge=1, description="steps between two resume states")
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        default=("tensorboard",), description="where training writes its curves"
    )
    requeue_code: int | None = Field(
        default=None, ge=1, le=255, description="exit code of a run that SIGTERM or SIGUSR1 ended; null: 128 + signal"
    )
    progress: Mode = Field(
        default="auto", description="of long work; auto: a bar on a terminal, lines everywhere else (Slurm, CI, a file)"
    )
    progress_seconds: float = Field(default=30.0, gt=0, description="between two lines of progress")

    @property
    def display(self) -> Display:
        """How progress is shown."""
        return Display(self.progress, self.progress_seconds)

    @field_validator("progress", mode="before")
    @classmethod
    def _progress_as_mode(cls, progress: Any) -> Any:
        # Earlier versions had a boolean here; on the command line it is a text.
        return {"true": "auto", "false": "none"}.get(str(progress).lower(), progress)

    @field_validator("threads", mode="before")
    @classmethod
    def _threads_in_range(cls, threads: Any) -> Any:
        # Here, because pydantic would report once for each of the three types.
        if not (threads in ("auto", None) or (isinstance(threads, int) and 1 <= threads <= MOST_THREADS)):
            raise ValueError(f"expected a number from 1 to {MOST_THREADS}, auto or null, got {threads!r}: try auto")
        return threads
