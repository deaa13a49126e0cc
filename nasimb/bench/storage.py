"""What a trial costs besides its score: ask, cache, limits, ledger, row and journal, all on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from nasimb.bench.base import Conditions, Figure, spread
from nasimb.budget import Clock, Ledger
from nasimb.cost.macs import macs_and_params
from nasimb.rundir import RunDir
from nasimb.search.limits import CostOf, Limits
from nasimb.search.study import Proposal, Question, Study
from nasimb.search.trial import FINISHED, Trial
from nasimb.space import SearchSpace

TRIALS, QUICK_TRIALS = 1000, 60
ENDS = 100
"""Trials at the beginning and at the end whose mean times say whether a trial costs more the more there are."""


def orchestration(conditions: Conditions) -> Iterator[Figure]:
    """orchestration_ms: milliseconds of one trial whose evaluation is free."""
    config = conditions.config
    question = Question(
        SearchSpace.load(conditions.space), config.calibrations, Limits(), config.sampler, config.cost, config.seed
    )
    wanted = QUICK_TRIALS if conditions.quick else TRIALS
    with tempfile.TemporaryDirectory() as folder:
        taken = []
        for seconds in islice(trial_seconds(question, Path(folder), conditions.clock), wanted):
            taken.append(seconds)
            if len(taken) % 10 == 0:
                conditions.tick(
                    "orchestration", len(taken) / wanted, f"{1000 * float(np.median(taken)):.2f} ms a trial"
                )
    yield figure(taken, config.sampler)


def figure(taken: Sequence[float], sampler: str) -> Figure:
    """The figure from the seconds of every trial in turn."""
    found = spread([1000 * seconds for seconds in taken])
    ends = min(ENDS, len(taken) // 2)
    first, last = float(np.mean(taken[:ends])), float(np.mean(taken[-ends:]))
    return Figure(
        "orchestration_ms", found.median, f"ask, cache, ledger, row and journal of one trial ({sampler} sampler)",
        unit="ms", at_most=10.0, low=found.low, high=found.high, repetitions=len(taken),
        detail={
            "mean_ms": 1000 * float(np.mean(taken)), "worst_ms": 1000 * max(taken), "first_mean_ms": 1000 * first,
            "last_mean_ms": 1000 * last, "last_over_first": last / first, "ends_trials": ends,
        },
    )  # fmt: skip


def trial_seconds(question: Question, folder: Path, clock: Clock) -> Iterator[float]:
    """Seconds of every trial of a study whose candidates are scored for nothing, written as a run writes them.

    A batch of candidates is proposed at once; its time is shared evenly between all trials up to the next batch.
    """
    run, ledger = RunDir(folder), Ledger(folder / "ledger.jsonl", clock)
    study = Study(question, _cost_of(question.space), journal=run.journal)
    scores = np.random.default_rng(question.seed)
    batches = [0]

    def free(proposals: Sequence[Proposal]) -> Iterable[Trial]:
        batches[0] += 1
        for asked in proposals:
            yield Trial(
                number=asked.number, state=FINISHED, kind=asked.kind, candidate=asked.candidate, macs=asked.macs,
                params=asked.params, score=float(scores.random()), balanced_loss=1.0,
            )  # fmt: skip

    with ledger.phase("search"):
        since = resumed = clock()
        pending, batch = 0, 0
        for trial in study.run(free, len, None):
            if batches[0] != batch and pending:
                # This trial is the first of a new batch, whose asking began when the study was resumed.
                asking = clock() - resumed
                yield from [(resumed - since) / pending] * pending
                since, pending = clock() - asking, 0
            batch = batches[0]
            run.append_trial(trial.to_row())
            ledger.beat()
            pending += 1
            resumed = clock()
        yield from [(resumed - since) / max(pending, 1)] * pending


def _cost_of(space: SearchSpace) -> CostOf:
    """Of subnets over colour images, without a head."""
    return lambda subnet: macs_and_params(space, subnet, 3)
