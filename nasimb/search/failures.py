"""What can go wrong in a run, what is done about it, and what its record says: the whole of it in one table.

| kind | met as | what is done | record |
|---|---|---|---|
| oom | MemoryError, torch.OutOfMemoryError, a processor's allocation error; MemoryLimitError, with one attempt | a batch is scored one by one; a candidate that still fails gets a second attempt with half the images a pass, then fails | row `finished` with `failure` oom (second attempt), or `failed` |
| nan | NotFiniteError, LinAlgError | the candidate fails; in training the run ends | row `failed` |
| timeout | OverdueError: twice what was predicted, into what other phases need (`search.deadline`) | what is not scored yet of the batch is given up | rows `failed` |
| bad_data | ImageLostError: a file is unreadable that was readable before | the run ends (exit code 1), and goes on once the file is restored | no row; the spend is in the ledger |
| preempted | Interrupted: SIGTERM, SIGINT, SIGUSR1 | the batch under way is dropped, the run goes on when it is started again | no row; the spend is in the ledger |
| lost_worker | a worker that is not heard any more | its candidates are put once more | row with `attempt` 2, or after a second loss `failed` |
| other | any other WorkError | the candidate fails | row `failed` |
| - | DiskFullError | the run ends (exit code 1): every file is as it was before, and the run goes on once there is space | no row; the spend up to the last beat |
| - | StorageError | waited for, then the run ends with what is saved | no row; the spend is in the ledger |

A failed row has the seconds that were spent on it, and the candidate is not tried again: the second attempt of `oom` is
part of the first.
"""  # noqa: E501  # a table

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from nasimb.errors import MemoryLimitError, NotFiniteError, OverdueError, WorkError
from nasimb.search.trial import Failure

MEMORY = (MemoryError, torch.cuda.OutOfMemoryError)
FAILURES = (WorkError, *MEMORY, LinAlgError)
"""What one candidate or one head may fail with while the run goes on."""

KINDS: tuple[tuple[Any, Failure], ...] = (
    ((*MEMORY, MemoryLimitError), Failure.OOM),
    ((NotFiniteError, LinAlgError), Failure.NAN),
    (OverdueError, Failure.TIMEOUT),
)
"""Exceptions that say their kind; others are `Failure.OTHER`."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something has no score.

    Attributes:
        reason: one line.
        again: whether a second attempt, with fewer images at a time, may do better.
    """

    kind: Failure
    reason: str
    again: bool = False

    @classmethod
    def of(cls, error: Exception) -> Problem:
        """What one of `FAILURES` says."""
        kind = next((kind for kinds, kind in KINDS if isinstance(error, kinds)), Failure.OTHER)
        return cls(kind, " ".join(str(error).split()), again=isinstance(error, MEMORY))


@contextmanager
def memory_errors() -> Iterator[None]:
    """On a processor torch says that memory is short by a plain RuntimeError; make it one of `FAILURES`."""
    try:
        yield
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise MemoryError(f"Memory must suffice; got {error}. Lower memory_mib, or give fewer images.") from None


@contextmanager
def memory_sentences() -> Iterator[None]:
    """Want of memory where no single candidate is to blame: the run ends with a sentence.

    Raises:
        WorkError: memory was short.
    """
    try:
        with memory_errors():
            yield
    except MEMORY as error:
        raise WorkError(
            "memory must suffice",
            got=" ".join(str(error).split()) or type(error).__name__,
            do="End what else uses it and give the same command again to go on, or start another run with a lower "
            "memory_mib or training.batch_size.",
        ) from None
