"""The study of a search in Optuna's journal: opened where it agrees with trials.csv, written anew from it where not.

The rows say all that the journal says of trials that were told, so that a damaged journal costs nothing. The other way
round it is not so: the journal lacks recalls, heads and costs, and rows that it tells of are restored or given up by
whoever owns them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nasimb.errors import ResumeError
from nasimb.search.journal import COMMITTED, SHOWN, BatchJournal, DamagedJournal, QueuelessStorage

OpenStudy = Callable[[BatchJournal], optuna.Study]
REMEMBERING = ("nsga2",)
"""Samplers that keep more in the journal than trials (generations): their batches are asked for again, one by one."""


@dataclass(frozen=True, slots=True)
class Told:
    """What Optuna is told of one row.

    Attributes:
        values: score and cost; None where there is no score to learn from.
        costs: as attributes of the trial, for readers.
    """

    params: dict[str, Any]
    state: TrialState
    values: list[float] | None
    costs: dict[str, int]


def open_study(cost: str | None, journal: BatchJournal | None) -> optuna.Study:
    """The study of a search: made if it is not there, with its objectives named for readers.

    Args:
        cost: second objective, "macs" or "params"; None: there is none.
        journal: None keeps it in memory.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = [StudyDirection.MAXIMIZE] + ([] if cost is None else [StudyDirection.MINIMIZE])
    storage = InMemoryStorage() if journal is None else QueuelessStorage(journal)
    study = optuna.create_study(study_name="nasimb", storage=storage, directions=directions, load_if_exists=True)
    names = ["score"] + ([] if cost is None else [cost])
    if study.metric_names != names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(names)
    return study


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
        study.add_trials(_ended(row, distributions) for row in rows)
        study.set_user_attr(COMMITTED, len(rows))
        journal.commit()
    return journal, study


def tell(study: optuna.Study, number: int, row: Told) -> None:
    """Tell Optuna of a row, under the number that was asked for."""
    for name, cost in row.costs.items():
        # By way of the storage, where trials of the one study have their numbers as keys: to Optuna's own `Trial` a
        # sampler would propose parameters once more.
        study._storage.set_trial_user_attr(number, name, cost)
    if row.values is not None:
        study.tell(number, row.values)
    else:
        study.tell(number, state=row.state)


def show_rest(
    study: optuna.Study, journal: BatchJournal, rows: Sequence[Told], distributions: dict[str, BaseDistribution], *,
    told: int, saved: int,
) -> None:  # fmt: skip
    """Add the rows behind the last that is told to the journal, for readers: a search rarely ends where a batch does.

    What was asked for and has no row is told to have failed, so that nothing seems to run for ever. Whoever goes on
    with the search finds the journal as it was, see `BatchJournal.show`; this study must not go on.

    Args:
        rows: from number `told` on.
        saved: number behind the last trial that the file has, told or only asked for.
    """
    journal.forget()
    for number in range(told, saved):
        if number - told < len(rows):
            tell(study, number, rows[number - told])
        else:
            study.tell(number, state=TrialState.FAIL)
    # In the file the rest has the next numbers; only in this study others have them, which were asked for.
    study.add_trials(_ended(row, distributions) for row in rows[saved - told :])
    study.set_user_attr(SHOWN, told + len(rows))
    journal.show()


def _ended(row: Told, distributions: dict[str, BaseDistribution]) -> FrozenTrial:
    return create_trial(
        state=row.state, params=row.params, values=row.values, distributions=distributions, user_attrs=dict(row.costs)
    )


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
