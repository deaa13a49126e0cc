"""The paired test against its definition, and against chance: it does not see what is not there."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from nasimb.deliver.paired import compare
from nasimb.deliver.tables import verdict

LABELS_N = np.zeros(40, np.int64)
COUNTS_K = np.array([10, 10])


def pair(only_first: int, only_second: int) -> tuple[np.ndarray, np.ndarray]:
    first_N, second_N = LABELS_N.copy(), LABELS_N.copy()
    second_N[:only_first] = 1
    first_N[only_first : only_first + only_second] = 1
    first_N[-2:] = second_N[-2:] = 1
    return first_N, second_N


@pytest.mark.parametrize(("only_first", "only_second"), [(9, 1), (1, 9), (3, 3), (5, 2)])
def test_mcnemar_is_the_exact_binomial(only_first: int, only_second: int) -> None:
    found = compare(*pair(only_first, only_second), LABELS_N, COUNTS_K, resamples=200, seed=0)
    apart, fewer = only_first + only_second, min(only_first, only_second)
    expected = min(1.0, 2 * sum(comb(apart, count) for count in range(fewer + 1)) / 2**apart)
    assert found.mcnemar_p == pytest.approx(expected)
    assert (found.only_first, found.only_second, found.neither) == (only_first, only_second, 2)
    assert found.both == 40 - 2 - apart
    assert found.differences["accuracy"].difference == pytest.approx((only_first - only_second) / 40)


def test_equal_models_do_not_differ() -> None:
    found = compare(LABELS_N, LABELS_N, LABELS_N, COUNTS_K, resamples=50, seed=0)
    assert found.mcnemar_p == 1.0
    assert found.differences["accuracy"] == (0, 0, 0)
    assert "do not differ significantly" in verdict(found)


def test_the_verdict_names_the_better_one() -> None:
    better = verdict(compare(*pair(15, 0), LABELS_N, COUNTS_K, resamples=200, seed=0))
    worse = verdict(compare(*pair(0, 15), LABELS_N, COUNTS_K, resamples=200, seed=0))
    assert better.startswith("The model is more accurate")
    assert "The model has the higher balanced accuracy" in better
    assert worse.startswith("The other is more accurate")
    assert "The other has the higher balanced accuracy" in worse


def test_chance_is_called_chance() -> None:
    """Two models that are right on images of their own choice: at most one in twenty is called different."""
    rng = np.random.default_rng(0)
    seen = [
        compare(*(rng.random((2, 60)) < 0.3).astype(np.int64), np.zeros(60, np.int64), COUNTS_K, resamples=2, seed=0)
        for _ in range(400)
    ]
    assert np.mean([found.mcnemar_p < 0.05 for found in seen]) < 0.06
