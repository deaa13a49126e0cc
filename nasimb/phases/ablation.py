"""What each calibration policy of a run is worth: the winner's subnet under all of them, on held-out images.

A policy is one unit of work: what the search has scored costs nothing, others are written down when they are done, and
what failed is not tried again but for want of time or of a worker. `HeadCosts.calibrations_seconds` keeps time for them
from the search and from heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any

from nasimb.phases.choice import SHOWN, Choice
from nasimb.phases.headprobe import macs_share
from nasimb.phases.heads import HeadWork
from nasimb.search.candidate import Scoring
from nasimb.search.deadline import overdue_check
from nasimb.search.engine import evaluate_batch
from nasimb.search.study import Proposal
from nasimb.search.trial import FAILED, FINISHED, Candidate, Failure, Trial, trials_from
from nasimb.session import Session

FILE = "calibrations.jsonl"
PHASE = "search"
BASE = "source"
NO_TIME = "no time was left"
MENDABLE = (Failure.TIMEOUT, Failure.LOST_WORKER)
"""What more time or another worker may mend: it is tried again, where there is at least the time it took in vain."""

Shown = dict[str, float | None]
Known = Mapping[Candidate, Trial]


def calibrations_keep(
    session: Session, scoring: Scoring, heads: HeadWork, trials: Sequence[Trial]
) -> Callable[[Candidate], float]:
    """Given who would win, the seconds that `compare_calibrations` should have: for as many policies as it is granted.

    Args:
        scoring, trials: of the search.
    """
    known = _known(session, trials)

    def kept_seconds(winner: Candidate) -> float:
        if session.ledger.limit_seconds is None:
            return 0.0  # there is time for all
        each_seconds = _seconds(scoring, heads, winner, _taken_seconds(known, winner))
        trials = [known.get(replace(winner, calibration=policy)) for policy in scoring.calibrations]
        missing = sorted(max(each_seconds, _failed_seconds(trial)) for trial in trials if not _decided(trial))
        return max((total for total in accumulate(missing) if total <= heads.most.calibrations), default=0.0)

    return kept_seconds


def compare_calibrations(
    session: Session, scoring: Scoring, heads: HeadWork, choices: Mapping[str, Choice], trials: Sequence[Trial]
) -> dict[str, Any] | None:
    """The "calibrations" part of result.json; None where the run has one policy, so that there is nothing to compare.

    Scores are those that a search ranks by: of closed-form heads on all images, not of the winner's head.

    Args:
        scoring, trials: of the search.
        choices: what goes to the test, which knows what it takes with `heads`.

    Returns:
        "subnet", "base" (source), "policies": {policy: {"validation": recalls as of the winner, "gain": those less the
        base's; null without one}}, and "left_out": {policy: why}.

    Raises:
        Interrupted: as `Session.tick`.
    """
    if len(scoring.calibrations) < 2:
        return None
    winner, test_seconds = choices["winner"].candidate, heads.chosen_seconds(choices)

    def spare_seconds() -> float:
        return session.ledger.remaining() - test_seconds

    known = _known(session, trials)
    taken_seconds = _taken_seconds(known, winner)
    held_out: dict[str, Shown] = {}
    left_out: dict[str, str] = {}
    # What all others are compared with comes first: time may run out.
    for number, policy in enumerate(sorted(scoring.calibrations, key=lambda policy: policy != BASE)):
        candidate = replace(winner, calibration=policy)
        trial = known.get(candidate)
        if trial is None or not _decided(trial):
            tick = partial(session.tick, PHASE, number / len(scoring.calibrations), f"calibration {policy}")
            tick()
            predicted_seconds = max(_seconds(scoring, heads, winner, taken_seconds), _failed_seconds(trial))
            if spare_seconds() < predicted_seconds:
                there = f"{predicted_seconds:.1f} s were needed, and {max(spare_seconds(), 0.0):.1f} s there"
                left_out[policy] = f"{NO_TIME}: {there}"
                continue
            trial = _scored(session, scoring, candidate, predicted_seconds, spare_seconds, tick)
        if trial.state == FINISHED:
            held_out[policy] = {name: getattr(trial, name) for name in SHOWN}
        else:
            left_out[policy] = str(trial.reason)
        taken_seconds = max(taken_seconds, trial.seconds)
    for policy, why in left_out.items():
        session.watcher.say(f"The calibration {policy} is not compared with others on the winner: {why.rstrip('.')}.")
    return {"subnet": str(winner.subnet), "base": BASE, "policies": _gains(held_out), "left_out": left_out}


def _known(session: Session, trials: Sequence[Trial]) -> Known:
    """What was scored on all images or failed, in the search or in a comparison before; scores go before failures."""
    compared = trials_from(session.run.read_lines(FILE), session.run.path / FILE)
    decided = [trial for trial in (*trials, *compared) if trial.state in (FAILED, FINISHED)]
    return {trial.candidate: trial for trial in sorted(decided, key=lambda trial: trial.state == FINISHED)}


def _decided(trial: Trial | None) -> bool:
    """Whether there is a score, or a failure that neither more time nor another worker mends."""
    return trial is not None and (trial.state == FINISHED or trial.failure not in MENDABLE)


def _failed_seconds(trial: Trial | None) -> float:
    """That an attempt before has taken in vain."""
    return 0.0 if trial is None else trial.seconds


def _taken_seconds(known: Known, winner: Candidate) -> float:
    """That the winner's subnet took as it was found; it may have shared its features with others of its batch."""
    return known[winner].seconds if winner in known else 0.0


def _seconds(scoring: Scoring, heads: HeadWork, winner: Candidate, taken_seconds: float) -> float:
    """To be kept for the winner's subnet alone, under any policy; the longest it has taken has its heads in it."""
    return heads.costs.calibration_seconds(macs_share(scoring, winner.subnet), taken_seconds)


def _scored(
    session: Session, scoring: Scoring, candidate: Candidate, predicted_seconds: float,
    spare_seconds: Callable[[], float], tick: Callable[[], None],
) -> Trial:  # fmt: skip
    """The candidate alone on all images, as a trial that is in no table; written down, be it a failure."""
    check = overdue_check(session.clock, predicted_seconds, spare_seconds)

    def between() -> None:
        tick()
        check()

    macs, params = scoring.cost_of(candidate.subnet)
    proposal = Proposal(0, "ablation", candidate, macs, params)
    whole = replace(scoring, screen=None)
    (trial,) = evaluate_batch(whole, [proposal], (), seed=0, clock=session.clock, between=between)
    session.run.append_line(FILE, trial.to_cells())
    return trial


def _gains(held_out: Mapping[str, Shown]) -> dict[str, Any]:
    """The "policies" part: what each has, and has more than the base."""
    base = held_out.get(BASE)
    gains = {policy: None if base is None else _less(found, base) for policy, found in held_out.items()}
    return {policy: {"validation": found, "gain": gains[policy]} for policy, found in held_out.items()}


def _less(found: Shown, base: Shown) -> Shown:
    return {
        name: None if value is None or (other := base[name]) is None else value - other for name, value in found.items()
    }
