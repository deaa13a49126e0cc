"""The search phase: batches of candidates until the part of the budget that is theirs is spent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile

from nasimb.errors import WorkError
from nasimb.phases.admission import candidates_not_started
from nasimb.phases.promotion import MOST_TOGETHER_SECONDS, forget, promote_best
from nasimb.phases.shared_search import SharedSearch
from nasimb.phases.sharing import Exchange
from nasimb.search.candidate import Scoring
from nasimb.search.deadline import overdue_check
from nasimb.search.engine import Kept, evaluate_batch, kinds_of
from nasimb.search.predict import MARGIN, fitting, latest, predicted_seconds
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
    exchange: Exchange | None = None,
) -> list[Trial]:
    """Every trial of the run so far and the new ones.

    Args:
        max_trials: scored trials in all; None for no such limit.
        reserve_seconds: given how many trials are scored, what must be left for the phases after this one.
        exchange: where workers join; None: nobody can.

    Raises:
        WorkError: one candidate after another failed and none has a score. Interrupted: as `Session.tick`.
    """
    before = trials_of(session.run)
    study = Study(question, scoring.cost_of, journal=session.run.journal, trials=before, warn=session.watcher.say)
    view = _View(session, study, phase, max_trials, reserve_seconds)
    kept: Kept = {}
    fleet = None if exchange is None else exchange.join()
    if fleet is None:
        for rows in _alone(session, scoring, study, view, kept):
            view.record(rows)
            fleet = None if exchange is None else exchange.join()
            if fleet is not None or _hopeless(session, study):
                break
    shared = None
    if fleet is not None and exchange is not None:
        shared = SharedSearch(
            session, scoring, study, fleet, exchange, max_trials=max_trials, keep_seconds=reserve_seconds,
            show=view.tick, kept=kept,
        )  # fmt: skip
        for rows in shared.rows():
            view.record(rows)
            if _hopeless(session, study):
                break
    _check_hopeful(study, at_least=0)
    if study.exhausted:
        session.watcher.say(f"Nothing is left to search: all {study.scored} subnets within the limits are scored.")
    study.show_rest()
    trials = study.trials
    if scoring.screen is not None and shared is not None:
        trials = shared.promoted(trials, question.cost)
    elif scoring.screen is not None:
        left = session.ledger.remaining() - reserve_seconds(study.scored)
        trials = promote_best(session, scoring, trials, question.cost, kept, seconds=left, show=_shown(session, phase))
    if shared is not None:
        shared.close()
    return trials


class _View:
    """What is shown of a search, and written of it."""

    def __init__(
        self, session: Session, study: Study, phase: str, max_trials: int | None,
        reserve_seconds: Callable[[int], float],
    ) -> None:  # fmt: skip
        self.max_trials, self.reserve_seconds = max_trials, reserve_seconds
        self._session, self._study, self._phase = session, study, phase
        self._keep_back = reserve_seconds(len(study.trials) + STEADY)
        self._started_with = session.ledger.remaining() - self._keep_back
        self._detail = _detail(study.trials)

    def record(self, rows: Sequence[Trial]) -> None:
        """Write new rows, and show them."""
        self._session.run.append_trials([trial.to_row() for trial in rows])
        self._detail = _detail(self._study.trials)  # sorts them all, which is too much for every tick
        self.tick()

    def tick(self) -> None:
        """Between two units of work."""
        if self.max_trials is not None:
            done = self._study.scored / self.max_trials
        else:
            ledger = self._session.ledger
            left = (ledger.limit_seconds or 0.0) - ledger.used_seconds()
            done = 1 - (left - self._keep_back) / max(self._started_with, 1e-9)
        self._session.tick(self._phase, done, self._detail)


def _alone(session: Session, scoring: Scoring, study: Study, view: _View, kept: Kept) -> Iterator[list[Trial]]:
    """New rows of a search that this process has for itself; each list is to be recorded before the next is asked for.

    What comes next follows from the rows so far and the seed, so that a run that was killed goes on as it would have.
    """
    screen, question = scoring.screen, study.question
    order = ranked(study.trials, question.cost)

    def may_start(macs: Sequence[int]) -> int:
        # The smallest and the largest are needed whatever they cost; a budget too small for them was refused before.
        if len(study.trials) < 2:
            return len(macs)
        seen, left, reserve = latest(study.trials), session.ledger.remaining(), view.reserve_seconds
        # What must be left may grow with the number scored, so that all may be too many where one is not.
        keep = _promotion_seconds(study.trials, order, screen, len(macs)) + reserve(study.scored + len(macs))
        together = fitting(macs, seen, min(left - keep, MOST_TOGETHER_SECONDS))
        keep = _promotion_seconds(study.trials, order, screen, 1) + reserve(study.scored)
        number = together or fitting(macs[:1], seen, left - keep)
        if not number:
            session.watcher.say(candidates_not_started(macs, seen, left, keep))
        return number

    def evaluate(proposals: Sequence[Proposal]) -> list[Trial]:
        predicted = predicted_seconds([proposal.macs for proposal in proposals], latest(study.trials))
        reserve = view.reserve_seconds(study.scored)
        check = overdue_check(session.clock, predicted, lambda: session.ledger.remaining() - reserve)

        def between() -> None:
            view.tick()
            check()

        return evaluate_batch(
            scoring, proposals, kinds_of(study.trials), seed=question.seed, clock=session.clock, kept=kept,
            between=between,
        )  # fmt: skip

    for rows in study.batches(evaluate, may_start, view.max_trials):
        yield rows
        if screen is not None:
            order = ranked(study.trials, question.cost)
            forget(kept, chosen(order, screen.eta), scoring.memory_mib)


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
