"""Predicted seconds of a candidate."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nasimb.search.predict import predicted_seconds


def test_nothing_seen_predicts_nothing() -> None:
    assert predicted_seconds(10**6, []) == 0.0


def test_one_trial_predicts_a_little_more_than_itself() -> None:
    assert 2.0 <= predicted_seconds(10**6, [(10**6, 2.0)]) <= 2.5


def test_nine_in_ten_trials_stay_below_the_prediction() -> None:
    rng = np.random.default_rng(0)
    macs = rng.integers(10**5, 10**7, 400)
    seconds = (0.05 + 1e-7 * macs) * rng.lognormal(0, 0.2, 400)
    below = [predicted_seconds(m, list(zip(macs[:i], seconds[:i], strict=True))) >= s
             for i, (m, s) in enumerate(zip(macs, seconds, strict=True)) if i >= 100]  # fmt: skip
    assert 0.88 <= np.mean(below) <= 0.99


def test_the_prediction_is_not_far_above_what_happens() -> None:
    macs = np.linspace(10**5, 10**7, 50).astype(int)
    seen = [(int(m), 0.05 + 1e-7 * m) for m in macs]
    assert abs(predicted_seconds(5 * 10**6, seen) / (0.05 + 0.5) - 1.1) < 0.02


@given(
    st.lists(st.tuples(st.integers(1, 10**9), st.floats(1e-4, 1e3)), min_size=1, max_size=30),
    st.integers(1, 10**9),
)
def test_predictions_are_positive_and_grow_with_the_network(seen: list[tuple[int, float]], macs: int) -> None:
    low, high = predicted_seconds(macs, seen), predicted_seconds(2 * macs, seen)
    assert 0 < low <= high * (1 + 1e-9)
