"""What a trial costs besides its score: ask, cache, limits, budget, ledger, row and journal, all on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from nasimb.bench.base import Conditions, Figure, made_with, spread
from nasimb.bench.provenance import MADE, on_processor
from nasimb.bench.testbed import Testbed, load_testbed
from nasimb.budget import Budget, Clock
from nasimb.ledger import Ledger
from nasimb.rundir import RunDir
from nasimb.search.limits import Limits
from nasimb.search.predict import LATEST, fitting
from nasimb.search.study import Proposal, Question, Study
from nasimb.search.trial import FINISHED, Trial

TRIALS, QUICK_TRIALS = 1000, 60
IMAGES = 60
"""None of them is looked at: the search only wants to know how many classes there are."""
LIMIT = "300h"
"""Of a budget that is looked at before every batch and never reached."""
ENDS = 100
"""Trials at the beginning and at the end whose median times say whether a trial costs more the more there are."""


def orchestration(conditions: Conditions) -> Iterator[Figure]:
    """orchestration_ms, orchestration_flat: milliseconds of one trial of a search whose evaluation is free."""
    testbed = load_testbed(replace(conditions, synthetic=True, images=IMAGES))
    sampler, calibrations = conditions.config.sampler, (testbed.calibration,)
    question = Question(testbed.space, calibrations, Limits(), sampler, conditions.config.cost, testbed.seed)
    found = figures(trial_seconds(testbed, question, conditions), sampler)
    yield from made_with(found, **on_processor(MADE, "fresh weights"))


def figures(taken: Sequence[float], sampler: str) -> Iterator[Figure]:
    """From the seconds of every trial in turn: how long one takes, and whether that grows with their number."""
    found = spread([1000 * seconds for seconds in taken])
    ends = min(ENDS, len(taken) // 2)
    first, last = 1000 * float(np.median(taken[:ends])), 1000 * float(np.median(taken[-ends:]))
    yield Figure(
        "orchestration_ms", found.median,
        f"ask, cache, budget, ledger, row and journal of one trial ({sampler} sampler)",
        unit="ms", at_most=10.0, low=found.low, high=found.high, repetitions=len(taken),
        detail={"mean_ms": 1000 * float(np.mean(taken)), "worst_ms": 1000 * max(taken)},
    )  # fmt: skip
    yield Figure(
        "orchestration_flat", last / first,
        f"median ms of the last {ends} trials / of the first {ends}, of {len(taken)} ({sampler} sampler)",
        at_most=1.5, repetitions=ends, detail={"first_ms": first, "last_ms": last},
    )  # fmt: skip


def trial_seconds(testbed: Testbed, question: Question, conditions: Conditions) -> list[float]:
    """Seconds of every trial of a search whose candidates are scored for nothing.

    What a run does besides is done: budget, study, rows and ledger, on disk.
    """
    wanted = QUICK_TRIALS if conditions.quick else TRIALS
    free = Free(conditions.clock, question.seed)
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(Path(folder))
        ledger = Ledger(run.ledger, conditions.clock, Budget.parse(LIMIT))
        study = Study(question, testbed.scoring.cost_of, journal=run.journal)

        def may_start(macs: Sequence[int]) -> int:
            latest = [(trial.macs, trial.seconds) for trial in study.trials[-LATEST:]]
            return fitting(macs, latest, ledger.remaining()) if latest else len(macs)

        with ledger.phase("search"):
            for rows in study.batches(free, may_start, wanted):
                run.append_trials([trial.to_row() for trial in rows])
                ledger.beat()
                conditions.tick("orchestration", study.scored / wanted)
    return free.trial_seconds(len(study.trials), conditions.clock())


@dataclass(eq=False)
class Free:
    """Scores candidates for nothing, and notes when it was asked to.

    Attributes:
        asked: (number of the first trial, seconds on the clock) of every call.
    """

    clock: Clock
    seed: int
    asked: list[tuple[int, float]] = field(default_factory=list)

    def __call__(self, proposals: Sequence[Proposal]) -> Iterator[Trial]:
        """Trials with a number drawn for a score."""
        self.asked.append((proposals[0].number, self.clock()))
        scores = np.random.default_rng([self.seed, proposals[0].number]).random(len(proposals))
        for asked, score in zip(proposals, scores, strict=True):
            yield Trial(
                number=asked.number, state=FINISHED, kind=asked.kind, candidate=asked.candidate, macs=asked.macs,
                params=asked.params, score=float(score), balanced_loss=1.0, seconds=1.0,
            )  # fmt: skip

    def trial_seconds(self, trials: int, end: float) -> list[float]:
        """Seconds of every trial from the first call on: the time to the next call, shared by the trials until then.

        Args:
            trials: rows in all.
            end: seconds on the clock after the last.
        """
        calls = [*self.asked, (trials, end)]
        found: list[float] = []
        for (number, start), (following, stop) in pairwise(calls):
            found += [(stop - start) / (following - number)] * (following - number)
        return found
