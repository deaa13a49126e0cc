"""Batches to measure: as the run's sampler would propose them, small, any or large."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import numpy as np
import pytest
from tiny_run import SPACE

from nasimb.cost.macs import macs_and_params
from nasimb.phases.companies import LATE, LIKINGS, companies, share_within, typical_subnets
from nasimb.search.limits import Limits
from nasimb.search.study import Question
from nasimb.space import SearchSpace, Subnet

DIGITS = SearchSpace.load("digits-resnet")


def cost_of(subnet: Subnet) -> tuple[int, int]:
    return macs_and_params(DIGITS, subnet, 1)


def question(sampler: str = "evolution", limits: Limits = Limits(), space: SearchSpace = DIGITS) -> Question:  # noqa: B008
    return Question(space, ("source", "target-natural"), limits, sampler, None, 0)


@pytest.mark.parametrize("sampler", ["evolution", "nsga2"])
def test_the_sampler_goes_where_scores_are_high(sampler: str) -> None:
    found = companies(question(sampler), cost_of)
    assert list(found) == list(LIKINGS)
    sizes = {
        name: mean(cost_of(one.subnet)[0] for batch in late for one in batch) for name, late in found.items()
    }  # fmt: skip
    assert sizes["small"] < 0.8 * sizes["large"]
    for late in found.values():
        assert len(late) == LATE
        assert all(8 <= len(batch) <= 16 and len(set(batch)) == len(batch) for batch in late)


def test_random_sampling_goes_nowhere_whatever_wins() -> None:
    found = companies(question("random"), cost_of)
    assert found["small"] == found["large"]


def test_nobody_over_the_limits_is_in_company() -> None:
    limits = Limits(max_macs=1_000_000)
    for late in companies(question(limits=limits), cost_of).values():
        assert all(cost_of(one.subnet)[0] <= 1_000_000 for batch in late for one in batch)
    drawn = [DIGITS.sample(np.random.default_rng(seed)) for seed in range(2000)]
    share = mean(cost_of(subnet)[0] <= 1_000_000 for subnet in drawn)
    assert share_within(question(limits=limits), cost_of) == pytest.approx(share, abs=0.06)
    assert share_within(question(), cost_of) == 1.0


def test_a_space_that_is_soon_exhausted_still_has_companies(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(
        "backbone: resnet\nstem_width: 4\nresolutions: [8]\n"
        "stages: [{depths: [1], widths: [4, 8], kernel_sizes: [3], norms: [bn], stride: 1}]\n"
    )
    space = SearchSpace.load(str(tmp_path / "one.yaml"))
    found = companies(question(space=space), lambda subnet: macs_and_params(space, subnet, 1))
    assert all(len(batch) >= 1 for late in found.values() for batch in late)


def test_typical_subnets_are_what_their_names_say(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SPACE)
    for space in (DIGITS, SearchSpace.load(str(tmp_path / "tiny.yaml"))):
        found = typical_subnets(space, lambda subnet, space=space: macs_and_params(space, subnet, 1))  # type: ignore[misc]
        assert (found["smallest"], found["largest"]) == (space.smallest(), space.largest())
        sizes = [macs_and_params(space, space.sample(np.random.default_rng(seed)), 1)[0] for seed in range(999)]
        below = mean(size < macs_and_params(space, found["median"], 1)[0] for size in sizes)
        assert 0.35 <= below <= 0.65
