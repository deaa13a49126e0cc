"""What screening saves and loses: the same searches with and without it, seed by seed."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from nasimb.bench.base import Conditions, Figure, Skipped, made_with, spread, synchronise
from nasimb.bench.candidate import whole
from nasimb.bench.provenance import identity
from nasimb.bench.rows import Rows
from nasimb.bench.sgd import fastest_forward, sgd_through_network
from nasimb.bench.testbed import Testbed, load_testbed, warn_untrained
from nasimb.errors import WorkError
from nasimb.ledger import Ledger
from nasimb.phases.search import search
from nasimb.rundir import RunDir
from nasimb.search.candidate import Scoring
from nasimb.search.limits import Limits
from nasimb.search.study import Question
from nasimb.search.trial import FINISHED, SCREENED, Candidate, best_first
from nasimb.session import Session

CANDIDATES, QUICK_CANDIDATES = 200, 12
QUICK_SEEDS = 1
SGD_SUBNETS = 5
FILE = "screening_rows.csv"


def screening(conditions: Conditions) -> Iterator[Figure]:
    """screened_cost, screened_loss, and how many times cheaper than SGD a candidate is on average."""
    candidates = QUICK_CANDIDATES if conditions.quick else CANDIDATES
    seeds = range(min(conditions.seeds, QUICK_SEEDS) if conditions.quick else conditions.seeds)
    file = None if conditions.folder is None else conditions.folder / FILE
    testbed = load_testbed(conditions, content=True)
    warn_untrained(testbed, conditions)
    if testbed.scoring.screen is None:
        raise Skipped("The part that would screen these images is too large a share of them to pay.")
    conditions_of = {"candidates": candidates, "sampler": conditions.config.sampler}
    rows = Rows(file, ("seed", "screened"), identity([testbed], conditions, **conditions_of))
    for seed in seeds:
        # Which of both comes first changes from seed to seed, as in all alternating repetitions.
        for screened in (True, False) if seed % 2 else (False, True):
            if not rows.has(seed=seed, screened=screened):
                scoring = testbed.scoring if screened else whole(testbed.scoring)
                rows.append({"seed": seed, "screened": screened, **run(testbed, scoring, candidates, seed, conditions)})
    found = [*figures(rows, candidates), sgd_figure(rows, _sgd_seconds(testbed, conditions), candidates)]
    yield from made_with(found, data=testbed.data)


def run(
    testbed: Testbed, scoring: Scoring, candidates: int, seed: int, conditions: Conditions
) -> dict[str, float | int | str | None]:
    """One search: its seconds, and its winner's score on all images."""
    config = conditions.config
    question = Question(testbed.space, (testbed.calibration,), Limits(), config.sampler, None, seed)
    with tempfile.TemporaryDirectory() as folder:
        clock = conditions.clock
        session = Session(RunDir(Path(folder)), Ledger(None, clock), clock, conditions.watcher, conditions.stop)
        start = clock()
        with session.ledger.phase("search"):
            trials = search(session, scoring, question, max_trials=candidates, reserve_seconds=lambda finished: 0.0)
        seconds = clock() - start
    states = Counter(trial.state for trial in trials)
    ranked = best_first(trials)
    if not ranked:
        raise WorkError("a search must score a candidate", got=dict(states), do="Train the super-network.")
    return {
        "seconds": seconds, "winner_score": ranked[0].score, "winner": str(ranked[0].candidate),
        "finished": states[FINISHED], "screened_out": states[SCREENED], "rows": len(trials),
    }  # fmt: skip


def figures(rows: Rows, candidates: int) -> Iterator[Figure]:
    """Cost as a ratio, loss in points; means over the seeds of which both searches are there, with quartiles.

    Raises:
        Skipped: of no seed are both.
    """
    pairs = complete_seeds(rows)
    if not pairs:
        raise Skipped("No seed has been searched both with screening and without.")
    with_it, without = (_of(rows, "seconds", kind, pairs) for kind in (True, False))
    ratios = [a / b for a, b in zip(with_it, without, strict=True)]
    found = spread(ratios)
    said = f"search of {candidates} candidates with screening / without; mean of {len(ratios)} seeds"
    detail = {
        "screened_seconds": float(np.mean(with_it)), "whole_seconds": float(np.mean(without)),
        "screened_out": float(np.mean(_of(rows, "screened_out", True, pairs))),
        "finished": float(np.mean(_of(rows, "finished", True, pairs))),
    }  # fmt: skip
    yield Figure("screened_cost", float(np.mean(ratios)), said, at_most=0.35, low=found.low, high=found.high,
                 repetitions=len(ratios), detail=detail)  # fmt: skip
    scores = {kind: np.array(_of(rows, "winner_score", kind, pairs)) for kind in (False, True)}
    lost = 100 * (scores[False] - scores[True])
    found = spread(lost.tolist())
    yield Figure(
        "screened_loss", float(lost.mean()),
        f"winner's full score without screening - with it; mean of {len(lost)} seeds", unit="points", at_most=0.3,
        low=found.low, high=found.high, repetitions=len(lost),
        detail={"whole_score": float(scores[False].mean()), "screened_score": float(scores[True].mean())},
    )  # fmt: skip


def sgd_figure(rows: Rows, sgd_seconds: list[float], candidates: int) -> Figure:
    """SGD on one candidate / what a candidate costs on average in a screened search."""
    per_candidate = float(np.mean(_of(rows, "seconds", True, complete_seeds(rows)))) / candidates
    found = spread([seconds / per_candidate for seconds in sgd_seconds])
    return Figure(
        "score_over_sgd_screened", float(np.mean(sgd_seconds)) / per_candidate,
        "ten epochs of SGD through the network, mean over random subnets / a candidate of a screened search, mean",
        at_least=20.0, low=found.low, high=found.high, repetitions=len(sgd_seconds),
        detail={"sgd_seconds": float(np.mean(sgd_seconds)), "candidate_seconds": per_candidate},
    )  # fmt: skip


def _sgd_seconds(testbed: Testbed, conditions: Conditions) -> list[float]:
    count, taken = 1 if conditions.quick else SGD_SUBNETS, list[float]()
    for subnet in testbed.random_subnets(count):
        conditions.tick("SGD", len(taken) / count, str(subnet))
        candidate = Candidate(subnet, testbed.calibration)
        at_a_time = fastest_forward(testbed, candidate, conditions)
        synchronise(conditions.device)
        start = conditions.clock()
        sgd_through_network(testbed, candidate, at_a_time)
        synchronise(conditions.device)
        taken.append(conditions.clock() - start)
    return taken


def complete_seeds(rows: Rows) -> list[str]:
    """Seeds with a search of each kind, in the order of the rows."""
    without = set(rows.texts("seed", screened=False))
    return [seed for seed in rows.texts("seed", screened=True) if seed in without]


def _of(rows: Rows, column: str, screened: bool, seeds: Sequence[str]) -> list[float]:
    return [value for seed in seeds for value in rows.numbers(column, screened=screened, seed=seed)]
