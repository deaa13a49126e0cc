"""Rank correlation and regret by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasimb.bench.correlation import kendall_tau, regret


@given(st.permutations(range(7)), st.permutations(range(7)))
def test_tau_counts_pairs_in_the_same_and_in_the_other_order(a: list[int], b: list[int]) -> None:
    signs = [np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]) for i, j in combinations(range(7), 2)]
    assert kendall_tau(a, b) == pytest.approx(np.mean(signs))


@pytest.mark.parametrize("scores", [[], [1.0], [0.5, 0.5, 0.5], [0.1, float("nan"), 0.3]])
def test_tau_is_none_where_there_is_no_order(scores: list[float]) -> None:
    assert kendall_tau(scores, [0.1, 0.2, 0.3][: len(scores)]) is None


def test_regret_is_what_the_best_of_the_top_lacks() -> None:
    truths = [0.9, 0.5, 0.6, 0.7, 0.1]
    assert regret([0.0, 0.9, 0.8, 0.7, 0.6], truths, top=3) == pytest.approx(0.9 - 0.7)
    assert regret([1.0, 0.9, 0.8, 0.7, 0.6], truths, top=3) == 0.0
    assert regret([0.5] * 5, truths, top=1) == 0.0
