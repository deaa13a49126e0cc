"""The search phase: batches of candidates until the part of the budget that is theirs is spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice, takewhile

from nasimb.errors import WorkError
from nasimb.phases.promotion import MOST_TOGETHER_SECONDS, forget, promote_best
from nasimb.search.candidate import Scoring
from nasimb.search.deadline import overdue_check
from nasimb.search.engine import Kept, evaluate_batch
from nasimb.search.predict import LATEST, MARGIN, fitting, predicted_seconds
from nasimb.search.screening import Screen, chosen, full_seconds, promotion_macs, ranked
from nasimb.search.study import Proposal, Question, Study
from nasimb.search.trial import FAILED, FINISHED, SCREENED, Trial, best_first, trials_of
from nasimb.session import Session

STEADY = 100
"""So many trials on, what is kept back no longer depends on their number."""

GIVE_UP = 10
"""Failures after which a search that has not one score ends."""

HOPELESS = 50
"""Failures in a row after which any search ends."""


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
        max_trials: scored trials in all; None for no such limit.
        reserve_seconds: given how many trials are scored, what must be left for the phases after this one.

    Raises:
        WorkError: one candidate after another failed and none has a score. Interrupted: as `Session.tick`.
    """
    before = trials_of(session.run)
    study = Study(question, scoring.cost_of, journal=session.run.journal, trials=before, warn=session.watcher.say)
    screen = scoring.screen
    keep_back = reserve_seconds(len(before) + STEADY)
    started_with = session.ledger.remaining() - keep_back

    def may_start(macs: Sequence[int]) -> int:
        # The smallest and the largest are needed whatever they cost; a budget too small for them was refused before.
        if len(study.trials) < 2:
            return len(macs)
        seen, left = _latest(study.trials), session.ledger.remaining()
        # What must be left may grow with the number scored, so that all may be too many where one is not.
        keep = _promotion_seconds(study.trials, order, screen, len(macs)) + reserve_seconds(study.scored + len(macs))
        together = fitting(macs, seen, min(left - keep, MOST_TOGETHER_SECONDS))
        keep = _promotion_seconds(study.trials, order, screen, 1) + reserve_seconds(study.scored)
        return together or fitting(macs[:1], seen, left - keep)

    def done() -> float:
        if max_trials is not None:
            return study.scored / max_trials
        return 1 - (session.ledger.remaining() - keep_back) / max(started_with, 1e-9)

    def evaluate(proposals: Sequence[Proposal]) -> list[Trial]:
        predicted = predicted_seconds([proposal.macs for proposal in proposals], _latest(study.trials))
        reserve = reserve_seconds(study.scored)
        check = overdue_check(session.clock, predicted, lambda: session.ledger.remaining() - reserve)

        def between() -> None:
            session.tick(phase, done(), detail)
            check()

        return evaluate_batch(
            scoring, proposals, study.trials, seed=question.seed, clock=session.clock, kept=kept, between=between
        )

    kept: Kept = {}
    order = ranked(study.trials, question.cost)
    detail = _detail(study.trials)
    for rows in study.batches(evaluate, may_start, max_trials):
        session.run.append_trials([trial.to_row() for trial in rows])
        detail = _detail(study.trials)  # sorts them all, which is too much for every tick
        if screen is not None:
            order = ranked(study.trials, question.cost)
            forget(kept, chosen(order, screen.eta), scoring.memory_mib)
        session.tick(phase, done(), detail)
        if _hopeless(session, study):
            break
    _check_hopeful(study, at_least=0)
    if study.exhausted:
        session.watcher.say(f"Nothing is left to search: all {study.scored} subnets within the limits are scored.")
    if screen is None:
        return study.trials
    left = session.ledger.remaining() - reserve_seconds(study.scored)
    return promote_best(session, scoring, study.trials, question.cost, kept, seconds=left, show=_shown(session, phase))


def _promotion_seconds(trials: Sequence[Trial], order: Sequence[Trial], screen: Screen | None, more: int) -> float:
    """What promoting the best will take after `more` further candidates."""
    if screen is None:
        return 0.0
    return MARGIN * full_seconds(promotion_macs(order, screen.eta, more), trials)


def _shown(session: Session, phase: str) -> Callable[[Sequence[Trial]], Callable[[], None]]:
    """Given trials, a tick that shows where they stand."""

    def of(trials: Sequence[Trial]) -> Callable[[], None]:
        detail = _detail(trials)
        return lambda: session.tick(phase, 1.0, detail)

    return of


def _latest(trials: Sequence[Trial]) -> list[tuple[int, float]]:
    """MACs and seconds of the last trials that cost something, in order."""
    charged = ((t.macs, t.seconds) for t in reversed(trials) if t.state in (FINISHED, SCREENED, FAILED))
    return list(islice(charged, LATEST))[::-1]


def _hopeless(session: Session, study: Study) -> bool:
    """Whether to end because one candidate after another failed. Raises as `_check_hopeful`."""
    _check_hopeful(study, at_least=GIVE_UP)
    if _failed_in_a_row(study.trials) < HOPELESS:
        return False
    session.watcher.say(f"The search ends: {HOPELESS} candidates failed in a row. See their reasons in trials.csv.")
    return True


def _check_hopeful(study: Study, *, at_least: int) -> None:
    """Raise WorkError where none of `at_least` trials or more has a score."""
    if study.scored:
        return
    failed = [trial for trial in study.trials if trial.state == FAILED]
    if len(failed) >= at_least:
        raise WorkError(
            "at least one candidate must have a score",
            got=f"{len(failed)} that failed, the last one because {failed[-1].reason}" if failed else "none",
            do="Train the super-network longer, or with a lower training.learning_rate, in another run folder.",
        )


def _failed_in_a_row(trials: Sequence[Trial]) -> int:
    since = takewhile(lambda trial: trial.state not in (FINISHED, SCREENED), reversed(trials))
    return sum(trial.state == FAILED for trial in since)


def _detail(trials: Sequence[Trial]) -> str:
    screened = sum(trial.state == SCREENED for trial in trials)
    ranked = best_first(list(trials))
    count = f"{len(ranked) + screened} candidates"
    if any(trial.screen_score is not None for trial in ranked) or screened:
        promoted = sum(trial.screen_score is not None for trial in ranked)
        count += f" ({screened + promoted} screened, {promoted} promoted)"
    if not ranked or ranked[0].score is None:
        return count
    best = ranked[0]
    return f"{count}, best {best.score:.3f} at {best.macs / 1e6:.2f}M MACs ({best.candidate})"
