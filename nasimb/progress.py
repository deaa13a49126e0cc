"""What a long run tells whoever watches it: values, shown by somebody else. Give `nasimb.search` a `Watcher`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Progress", "Silent", "Watcher"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands.

    Attributes:
        phase: "prepare", "supernet", "search", "head" or "evaluate".
        fraction: of the phase that is done, 0..1.
        spent_seconds, limit_seconds: of the whole run; no limit is None.
        detail: the newest result of the phase.

    Example:
        >>> seen = Progress("search", 0.25, spent_seconds=125.0, limit_seconds=600.0, detail="50 trials")
        >>> f"{seen.phase} {seen.fraction:.0%} after {clock_time(seen.spent_seconds)}: {seen.detail}"
        'search 25% after 2m05s: 50 trials'
    """

    phase: str
    fraction: float
    spent_seconds: float
    limit_seconds: float | None
    detail: str


class Watcher(Protocol):
    """Gets to see a run.

    Example:
        >>> import nasimb
        >>> class Printing:
        ...     def say(self, line):
        ...         print(line)
        ...
        ...     def show(self, progress):
        ...         print(progress.phase, progress.fraction)
        >>> quick = ["training_steps=3", "heads.penalties=[0.01]"]
        >>> found = nasimb.search(
        ...     data="digits:0-2", budget="2trials", run="runs/digits", assign=quick, watcher=Printing()
        ... )
        runs/digits is finished; this is what it found.
    """

    def say(self, line: str) -> None:
        """One line worth keeping."""

    def show(self, progress: Progress) -> None:
        """The newest state, called after every unit of work; cheap."""


class Silent:
    """A watcher that shows nothing, to derive from.

    Example:
        >>> class Phases(Silent):
        ...     def show(self, progress):
        ...         print(progress.phase)
        >>> Phases().show(Progress("head", 0.5, 1.0, None, "2 of 4"))
        head
    """

    def say(self, line: str) -> None:
        """Say nothing."""

    def show(self, progress: Progress) -> None:
        """Show nothing."""


def clock_time(seconds: float) -> str:
    """Seconds as people read them: 8.2s, 2m05s, 3h20m."""
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes, seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{seconds:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"
