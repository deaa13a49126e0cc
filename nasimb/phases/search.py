"""The search phase: candidates one after another until the part of the budget that is theirs is spent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from nasimb.errors import WorkError
from nasimb.search.candidate import Scoring, evaluate
from nasimb.search.predict import predicted_seconds
from nasimb.search.study import Question, Study
from nasimb.search.trial import FAILED, FINISHED, Candidate, Trial, best_first, trials_of
from nasimb.session import Session

STEADY = 100
"""So many trials on, what is kept back no longer depends on their number."""

GIVE_UP = 10
"""Failures after which a search that has not one score ends."""


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

    Raises:
        WorkError: one candidate after another failed and none has a score. Interrupted: as `Session.tick`.
    """
    before = trials_of(session.run)
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
        _check_hopeful([*study.trials, trial], at_least=GIVE_UP)
    _check_hopeful(study.trials, at_least=0)
    if study.exhausted:
        session.watcher.say(f"Nothing is left to search: all {study.finished} subnets within the limits are scored.")
    return study.trials


def _check_hopeful(trials: list[Trial], *, at_least: int) -> None:
    """Raise WorkError where none of `at_least` trials or more has a score."""
    failed = [trial for trial in trials if trial.state == FAILED]
    if len(failed) >= at_least and not any(trial.state == FINISHED for trial in trials):
        raise WorkError(
            "at least one candidate must have a score",
            got=f"{len(failed)} that failed, the last one because {failed[-1].reason}" if failed else "none",
            do="Train the super-network longer, or with a lower training.learning_rate, in another run folder.",
        )


def _detail(trials: list[Trial]) -> str:
    ranked = best_first(trials)
    count = f"{len(ranked)} candidates"
    if not ranked or ranked[0].score is None:
        return count
    best = ranked[0]
    return f"{count}, best {best.score:.3f} at {best.macs / 1e6:.2f}M MACs ({best.candidate})"
