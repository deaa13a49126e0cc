"""What each calibration policy of a run is worth: the winner's subnet under all of them, on held-out images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nasimb.phases.choice import SHOWN, shown
from nasimb.phases.headprobe import macs_share
from nasimb.phases.heads import HeadWork
from nasimb.search.candidate import Scoring, rank
from nasimb.search.failures import FAILURES, Problem
from nasimb.search.trial import FINISHED, Candidate, Trial
from nasimb.session import Session

PHASE = "search"
BASE = "source"
MARGIN = 1.5
"""Above what a candidate alone is predicted to take: nothing here may cost the last phase its time."""

NO_TIME = "no time was left"


def compare_calibrations(
    session: Session, scoring: Scoring, heads: HeadWork, winner: Candidate, trials: Sequence[Trial]
) -> dict[str, Any] | None:
    """The "calibrations" part of result.json; None where the run has one policy, so that there is nothing to compare.

    Scores of finished trials cost nothing; others are computed as far as the last phase leaves time for them. They are
    those that a search ranks by: of closed-form heads, not of the winner's.

    Args:
        scoring: of the search.
        heads: which know what the last phase takes.

    Raises:
        Interrupted: as `Session.tick`.
    """
    if len(scoring.calibrations) < 2:
        return None
    known = {trial.candidate: trial for trial in trials if trial.state == FINISHED}
    candidates = {policy: replace(winner, calibration=policy) for policy in scoring.calibrations}
    held_out: dict[str, dict[str, float | None]] = {}
    left_out: dict[str, str] = {}
    share = heads.costs.relative(macs_share(scoring, winner.subnet))
    alone_seconds = share * heads.costs.features_seconds() + (known[winner].seconds if winner in known else 0.0)
    for number, (policy, candidate) in enumerate(candidates.items()):
        session.tick(PHASE, number / len(candidates), f"calibration {policy}")
        if candidate in known:
            held_out[policy] = {name: getattr(known[candidate], name) for name in SHOWN}
            continue
        if session.ledger.remaining() < heads.evaluate_seconds() + MARGIN * alone_seconds:
            left_out[policy] = NO_TIME
            continue
        start = scoring.now(session.clock)
        try:
            held_out[policy] = shown(rank(scoring, candidate).metrics)
        except FAILURES as error:
            left_out[policy] = Problem.of(error).reason
        alone_seconds = max(alone_seconds, scoring.now(session.clock) - start)
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


def _gain(found: dict[str, float | None], base: dict[str, float | None]) -> dict[str, float | None]:
    return {
        name: None if value is None or (other := base[name]) is None else value - other for name, value in found.items()
    }
