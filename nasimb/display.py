"""Progress for people, on stderr: one live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from nasimb.budget import Clock
from nasimb.progress import Progress, Silent, Watcher
from nasimb.progress import clock_time as clock_time

LABELS = {
    "plan": "measuring",
    "prepare": "reading the data",
    "supernet": "training the super-network",
    "search": "searching",
    "head": "fitting heads on the finalists",
    "evaluate": "testing",
    "predict": "predicting",
    "retrain": "training all weights",
}
BAR = 24
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Display:
    """A `nasimb.progress.Watcher` for the command line; use it as a context manager.

    Args:
        every_seconds: longest silence where there is no terminal.
    """

    def __init__(self, console: Console, clock: Clock = time.monotonic, every_seconds: float = 10.0) -> None:
        self._console, self._clock, self._every_seconds = console, clock, every_seconds
        self._live = Live(console=console, refresh_per_second=8, transient=True) if console.is_terminal else None
        self._phase, self._shown = "", float("-inf")

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.update(Text(""))
            self._live.stop()

    def say(self, line: str) -> None:
        """One line that stays."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def show(self, progress: Progress) -> None:
        """The live line, or a plain one if the phase is new or the last one is long ago."""
        if self._live is not None:
            self._live.update(Text(sentence(progress, bar=True), overflow="ellipsis", no_wrap=True))
            return
        due = self._clock() - self._shown >= self._every_seconds
        if due or progress.phase != self._phase:
            self._phase, self._shown = progress.phase, self._clock()
            self.say(sentence(progress, bar=False))


def sentence(progress: Progress, *, bar: bool) -> str:
    """E.g. `searching  47 %  1m52s of 3m00s  best 0.981 (r12 d1-2-1 ...)`."""
    done = min(max(progress.fraction, 0.0), 1.0)
    filled = round(BAR * done)
    parts = [
        LABELS.get(progress.phase, progress.phase),
        "█" * filled + "░" * (BAR - filled) if bar else "",
        f"{done:.0%}",
        clock_time(progress.spent_seconds)
        + ("" if progress.limit_seconds is None else f" of {clock_time(progress.limit_seconds)}"),
        progress.detail,
    ]
    return "  ".join(part for part in parts if part)


@contextmanager
def watching(
    *, alone: bool = True, speaking: bool = True, raising: bool = False
) -> Iterator[tuple[Watcher, Callable[[], int]]]:
    """Progress on stderr, and signals turned into a question that the run asks after every unit of work.

    Ctrl-C, SIGTERM, and SIGUSR1, by which SLURM warns before it takes a job's nodes away (sbatch --signal=B:USR1@60).

    The second signal of the same number is not held back.

    Args:
        alone: whether nobody else ends this process. torchrun does: it sends SIGTERM as soon as another has ended, and
            kills who takes too long, so there every signal is held back for good: the last word and the exit code
            are this process's own.
        speaking: whether this process is the one that shows progress.
        raising: whether the second signal raises KeyboardInterrupt, whichever it and the first are; else only a second
            Ctrl-C does, and the others end the process at once, before it can write anything.
    """
    received = [0]

    def note(number: int, frame: object) -> None:
        if raising and received[0]:
            raise KeyboardInterrupt
        received[0] = number
        if alone and not raising:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    before = {number: signal.signal(number, note) for number in STOPPING}
    try:
        with Display(Console(stderr=True)) if speaking else nullcontext(Silent()) as watcher:
            yield watcher, lambda: received[0]
    finally:
        for number, handler in before.items():
            # Python's own handlers go with the interpreter, before the process does; to ignore a signal stays.
            signal.signal(number, handler if alone else signal.SIG_IGN)


@contextmanager
def undisturbed() -> Iterator[None]:
    """The signals that `watching` minds do nothing inside: for what is written last, and short."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
