"""What each calibration policy of a run is worth: the winner's subnet under all of them, on held-out images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from nasimb.phases.choice import SHOWN
from nasimb.phases.headprobe import macs_share
from nasimb.phases.heads import HeadWork
from nasimb.search.candidate import Scoring
from nasimb.search.deadline import overdue_check
from nasimb.search.engine import evaluate_batch
from nasimb.search.study import Proposal
from nasimb.search.trial import FINISHED, Candidate, Trial
from nasimb.session import Session

PHASE = "search"
BASE = "source"
MARGIN = 1.5
"""Above what a candidate alone is predicted to take: nothing here may cost the last phase its time."""
NO_TIME = "no time was left"

Shown = dict[str, float | None]


def compare_calibrations(
    session: Session, scoring: Scoring, heads: HeadWork, winner: Candidate, trials: Sequence[Trial]
) -> dict[str, Any] | None:
    """The "calibrations" part of result.json; None where the run has one policy, so that there is nothing to compare.

    Scores of finished trials cost nothing; others are computed as far as the last phase leaves time for them. They are
    those that a search ranks by: of closed-form heads on all images, not of the winner's head.

    Args:
        scoring: of the search.
        heads: which know what the last phase takes.

    Returns:
        "subnet", "base" (source), "policies": {policy: {"validation": recalls as of the winner, "gain": those less the
        base's; null without one}}, and "left_out": {policy: why}.

    Raises:
        Interrupted: as `Session.tick`.
    """
    if len(scoring.calibrations) < 2:
        return None
    known = {trial.candidate: trial for trial in trials if trial.state == FINISHED}
    share = heads.costs.relative(macs_share(scoring, winner.subnet))
    # The trial's own seconds have its features in them, but it may have shared them with others of its batch.
    seconds = max(share * heads.costs.features_seconds(), known[winner].seconds if winner in known else 0.0)
    held_out: dict[str, Shown] = {}
    left_out: dict[str, str] = {}
    # What all others are compared with comes first: time may run out.
    for number, policy in enumerate(sorted(scoring.calibrations, key=lambda policy: policy != BASE)):
        candidate = replace(winner, calibration=policy)
        tick = partial(session.tick, PHASE, number / len(scoring.calibrations), f"calibration {policy}")
        tick()
        trial = known.get(candidate) or _scored(session, scoring, heads, candidate, MARGIN * seconds, tick)
        if trial is None:
            left_out[policy] = NO_TIME
        elif trial.state == FINISHED:
            held_out[policy] = {name: getattr(trial, name) for name in SHOWN}
        else:
            left_out[policy] = str(trial.reason)
        seconds = max(seconds, 0.0 if trial is None else trial.seconds)
    base = held_out.get(BASE)
    return {
        "subnet": str(winner.subnet),
        "base": BASE,
        "policies": {
            policy: {"validation": found, "gain": None if base is None else _gain(found, base)}
            for policy, found in held_out.items()
        },
        "left_out": left_out,
    }


def _scored(
    session: Session, scoring: Scoring, heads: HeadWork, candidate: Candidate, predicted_seconds: float,
    tick: Callable[[], None],
) -> Trial | None:  # fmt: skip
    """The candidate alone on all images, as a trial that is in no table; None where it is not expected to fit."""
    kept_seconds = heads.evaluate_seconds()

    def left_seconds() -> float:
        return session.ledger.remaining() - kept_seconds

    if left_seconds() < predicted_seconds:
        return None
    check = overdue_check(session.clock, predicted_seconds, left_seconds)

    def between() -> None:
        tick()
        check()

    macs, params = scoring.cost_of(candidate.subnet)
    proposal = Proposal(0, "ablation", candidate, macs, params)
    whole = replace(scoring, screen=None)
    (trial,) = evaluate_batch(whole, [proposal], (), seed=0, clock=session.clock, between=between)
    return trial


def _gain(found: Shown, base: Shown) -> Shown:
    return {
        name: None if value is None or (other := base[name]) is None else value - other for name, value in found.items()
    }
