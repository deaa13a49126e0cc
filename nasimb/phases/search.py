"""The search phase: candidates one after another until the part of the budget that is theirs is spent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from nasimb.search.candidate import Scoring, evaluate
from nasimb.search.predict import predicted_seconds
from nasimb.search.study import Question, Study
from nasimb.search.trial import FINISHED, Candidate, Trial, best_first
from nasimb.session import Session

STEADY = 100
"""So many trials on, what is kept back no longer depends on their number."""


def search(
    session: Session,
    scoring: Scoring,
    question: Question,
    *,
    max_trials: int | None,
    reserve_seconds: Callable[[int], float],
    phase: str = "search",
) -> list[Trial]:
    """Every trial of the run so far and the new ones.

    Args:
        max_trials: finished trials in all; None for no such limit.
        reserve_seconds: given how many trials are finished, what must be left for the phases after this one.
    """
    before = [Trial.from_row(row) for row in session.run.read_trials()]
    study = Study(question, scoring.cost_of, journal=session.run.journal, trials=before)
    started_with = session.ledger.remaining() - reserve_seconds(len(before) + STEADY)

    def timed(number: int, kind: str, candidate: Candidate, macs: int, params: int) -> Trial:
        start = session.clock()
        trial = evaluate(scoring, number, kind, candidate, macs, params, seed=question.seed)
        return replace(trial, seconds=round(session.clock() - start, 6))

    def may_start(macs: int) -> bool:
        seen = [(trial.macs, trial.seconds) for trial in study.trials if trial.state == FINISHED]
        # The smallest and the largest are needed whatever they cost; a budget too small for them was refused before.
        return len(seen) < 2 or predicted_seconds(macs, seen) <= session.ledger.remaining() - reserve_seconds(len(seen))

    for trial in study.run(timed, may_start, max_trials):
        session.run.append_trial(trial.to_row())
        if max_trials is not None:
            done = (study.finished + (trial.state == FINISHED)) / max_trials
        else:
            left = session.ledger.remaining() - reserve_seconds(len(before) + STEADY)
            done = 1 - left / max(started_with, 1e-9)
        session.tick(phase, done, _detail([*study.trials, trial]))
    return study.trials


def _detail(trials: list[Trial]) -> str:
    ranked = best_first(trials)
    count = f"{len(ranked)} candidates"
    if not ranked or ranked[0].score is None:
        return count
    best = ranked[0]
    return f"{count}, best {best.score:.3f} at {best.macs / 1e6:.2f}M MACs ({best.candidate})"
