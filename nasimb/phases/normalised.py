"""The baseline that tells normalisation from search: the largest subnet with the norms of another candidate."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from nasimb.search.trial import Candidate, Trial
from nasimb.space import SearchSpace, Subnet

ROLE = "largest_normalised"


def possible(space: SearchSpace, calibrations: Collection[str]) -> bool:
    """Whether a winner may have other norms, or another calibration, than the largest subnet."""
    return len(calibrations) > 1 or any(len(stage.norms) > 1 for stage in space.stages)


def normalised(largest: Trial | None, other: Candidate, cost_of: Callable[[Subnet], tuple[int, int]]) -> Trial | None:
    """The largest subnet with the norms and the calibration of `other`, as a trial that is in no table.

    None where that is the largest subnet as it is, or where that has no score.

    Args:
        cost_of: MACs and params of a subnet.
    """
    if largest is None:
        return None
    candidate = Candidate(replace(largest.candidate.subnet, norms=other.subnet.norms), other.calibration)
    if candidate == largest.candidate:
        return None
    macs, params = cost_of(candidate.subnet)
    return replace(largest, candidate=candidate, macs=macs, params=params)
