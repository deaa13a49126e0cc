"""The baseline between reweighting and search: the largest subnet with another's norms."""

from __future__ import annotations

from nasimb.phases.normalised import normalised
from nasimb.search.trial import FINISHED, Candidate, Trial
from nasimb.space import Subnet

LARGEST = Subnet(12, (2, 2), (16, 32), (5, 5), ("bn", "bn"), 2)
SMALL = Subnet(8, (1, 2), (8, 16), (3, 3), ("nbn", "bn"), 1)


def largest() -> Trial:
    return Trial(
        number=1, state=FINISHED, kind="largest", candidate=Candidate(LARGEST, "source"), macs=9, params=9, score=0.5
    )


def cost_of(subnet: Subnet) -> tuple[int, int]:
    return (7, 8) if "nbn" in subnet.norms else (9, 9)


def test_it_differs_from_the_largest_in_norms_and_calibration_alone() -> None:
    found = normalised(largest(), Candidate(SMALL, "mixed"), cost_of)
    assert found is not None
    assert found.candidate == Candidate(Subnet(12, (2, 2), (16, 32), (5, 5), ("nbn", "bn"), 2), "mixed")
    assert (found.macs, found.params) == (7, 8)


def test_there_is_none_where_nothing_differs() -> None:
    alike = Subnet(8, (1, 2), (8, 16), (3, 3), ("bn", "bn"), 1)
    assert normalised(largest(), Candidate(alike, "source"), cost_of) is None
    assert normalised(largest(), Candidate(alike, "mixed"), cost_of) is not None
    assert normalised(None, Candidate(SMALL, "source"), cost_of) is None
