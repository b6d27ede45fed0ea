"""Work that goes on beside the steps: one piece at a time, in a thread; its errors come up in the steps."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait


class Background:
    """Does one piece of work at a time in a thread of its own, which begins with the first piece."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "state-writer")
        self._work: Future[object] | None = None

    def begin(self, work: Callable[[], object]) -> None:
        """Begins a piece of work; waits for the one before.

        Raises:
            OSError: the one before has failed.
        """
        self.wait()
        self._work = self._pool.submit(work)

    def check(self) -> None:
        """Raises the error of work that has failed; does not wait."""
        if self._work is not None and self._work.done():
            self.wait()

    def wait(self) -> None:
        """Returns when the work is done, or raises its error, once."""
        if self._work is not None:
            work, self._work = self._work, None
            work.result()

    def close(self) -> None:
        """Returns when the work is done; only `wait` raises its error, since another one may have ended the steps."""
        if self._work is not None:
            wait([self._work])
