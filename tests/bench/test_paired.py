"""Paired differences against scipy's own test."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nasimb.bench.paired import holm, paired

VALUES = st.lists(st.floats(-100, 100).map(lambda x: round(x, 3)), min_size=6, max_size=16)


@given(VALUES)
def test_as_scipy_says(values: list[float]) -> None:
    half = len(values) // 2
    one, other = values[:half], values[half : 2 * half]
    found = paired(one, other)
    assert found.mean == pytest.approx(np.mean(one) - np.mean(other), abs=1e-9)
    if np.std(np.subtract(one, other)) < 1e-6:
        return
    told = stats.ttest_rel(one, other)
    interval = told.confidence_interval(0.95)
    assert found.p_value == pytest.approx(told.pvalue, rel=1e-6, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-9)
    assert (found.p_value < 0.05) == (not found.low <= 0 <= found.high)
    turned = paired(other, one)
    assert (turned.mean, turned.p_value) == pytest.approx((-found.mean, found.p_value), abs=1e-9)


@pytest.mark.parametrize("pairs", [1, 2])
def test_fewer_than_three_pairs_say_nothing(pairs: int) -> None:
    """Two equal differences had p = 0, and two that are nearly equal any p one likes."""
    for last in (1.0, 1.001):
        found = paired([3.0, 3.0][:pairs], [1.0, last][:pairs])
        assert found.mean == pytest.approx(2.0, abs=0.001)
        assert math.isnan(found.deviation) == (pairs == 1)
        assert math.isnan(found.low)
        assert math.isnan(found.p_value)
        said = f"Chance cannot be judged by {pairs} pair{'s' * (pairs > 1)} where 3 are needed."
        assert found.sentence("nbn", "bn") == said


@pytest.mark.parametrize("step", [1.0, 0.1, 1e-3])
def test_equal_differences_have_no_spread_to_judge_them_by(step: float) -> None:
    other = [0.3, 0.7, 55.1, 80.9]
    found = paired([value + step for value in other], other)
    assert found.mean == pytest.approx(step)
    assert math.isnan(found.p_value)
    assert math.isnan(found.high)
    assert found.sentence("nbn", "bn") == "Chance cannot be judged by 4 pairs of equal differences."


def test_equal_measurements_do_not_differ() -> None:
    found = paired([3.0, 1.0, 4.0], [3.0, 1.0, 4.0])
    assert (found.mean, found.p_value, found.low, found.high) == (0.0, 1.0, 0.0, 0.0)
    assert found.sentence("nbn", "bn") == "No significant difference between nbn and bn (p = 1, 3 pairs)."


def test_the_sentence_says_which_way() -> None:
    better = paired([5.0, 5.1, 4.9], [1.0, 1.0, 1.0])
    assert better.sentence("nbn", "bn").startswith("nbn is significantly better than bn (p = 0.0")
    worse = paired([1.0, 1.0, 1.0], [5.0, 5.1, 4.9])
    assert worse.sentence("nbn", "bn").startswith("nbn is significantly worse than bn")
    # Means that differ by as much, with a spread that could be chance.
    noisy = paired([0.0, 10.0, 2.0], [1.0, 1.0, -2.0])
    assert noisy.sentence("nbn", "bn").startswith("No significant difference")


def test_holm_by_hand() -> None:
    """Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 not below the one before; a NaN is none of them."""
    found = holm([0.01, math.nan, 0.04, 0.03, 0.005])
    assert found[:1] + found[2:] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert math.isnan(found[1])
    assert holm([0.4, 0.9]) == [0.8, 0.9]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_corrected_values_lie_between_their_own_and_bonferronis_in_the_same_order(values: list[float]) -> None:
    found = holm(values)
    assert all(own <= one <= min(1.0, len(values) * own) for own, one in zip(values, found, strict=True))
    order = sorted(range(len(values)), key=values.__getitem__)
    assert [found[place] for place in order] == sorted(found)


def test_one_family_in_twenty_has_a_chance_finding() -> None:
    p_values = np.random.default_rng(0).random((4000, 8))
    assert np.mean([min(holm(list(row))) < 0.05 for row in p_values]) == pytest.approx(0.05, abs=0.01)
    assert np.mean(p_values.min(1) < 0.05) > 0.3, "without a correction"


def test_the_sentence_says_that_it_is_corrected() -> None:
    found = paired([5.0, 5.1, 4.9], [1.0, 1.0, 1.0])
    assert found.p_value < 0.05
    assert found.sentence("nbn", "bn", 0.2).startswith(
        "No significant difference between nbn and bn (p = 0.2 corrected"
    )
