"""What nasimb says when something is wrong.

Every message has three parts, so that a reader can act on it without a traceback: what must hold, what was
got, and what to do. `exit_code` is what the command line returns for it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NasimbError(Exception):
    """Root of everything nasimb raises on purpose: the work failed (exit code 1).

    Args:
        must_hold: the rule, as a clause: "the data folder must exist".
        got: what was found instead (file, row, value).
        do: one imperative sentence that mends it.
    """

    exit_code = 1

    def __init__(self, must_hold: str, *, got: object, do: str) -> None:
        self.must_hold, self.got, self.do = must_hold, got, do
        super().__init__(f"{must_hold}; got {got}. {do}")


class InputError(NasimbError, ValueError):
    """What was asked is wrong (exit code 2): an option, a file, a combination."""

    exit_code = 2


class DataError(InputError):
    """The images, labels or splits are not what they must be."""


class ImageLostError(DataError):
    """An image file became unreadable while the run was using it (exit code 1): restored, the run goes on."""

    exit_code = 1


class BudgetError(InputError):
    """The budget cannot be read, or cannot buy even the smallest useful run."""


class IllegalSubnetError(InputError):
    """A subnet that its search space does not contain."""


class ResumeError(InputError):
    """A run folder that cannot be continued with this configuration."""


class WorkError(NasimbError, RuntimeError):
    """The work failed although what was asked is right (exit code 1)."""


class NotFiniteError(WorkError):
    """Numbers became NaN or infinite."""


class MemoryLimitError(WorkError):
    """Work would need more memory than `memory_mib` allows."""


class OverdueError(WorkError):
    """Work took so much longer than predicted that it would have used what other phases need."""


class DiskFullError(NasimbError, OSError):
    """A disk, or what a quota leaves of it, is full (exit code 1): what was written before stays, the run goes on."""


class Elsewhere(WorkError):
    """Another process of the same training failed and says why; the command line adds nothing."""

    def __init__(self, said: str, *, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__("every process of a training must be able to go on", got=said, do="Mend that for all.")


class Interrupted(NasimbError):
    """Stopped by a signal after saving (exit code 128 + signal number, 130 for Ctrl-C)."""

    def __init__(
        self,
        signal_number: int,
        *,
        resume: str,
        must_hold: str = "a run ends when its budget does",
        kept: str = "everything finished so far is saved",
    ) -> None:
        self.exit_code = 128 + signal_number
        super().__init__(must_hold, got=f"signal {signal_number}; {kept}", do=resume)


def unknown_name(what: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that stands in no table, with the nearest that does."""
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {nearest[0]!r}? " if nearest else ""
    return InputError(f"{what} must be one of {', '.join(known)}", got=repr(name), do=f"{hint}Choose one of these.")
