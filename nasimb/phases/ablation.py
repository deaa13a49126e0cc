"""What each calibration policy of a run is worth: the winner's subnet under all of them, on held-out images.

A policy is one unit of work: what the search has scored costs nothing, others are written down when they are done, and
what failed is not tried again. `HeadCosts.calibrations_seconds` keeps time for them from the search and from heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from nasimb.phases.choice import SHOWN
from nasimb.phases.headcosts import CALIBRATION_MARGIN, most_for_calibrations
from nasimb.phases.headprobe import macs_share
from nasimb.phases.heads import HeadWork
from nasimb.search.candidate import Scoring
from nasimb.search.deadline import overdue_check
from nasimb.search.engine import evaluate_batch
from nasimb.search.study import Proposal
from nasimb.search.trial import FAILED, FINISHED, Candidate, Trial, trials_from
from nasimb.session import Session

FILE = "calibrations.jsonl"
PHASE = "search"
BASE = "source"
NO_TIME = "no time was left"

Shown = dict[str, float | None]
Known = Mapping[Candidate, Trial]


def calibrations_keep(
    session: Session, scoring: Scoring, heads: HeadWork, trials: Sequence[Trial]
) -> Callable[[Candidate], float]:
    """Given who would win, the seconds that `compare_calibrations` should have: for as many policies as it is granted.

    Args:
        scoring, trials: of the search.
    """
    known, limit_seconds = _known(session, trials), session.ledger.limit_seconds

    def kept_seconds(winner: Candidate) -> float:
        missing = sum(replace(winner, calibration=policy) not in known for policy in scoring.calibrations)
        each_seconds = CALIBRATION_MARGIN * _seconds(scoring, heads, known, winner)
        if limit_seconds is None or each_seconds <= 0:
            return 0.0  # there is time for all
        return min(missing, most_for_calibrations(limit_seconds) // each_seconds) * each_seconds

    return kept_seconds


def compare_calibrations(
    session: Session, scoring: Scoring, heads: HeadWork, winner: Candidate, trials: Sequence[Trial]
) -> dict[str, Any] | None:
    """The "calibrations" part of result.json; None where the run has one policy, so that there is nothing to compare.

    Scores are those that a search ranks by: of closed-form heads on all images, not of the winner's head.

    Args:
        scoring, trials: of the search.
        heads: which know what the last phase takes.

    Returns:
        "subnet", "base" (source), "policies": {policy: {"validation": recalls as of the winner, "gain": those less the
        base's; null without one}}, and "left_out": {policy: why}.

    Raises:
        Interrupted: as `Session.tick`.
    """
    if len(scoring.calibrations) < 2:
        return None
    known = _known(session, trials)
    seconds = _seconds(scoring, heads, known, winner)
    held_out: dict[str, Shown] = {}
    left_out: dict[str, str] = {}
    # What all others are compared with comes first: time may run out.
    for number, policy in enumerate(sorted(scoring.calibrations, key=lambda policy: policy != BASE)):
        candidate = replace(winner, calibration=policy)
        trial = known.get(candidate)
        if trial is None:
            tick = partial(session.tick, PHASE, number / len(scoring.calibrations), f"calibration {policy}")
            tick()
            predicted_seconds = CALIBRATION_MARGIN * seconds
            left_seconds = session.ledger.remaining() - heads.evaluate_seconds()
            if left_seconds < predicted_seconds:
                there = f"{predicted_seconds:.1f} s were needed, and {max(left_seconds, 0.0):.1f} s there"
                left_out[policy] = f"{NO_TIME}: {there}"
                continue
            trial = _scored(session, scoring, heads, candidate, predicted_seconds, tick)
        if trial.state == FINISHED:
            held_out[policy] = {name: getattr(trial, name) for name in SHOWN}
        else:
            left_out[policy] = str(trial.reason)
        seconds = max(seconds, trial.seconds)
    for policy, why in left_out.items():
        session.watcher.say(f"The calibration {policy} is not compared with others on the winner: {why.rstrip('.')}.")
    return {"subnet": str(winner.subnet), "base": BASE, "policies": _gains(held_out), "left_out": left_out}


def _known(session: Session, trials: Sequence[Trial]) -> Known:
    """What was scored on all images or failed, in the search or in a comparison before; scores go before failures."""
    compared = trials_from(session.run.read_lines(FILE), session.run.path / FILE)
    decided = [trial for trial in (*trials, *compared) if trial.state in (FAILED, FINISHED)]
    return {trial.candidate: trial for trial in sorted(decided, key=lambda trial: trial.state == FINISHED)}


def _seconds(scoring: Scoring, heads: HeadWork, known: Known, winner: Candidate) -> float:
    """That the winner's subnet takes alone, under any policy."""
    share_seconds = heads.costs.relative(macs_share(scoring, winner.subnet)) * heads.costs.features_seconds()
    # The trial's own seconds have its heads in them, but it may have shared its features with others of its batch.
    return max(share_seconds, known[winner].seconds if winner in known else 0.0)


def _scored(
    session: Session, scoring: Scoring, heads: HeadWork, candidate: Candidate, predicted_seconds: float,
    tick: Callable[[], None],
) -> Trial:  # fmt: skip
    """The candidate alone on all images, as a trial that is in no table; written down, be it a failure."""
    kept_seconds = heads.evaluate_seconds()
    check = overdue_check(session.clock, predicted_seconds, lambda: session.ledger.remaining() - kept_seconds)

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
