"""When to give up work that takes far longer than predicted."""

from __future__ import annotations

from collections.abc import Callable

from nasimb.budget import Clock
from nasimb.errors import OverdueError

PATIENCE = 2.0
"""Times the prediction, which nine in ten stay below: what takes longer is stuck rather than slow."""


def overdue_check(clock: Clock, predicted_seconds: float, spare_seconds: Callable[[], float]) -> Callable[[], None]:
    """What to call between two units of work that begins now.

    Args:
        predicted_seconds: of the work; 0 where nothing is known, and then it may take what it takes.
        spare_seconds: left now beyond what must be left for other work; negative once that is being used.

    Returns:
        Raises OverdueError once the work has taken twice what was predicted and uses what other work needs: being late
        alone is no reason to throw away what has been done.
    """
    start = clock()

    def check() -> None:
        taken = clock() - start
        if predicted_seconds > 0 and taken > PATIENCE * predicted_seconds and spare_seconds() < 0:
            raise OverdueError(
                "candidates must not take what the rest of the run needs",
                got=f"{taken:.1f} s where {predicted_seconds:.1f} s were predicted",
                do="Give a larger budget, or a machine that does less besides.",
            )

    return check
