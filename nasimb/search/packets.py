"""What travels between the owner of a run and its workers, as JSON: units of work, and the trials that come back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nasimb.search.study import Proposal
from nasimb.search.trial import Candidate, Trial
from nasimb.space import Subnet

SCORE, PROMOTE = "score", "promote"
TRIALS = "trials"


def score(proposals: Sequence[Proposal], seen_kinds: Collection[str], attempts: Mapping[int, int]) -> dict[str, Any]:
    """Score these candidates.

    Args:
        seen_kinds: as `evaluate_batch` takes them.
        attempts: by number of the trial; one where it is missing.
    """
    asked = [
        {
            "number": one.number, "kind": one.kind, "subnet": one.candidate.subnet.to_dict(),
            "calibration": one.candidate.calibration, "macs": one.macs, "params": one.params,
            "attempt": attempts.get(one.number, 1),
        }
        for one in proposals
    ]  # fmt: skip
    return {"task": SCORE, "proposals": asked, "seen_kinds": sorted(seen_kinds)}


def promote(trials: Sequence[Trial]) -> dict[str, Any]:
    """Score these screened trials on all images."""
    return {"task": PROMOTE, TRIALS: [trial.to_cells() for trial in trials]}


def numbers_of(work: Mapping[str, Any]) -> list[int]:
    """Of the trials that a unit is about."""
    return [int(one["number"]) for one in work["proposals" if work["task"] == SCORE else TRIALS]]


def proposals_of(work: Mapping[str, Any]) -> list[Proposal]:
    """The candidates of a unit of scoring."""
    return [
        Proposal(
            one["number"], one["kind"], Candidate(Subnet.from_dict(one["subnet"]), one["calibration"]),
            one["macs"], one["params"],
        )
        for one in work["proposals"]
    ]  # fmt: skip


def candidates_of(work: Mapping[str, Any]) -> dict[int, Candidate]:
    """What the trials of a unit are about, by number."""
    asked = proposals_of(work) if work["task"] == SCORE else trials_of_packet(work)
    return {one.number: one.candidate for one in asked}


def attempts_of(work: Mapping[str, Any]) -> dict[int, int]:
    """How often the trials of a unit of scoring have been begun, this time included."""
    return {one["number"]: one["attempt"] for one in work.get("proposals", ())}


def answer(trials: Sequence[Trial]) -> dict[str, Any]:
    """What came of a unit."""
    return {TRIALS: [trial.to_cells() for trial in trials]}


def trials_of_packet(packet: Mapping[str, Any]) -> list[Trial]:
    """The trials of an answer, or of a unit of promotion."""
    return [Trial.from_row(cells) for cells in packet[TRIALS]]
