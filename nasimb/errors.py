"""What nasimb says when something is wrong.

Every message has three parts, so that a reader can act on it without a traceback: what must hold, what was
got, and what to do. `exit_code` is what the command line returns for it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BudgetError",
    "DataError",
    "IllegalSubnetError",
    "InputError",
    "Interrupted",
    "NasimbError",
    "ResumeError",
    "WorkError",
]


class NasimbError(Exception):
    """Root of everything nasimb raises on purpose: the work failed (exit code 1).

    Args:
        must_hold: the rule, as a clause: "the data folder must exist".
        got: what was found instead (file, row, value).
        do: one imperative sentence that mends it.

    Example:
        >>> error = NasimbError("every class must have an image", got="none of 'cat'", do="Add some.")
        >>> print(error)
        every class must have an image; got none of 'cat'. Add some.
        >>> error.do, error.exit_code
        ('Add some.', 1)
    """

    exit_code = 1

    def __init__(self, must_hold: str, *, got: object, do: str) -> None:
        self.must_hold, self.got, self.do = must_hold, got, do
        super().__init__(f"{must_hold}; got {got}. {do}")


class InputError(NasimbError, ValueError):
    """What was asked is wrong (exit code 2): an option, a file, a combination.

    Example:
        >>> from nasimb.losses import parse_loss
        >>> try:
        ...     parse_loss("focl")
        ... except InputError as error:  # also a ValueError
        ...     print(error.do)
        Did you mean 'focal'? Choose one of these.
    """

    exit_code = 2


class DataError(InputError):
    """The images, labels or splits are not what they must be.

    Example:
        >>> from nasimb.data import LoadRequest, parse_dataset
        >>> parse_dataset("folder:my_fotos").load(LoadRequest(size=32))
        Traceback (most recent call last):
        nasimb.errors.DataError: the data folder must exist; got my_fotos. Check the path.
    """


class ImageLostError(DataError):
    """An image file became unreadable while the run was using it (exit code 1): restored, the run goes on."""

    exit_code = 1


class BudgetError(InputError):
    """The budget cannot be read, or cannot buy even the smallest useful run.

    Example:
        >>> from nasimb.budget import Budget
        >>> Budget.parse("8")
        Traceback (most recent call last):
        nasimb.errors.BudgetError: a budget must have a unit; got '8'. Type a number and a unit: ...
    """


class IllegalSubnetError(InputError):
    """A subnet that its search space does not contain.

    Example:
        >>> from dataclasses import replace
        >>> from nasimb.space import SearchSpace
        >>> space = SearchSpace.load("digits-resnet")
        >>> space.check(replace(space.smallest(), resolution=9))
        Traceback (most recent call last):
        nasimb.errors.IllegalSubnetError: resolution must be one of [8, 10, 12] in digits-resnet; got 9. ...
    """


class ResumeError(InputError):
    """A run folder that cannot be continued with this configuration.

    Example:
        >>> import nasimb
        >>> try:
        ...     nasimb.search(data="digits:0-4", budget="2trials", run="runs/digits")
        ... except ResumeError as error:
        ...     print(error.do)
        Use the same options, or another folder with --run.
    """


class WorkError(NasimbError, RuntimeError):
    """The work failed although what was asked is right (exit code 1).

    Example:
        >>> import torch
        >>> from nasimb.heads import parse_head
        >>> features_ND = torch.tensor([[0.0], [torch.nan], [2.0], [3.0]])
        >>> try:
        ...     parse_head("ridge").fit(features_ND, torch.tensor([0, 0, 1, 1]), 2, setting=1.0)
        ... except WorkError as error:
        ...     print(error.must_hold, "but", error.got)
        features must be finite but NaN or infinity in 1 of 4 images
    """


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
    """Stopped by a signal after saving (exit code 128 + signal number, 130 for Ctrl-C).

    Example:
        >>> import signal, torch
        >>> from pathlib import Path
        >>> from nasimb.deliver import evaluate
        >>> try:
        ...     evaluate(
        ...         Path("runs/digits"), "digits:0-2", device=torch.device("cpu"), stop=lambda: signal.SIGTERM
        ...     )
        ... except Interrupted as stopped:
        ...     print(stopped.exit_code, stopped.do)
        143 Give the same command again to begin anew.
    """

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
