"""After a search with screening: the best candidates are scored on all images, together as far as time allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

from nasimb.phases.admission import not_started
from nasimb.search.candidate import Scoring
from nasimb.search.deadline import overdue_check
from nasimb.search.engine import Kept, promote
from nasimb.search.predict import MARGIN
from nasimb.search.screening import awaiting, chosen, full_seconds, ranked
from nasimb.search.trial import Trial
from nasimb.session import Session

MOST_TOGETHER_SECONDS = 120.0
"""Several candidates are scored together only where they fit into so much: their rows are written when all are scored,
so that this is what a kill loses, and a machine lent for less would never get on. One that takes longer goes alone."""

MOST_TOGETHER = 32


def promote_best(
    session: Session,
    scoring: Scoring,
    trials: Sequence[Trial],
    cost: str | None,
    kept: Kept,
    *,
    seconds: float,
    show: Callable[[Sequence[Trial]], Callable[[], None]],
) -> list[Trial]:
    """All trials, the best of those screened now scored on all images; their rows are written anew, group by group.

    Args:
        cost: "macs" or "params" of a Pareto search.
        kept: their features of the part.
        seconds: there are for it; what is predicted not to fit stays screened.
        show: given all trials, what is to be called between two units of work.

    Raises:
        Interrupted: as `Session.tick`; groups that are done are kept.
    """
    assert scoring.screen is not None
    rows = {trial.number: trial for trial in trials}
    deadline = session.clock() + seconds
    while waiting := awaiting(chosen(ranked(list(rows.values()), cost), scoring.screen.eta)):
        group = fitting_group(waiting, list(rows.values()), deadline - session.clock())
        if not group:
            left = deadline - session.clock()
            kept_seconds = session.ledger.remaining() - left
            session.watcher.say(promotions_not_started(waiting, list(rows.values()), left, kept_seconds))
            break
        tick = show(list(rows.values()))
        predicted = MARGIN * full_seconds(sum(trial.macs for trial in group), list(rows.values()))
        check = overdue_check(session.clock, predicted, lambda: deadline - session.clock())

        def between(tick: Callable[[], None] = tick, check: Callable[[], None] = check) -> None:
            tick()
            check()

        for trial in promote(scoring, group, clock=session.clock, kept=kept, between=between):
            rows[trial.number] = trial
        session.run.replace_trials([trial.to_row() for trial in rows.values()])
        show(list(rows.values()))()
    return list(rows.values())


def promotions_not_started(
    waiting: Sequence[Trial], trials: Sequence[Trial], left_seconds: float, kept_seconds: float
) -> str:
    """The line where the first of those waiting does not fit."""
    what = "promotion" if len(waiting) == 1 else "promotions"
    return not_started(
        what, len(waiting), MARGIN * full_seconds(waiting[0].macs, trials), left_seconds, purpose="the search",
        kept_seconds=kept_seconds, kept="heads and test",
    )  # fmt: skip


def forget(kept: Kept, best: Sequence[Trial], memory_mib: float) -> None:
    """Keep features of those alone that may be promoted, the best first, as far as memory goes."""
    wanted, taken = set(), 0
    for trial in awaiting(best):
        features = kept.get(trial.candidate)
        if features is not None:
            taken += features.nbytes
            if taken <= memory_mib * 2**20:
                wanted.add(trial.candidate)
    for candidate in set(kept) - wanted:
        del kept[candidate]


def fitting_group(waiting: Sequence[Trial], trials: Sequence[Trial], left_seconds: float) -> list[Trial]:
    """The first of those waiting that fit together into what is left; one that takes long goes alone."""
    needed = [MARGIN * full_seconds(macs, trials) for macs in accumulate(trial.macs for trial in waiting)]
    together = sum(seconds <= min(left_seconds, MOST_TOGETHER_SECONDS) for seconds in needed[:MOST_TOGETHER])
    return list(waiting[: together or int(needed[0] <= left_seconds)])
