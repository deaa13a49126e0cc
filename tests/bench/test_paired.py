"""Paired differences against scipy's own test."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nasimb.bench.paired import paired

VALUES = st.lists(st.floats(-100, 100).map(lambda x: round(x, 3)), min_size=4, max_size=16)


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


def test_one_pair_says_nothing() -> None:
    found = paired([3.0], [1.0])
    assert found.mean == 2.0
    assert math.isnan(found.deviation)
    assert math.isnan(found.low)
    assert found.sentence("nbn", "bn") == "One pair says nothing about chance."


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
