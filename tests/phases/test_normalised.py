"""The baseline that tells normalisation from search has the winner's norms and nothing else of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nasimb.phases.headcosts import HeadCosts, LastPhase
from nasimb.phases.normalised import normalised, possible
from nasimb.search.trial import Candidate, Trial
from nasimb.space import SearchSpace, Stage

STAGE = Stage(depths=(1,), widths=(8, 16), kernel_sizes=(3,), norms=("bn", "nbn"), stride=1)
SPACE = SearchSpace(name="two", backbone="resnet", stem_width=8, resolutions=(8,), taps=(1,), stages=(STAGE, STAGE))


def trial(candidate: Candidate) -> Trial:
    return Trial(
        number=3, candidate=candidate, kind="largest", state="finished", macs=100, params=10, score=0.5, seconds=1.0
    )


def test_it_is_the_largest_subnet_with_the_norms_and_the_calibration_of_another() -> None:
    largest = trial(Candidate(SPACE.largest(), "source"))
    other = Candidate(replace(SPACE.smallest(), norms=("nbn", "bn")), "mixed")
    found = normalised(largest, other, lambda subnet: (200 + len(subnet.norms), 20))
    assert found is not None
    assert found.candidate == Candidate(replace(SPACE.largest(), norms=("nbn", "bn")), "mixed")
    assert (found.macs, found.params) == (202, 20)


def test_it_is_none_where_it_would_be_the_largest_subnet_itself() -> None:
    largest = trial(Candidate(SPACE.largest(), "source"))
    same = Candidate(replace(SPACE.smallest(), norms=SPACE.largest().norms), "source")
    assert normalised(largest, same, lambda subnet: (1, 1)) is None
    assert normalised(None, same, lambda subnet: (1, 1)) is None


@pytest.mark.parametrize(
    ("norms", "calibrations", "expected"),
    [(("bn", "nbn"), ["source"], True), (("bn",), ["source", "mixed"], True), (("bn",), ["source"], False)],
)
def test_time_is_kept_for_it_only_where_there_may_be_one(
    norms: tuple[str, ...], calibrations: list[str], expected: bool
) -> None:
    stages = tuple(stage.model_copy(update={"norms": norms}) for stage in SPACE.stages)
    assert possible(SPACE.model_copy(update={"stages": stages}), calibrations) is expected


def test_what_is_kept_is_one_more_comparison_and_one_more_tested_network_of_the_largest_size() -> None:
    without = HeadCosts(
        heads=("'balanced'", "'gda'"), finalists=5, walks=4, fitted=1000, held_out=0, test=500, target=1000, crops=1,
        typical_share=0.25, smallest_seconds=0.5, calibrate_seconds=2.0, image_seconds=0.01,
        fit_seconds={"'balanced'": 3.0, "'gda'": 1.0},
    )  # fmt: skip
    kept = replace(without, normalised=1)
    # Features of 1,000 images at 10 ms and their calibration, and four fits of 3 s and of 1 s.
    assert kept.finalists_seconds() - without.finalists_seconds() == pytest.approx(2 + 10 + 4 * (3 + 1))
    before, after = (costs.expected(passed_again=True) for costs in (without, kept))
    assert after == LastPhase(before.networks + 1, before.passed_again + 1, before.fit_seconds + 3, before.subnets + 1)
