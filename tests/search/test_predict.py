"""Predicted seconds of the next candidates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasimb.search.predict import fitting, predicted_seconds

SEEN = st.lists(st.tuples(st.integers(1, 10**9), st.floats(1e-4, 1e3)), min_size=1, max_size=30)


def drawn(rng: np.random.Generator, macs: np.ndarray) -> np.ndarray:
    """Seconds of candidates: a fifth of them promoted at seven times the cost of the others, and noise."""
    promoted = np.where(rng.random(len(macs)) < 0.2, 7.0, 1.0)
    return (0.05 + 1e-7 * macs) * promoted * rng.lognormal(0, 0.1, len(macs))


def test_nothing_seen_predicts_nothing() -> None:
    assert predicted_seconds([10**6], []) == 0.0
    assert fitting([10**6] * 3, [], 0.0) == 3


def test_one_trial_predicts_a_little_more_than_itself() -> None:
    assert 2.0 <= predicted_seconds([10**6], [(10**6, 2.0)]) <= 2.5


@pytest.mark.parametrize("count", [1, 4, 16])
def test_nine_in_ten_batches_stay_below_the_prediction(count: int) -> None:
    rng = np.random.default_rng(0)
    macs = rng.integers(10**5, 10**7, 800)
    seconds = drawn(rng, macs)
    seen = list(zip(macs.tolist(), seconds.tolist(), strict=True))
    below = [
        predicted_seconds(macs[i : i + count].tolist(), seen[:i]) >= seconds[i : i + count].sum()
        for i in range(100, 780, 3)
    ]
    assert 0.85 <= np.mean(below) <= 0.99


def test_the_prediction_is_not_far_above_what_happens() -> None:
    macs = np.linspace(10**5, 10**7, 50).astype(int)
    seen = [(int(m), 0.05 + 1e-7 * m) for m in macs]
    assert abs(predicted_seconds([5 * 10**6], seen) / (0.05 + 0.5) - 1.1) < 0.02
    assert abs(predicted_seconds([5 * 10**6] * 16, seen) / (16 * 0.55) - 1.1) < 0.02


def test_large_batches_are_predicted_closer_than_single_candidates() -> None:
    rng = np.random.default_rng(1)
    macs = rng.integers(10**5, 10**7, 100)
    seen = list(zip(macs.tolist(), drawn(rng, macs).tolist(), strict=True))
    assert predicted_seconds([10**6] * 16, seen) < 0.8 * 16 * predicted_seconds([10**6], seen)


@given(SEEN, st.lists(st.integers(1, 10**9), min_size=1, max_size=8))
def test_predictions_are_positive_and_grow_with_the_networks(seen: list[tuple[int, float]], macs: list[int]) -> None:
    low, high = predicted_seconds(macs, seen), predicted_seconds([2 * m for m in macs], seen)
    assert 0 < low <= high * (1 + 1e-9)


@given(SEEN, st.lists(st.integers(1, 10**9), max_size=8), st.floats(0, 1e4))
def test_what_fits_is_the_most_that_takes_half_of_the_time_or_one_that_takes_all(
    seen: list[tuple[int, float]], macs: list[int], seconds: float
) -> None:
    count = fitting(macs, seen, seconds)
    predicted = [predicted_seconds(macs[:n], seen) for n in range(len(macs) + 1)]
    assert all(later > seconds / 2 for later in predicted[max(count, 1) + 1 :])
    if count > 1:
        assert predicted[count] <= seconds / 2
    elif macs:
        assert (predicted[1] <= seconds) == (count == 1)


@pytest.mark.parametrize("overhead", [0.0, 0.3])
def test_a_hundred_noisy_searches_keep_their_budget_and_use_it(overhead: float) -> None:
    """Batches of 16 until nothing fits; `overhead`: what a batch costs once, shared out among its candidates."""
    for run in range(100):
        rng, budget, spent = np.random.default_rng(run), 200.0, 0.0
        seen: list[tuple[int, float]] = []
        going = True
        while going:
            waiting = rng.integers(10**5, 10**7, 2 if not seen else 16).tolist()
            while waiting:
                count = len(waiting) if not seen else fitting(waiting, seen, budget - spent)
                if not count:
                    going = False
                    break
                now, waiting = waiting[:count], waiting[count:]
                seconds = (drawn(rng, np.array(now)) + overhead / count) * rng.lognormal(0, 0.1)
                spent += float(seconds.sum())
                seen += zip(now, seconds.tolist(), strict=True)
        assert 0.9 * budget <= spent <= 1.01 * budget, run
