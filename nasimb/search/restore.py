"""Optuna's journal against the rows of trials.csv: opened where they agree, written anew from the rows where not.

The rows say all that the journal says of trials that were told, so that a damaged journal costs nothing. The other way
round it is not so: the journal lacks recalls, heads and costs, and rows that it tells of are restored or given up by
whoever owns them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from nasimb.errors import ResumeError
from nasimb.search.journal import COMMITTED, BatchJournal, DamagedJournal

OpenStudy = Callable[[BatchJournal], optuna.Study]
REMEMBERING = ("nsga2",)
"""Samplers that keep more in the journal than trials (generations): their batches are asked for again, one by one."""


@dataclass(frozen=True, slots=True)
class Told:
    """What Optuna is told of one row.

    Attributes:
        values: score and cost; None where there is no score to learn from.
    """

    params: dict[str, Any]
    state: TrialState
    values: list[float] | None


def opened(
    file: Path, rows: Sequence[Told], batch_end: Callable[[int], int], open_study: OpenStudy,
    warn: Callable[[str], None],
) -> tuple[BatchJournal, optuna.Study] | None:  # fmt: skip
    """The journal and its study; None, after a warning, where it is damaged or does not say what the rows say.

    Args:
        rows: of trials.csv, in order.
        batch_end: number of a batch's first trial -> that of the next batch.

    Raises:
        ResumeError: it tells of more trials than there are rows.
    """
    try:
        journal = BatchJournal(file, warn)
        study = open_study(journal)
        told = int(study.user_attrs.get(COMMITTED, 0))
        problem = _difference(study.get_trials(deepcopy=False), rows, told, batch_end(told))
    except DamagedJournal as error:
        problem = str(error.got)
    else:
        if told > len(rows):
            raise ResumeError(
                "trials.csv must have every trial of the journal, in order",
                got=f"{len(rows)} rows for {told} trials told",
                do=f"Restore it, or delete {file} to have what is missing scored again.",
            )
        if problem is None:
            return journal, study
    warn(f"{file} is written anew from trials.csv: {problem}.")
    return None


def rewritten(
    file: Path, rows: Sequence[Told], distributions: dict[str, BaseDistribution], open_study: OpenStudy
) -> tuple[BatchJournal, optuna.Study]:
    """A new journal in which these rows are told."""
    file.unlink(missing_ok=True)
    journal = BatchJournal(file)
    study = open_study(journal)
    if rows:
        study.add_trials(
            create_trial(state=row.state, params=row.params, values=row.values, distributions=distributions)
            for row in rows
        )
        study.set_user_attr(COMMITTED, len(rows))
        journal.commit()
    return journal, study


def whole_batches(rows: int, batch_end: Callable[[int], int]) -> int:
    """How many of so many rows belong to batches of which none is missing."""
    end = 0
    while batch_end(end) <= rows:
        end = batch_end(end)
    return end


def _difference(trials: Sequence[FrozenTrial], rows: Sequence[Told], told: int, end: int) -> str | None:
    """What the journal says otherwise than the rows, or lacks; None: nothing."""
    if len(trials) < told:
        return f"it lacks {told - len(trials)} trials that it told"
    if len(rows) > max(len(trials), end):
        return f"it has {len(trials)} trials for {len(rows)} rows"
    for number, (trial, row) in enumerate(zip(trials, rows, strict=False)):
        if trial.params != row.params or (number < told and (trial.state, trial.values) != (row.state, row.values)):
            return f"trial {number} is not that of its row"
    return None
