"""Metrics against scikit-learn and crafted cases, intervals against the resampling they stand for."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, hmean
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, recall_score

from nasimb.errors import InputError
from nasimb.metrics import (
    NO_PREDICTION,
    OBJECTIVES,
    _p_values,
    bootstrap_intervals,
    check_objective,
    expected_calibration_error,
    mean_cost,
    measure,
    objective_value,
    paired_difference,
    shot_groups,
)

pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


@given(pairs)
@settings(max_examples=80, deadline=None)
def test_agrees_with_scikit_learn(rows: list[tuple[int, int]]) -> None:
    predicted_N, labels_N = np.array(rows).T
    found = measure(predicted_N, labels_N, [200, 50, 50, 10, 10])
    present = np.unique(labels_N)
    recalls = recall_score(labels_N, predicted_N, labels=present, average=None, zero_division=0)
    assert found.balanced_accuracy == pytest.approx(recalls.mean())
    if len(present) > 1 and set(predicted_N) <= set(labels_N):  # scikit-learn warns otherwise
        assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels_N, predicted_N))
    assert found.accuracy == pytest.approx(accuracy_score(labels_N, predicted_N))
    for average, value in (("macro", found.macro_f1), ("weighted", found.weighted_f1)):
        theirs = f1_score(labels_N, predicted_N, labels=present, average=average, zero_division=0)
        assert value == pytest.approx(theirs)
    assert [found.recalls_K[k] for k in present] == pytest.approx(list(recalls))
    assert found.absent_classes == tuple(k for k in range(5) if k not in present)
    assert all(found.recalls_K[k] is None for k in found.absent_classes)
    assert found.worst_class == present[recalls.argmin()]
    assert found.worst_recall == recalls.min()
    expected = np.prod(recalls) ** (1 / len(recalls))
    assert found.g_mean == pytest.approx(expected)
    assert found.harmonic_mean == pytest.approx(hmean(recalls))
    assert found.images == len(rows)


def test_groups_follow_training_counts_strictly() -> None:
    groups = shot_groups([101, 100, 20, 19, 0])
    assert {name: index.tolist() for name, index in groups.items()} == {"many": [0], "medium": [1, 2], "few": [3, 4]}


def test_group_accuracy_is_a_mean_of_recalls_and_none_where_empty() -> None:
    labels_N = [0, 0, 0, 0, 1, 1, 2]
    found = measure([0, 0, 0, 1, 1, 0, 2], labels_N, [500, 300, 50])
    assert found.many == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert found.medium == 1.0
    assert found.few is None


def test_a_group_without_test_images_is_none() -> None:
    assert measure([0, 1], [0, 1], [500, 300, 5]).few is None


def test_one_class_without_recall_makes_the_geometric_mean_zero() -> None:
    found = measure([0, 1, 0], [0, 1, 2], [9, 9, 9])
    assert found.g_mean == 0.0
    assert found.harmonic_mean == 0.0
    assert (found.worst_class, found.worst_recall) == (2, 0.0)


def test_images_without_a_prediction_are_left_out() -> None:
    with_gap = measure([0, NO_PREDICTION, 1], [0, 2, 1], [9, 9, 1])
    assert with_gap == measure([0, 1], [0, 1], [9, 9, 1])
    assert with_gap.recalls_K[2] is None


@pytest.mark.parametrize(
    ("predicted", "labels", "message"),
    [
        ([0, 1], [0], "one prediction for each label"),
        ([], [], "at least one image"),
        ([NO_PREDICTION], [0], "at least one image"),
        ([3], [0], "from 0 to 1"),
        ([0], [-2], "from 0 to 1"),
    ],
)
def test_wrong_input_gets_a_sentence(predicted: list[int], labels: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        measure(predicted, labels, [5, 5])


def test_objectives_by_name() -> None:
    found = measure([0, 1, 1], [0, 1, 2], [200, 50, 5])
    values = {name: objective_value(found, name) for name in OBJECTIVES}
    assert values["few"] == 0.0
    assert values["many"] == 1.0
    assert values["worst_recall"] == 0.0
    assert values["balanced_accuracy"] == pytest.approx(2 / 3)


def test_an_objective_over_an_empty_group_is_refused_before_any_work() -> None:
    check_objective("few", [200, 5])
    with pytest.raises(InputError, match="needs few-shot classes"):
        check_objective("few", [200, 50])
    with pytest.raises(InputError, match="'balanced_accuracy'"):
        check_objective("balanced_acuracy", [200, 50])


def resampled_by_hand(
    right_N: np.ndarray, labels_N: np.ndarray, groups: dict[str, list[int]], rng: np.random.Generator, repeats: int
) -> dict[str, np.ndarray]:
    """The bootstrap as it is defined: images drawn with replacement within their class."""
    draws: dict[str, list[float]] = {name: [] for name in groups}
    for _ in range(repeats):
        recalls = [rng.choice(right_N[labels_N == k], size=(labels_N == k).sum()).mean() for k in range(3)]
        for name, classes in groups.items():
            draws[name].append(np.mean([recalls[k] for k in classes]))
    return {name: np.array(values) for name, values in draws.items()}


def crafted(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels_N = np.repeat([0, 1, 2], [60, 40, 25])
    a_N = np.where(rng.random(125) < np.array([0.9, 0.7, 0.5])[labels_N], labels_N, (labels_N + 1) % 3)
    b_N = np.where(rng.random(125) < 0.85, a_N, (labels_N + 2) % 3)
    return a_N, b_N, labels_N


def test_intervals_are_those_of_resampled_images() -> None:
    a_N, _, labels_N = crafted(0)
    found = bootstrap_intervals(a_N, labels_N, [500, 50, 5], resamples=20000, seed=1)
    assert set(found) == {"balanced_accuracy", "accuracy", "many", "medium", "few"}
    groups = {"balanced_accuracy": [0, 1, 2], "many": [0], "medium": [1], "few": [2]}
    draws = resampled_by_hand(a_N == labels_N, labels_N, groups, np.random.default_rng(2), 3000)
    for name, values in draws.items():
        assert found[name] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.021)
    metrics = measure(a_N, labels_N, [500, 50, 5])
    for name, (low, high) in found.items():
        assert low < getattr(metrics, name) < high


def test_intervals_are_seeded_and_leave_empty_groups_out() -> None:
    a_N, _, labels_N = crafted(1)
    once = bootstrap_intervals(a_N, labels_N, [500, 50, 50], seed=3)
    assert once == bootstrap_intervals(a_N, labels_N, [500, 50, 50], seed=np.random.default_rng(3))
    assert once != bootstrap_intervals(a_N, labels_N, [500, 50, 50], seed=4)
    assert "few" not in once


def test_higher_levels_are_wider() -> None:
    a_N, _, labels_N = crafted(2)
    narrow, wide = (bootstrap_intervals(a_N, labels_N, [9, 9, 9], seed=0, level=level) for level in (0.5, 0.99))
    assert wide["few"].low < narrow["few"].low < narrow["few"].high < wide["few"].high


def test_paired_differences_use_the_same_images() -> None:
    a_N, b_N, labels_N = crafted(3)
    found = paired_difference(a_N, b_N, labels_N, [500, 50, 5], resamples=20000, seed=0)
    a, b = (measure(x_N, labels_N, [500, 50, 5]) for x_N in (a_N, b_N))
    for name, row in found.items():
        assert row.difference == pytest.approx(getattr(a, name) - getattr(b, name))
        assert row.low <= row.difference <= row.high
    margin_N = (a_N == labels_N).astype(float) - (b_N == labels_N)
    groups = {"balanced_accuracy": [0, 1, 2], "few": [2]}
    draws = resampled_by_hand(margin_N, labels_N, groups, np.random.default_rng(2), 3000)
    assert binomtest(int((margin_N[labels_N == 2] > 0).sum()), int((margin_N[labels_N == 2] != 0).sum())).pvalue > 0.05
    for name, values in draws.items():
        low, high = np.quantile(values, [0.025, 0.975])
        assert found[name][1:] == pytest.approx((0.0 if name == "few" else low, high), abs=0.021)


@given(only_a=st.integers(0, 40), only_b=st.integers(0, 40))
def test_an_interval_holds_zero_where_mcnemars_exact_test_does_not_refuse_it(only_a: int, only_b: int) -> None:
    labels_N = np.zeros(only_a + only_b + 20, dtype=int)
    a_N, b_N = labels_N.copy(), labels_N.copy()
    b_N[:only_a], a_N[only_a : only_a + only_b] = 1, 1
    low, high = paired_difference(a_N, b_N, labels_N, [500, 50], resamples=4000, seed=0)["accuracy"][1:]
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    if p > 0.05:
        assert low <= 0 <= high
    elif abs(only_a - only_b) > 10:
        assert low > 0 or high < 0


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=3), st.booleans())
@settings(max_examples=40)
def test_p_values_are_those_of_all_outcomes_of_the_coins(differ: list[tuple[int, int]], alike: bool) -> None:
    """Against all outcomes, weighed by their binomial chances; classes of many sizes are tossed for."""
    images_K = np.array([40, 40, 40] if alike else [20, 45, 90])[: len(differ)]
    kinds_K4 = np.array([[images - a - b, b, a, 0] for images, (a, b) in zip(images_K, differ, strict=True)])
    counts_K = np.full(len(differ), 50)
    weight_K = 1 / (images_K * len(differ))
    found = float(weight_K @ [a - b for a, b in differ])
    outcomes = itertools.product(*(range(a + b + 1) for a, b in differ))
    expected = sum(
        math.prod(math.comb(a + b, h) / 2 ** (a + b) for h, (a, b) in zip(heads, differ, strict=True))
        for heads in outcomes
        if abs(weight_K @ [2 * h - a - b for h, (a, b) in zip(heads, differ, strict=True)]) >= abs(found) - 1e-12
    )
    p = _p_values({"balanced_accuracy": np.array(found)}, kinds_K4, images_K, counts_K)["balanced_accuracy"]
    assert p == pytest.approx(expected, abs=1e-9 if alike else 0.02)


def test_a_rare_class_that_turns_over_is_told_from_chance_by_its_images() -> None:
    """0 of n, then n of n: every resample says so, and a coin says it once in 2^(n - 1) times."""
    counts = [900, 10]
    for images, certain in ((2, False), (5, False), (6, True)):
        labels_N = np.array([0] * 50 + [1] * images)
        gain = paired_difference(labels_N, np.zeros_like(labels_N), labels_N, counts, seed=0)
        assert gain["few"] == (1.0, 1.0 if certain else 0.0, 1.0)
        assert (gain["balanced_accuracy"].low > 0) is certain


def test_a_model_does_not_differ_from_itself() -> None:
    a_N, _, labels_N = crafted(4)
    assert set(paired_difference(a_N, a_N, labels_N, [500, 50, 5], seed=0).values()) == {(0.0, 0.0, 0.0)}


def test_differences_leave_out_images_that_either_did_not_predict() -> None:
    found = paired_difference([0, -1, 1, 1], [0, 0, -1, 0], [0, 0, 1, 1], [9, 9], seed=0)
    assert found["balanced_accuracy"].difference == pytest.approx(0.5)


def test_calibration_error_by_hand() -> None:
    probabilities_NK = np.array([[0.95, 0.05], [0.9, 0.1], [0.35, 0.65], [0.5, 0.5]])
    labels_N = [0, 1, 1, 0]
    # Four bins: (0.25, 0.5] has the last, right at 0.5; (0.5, 0.75] one right at 0.65; (0.75, 1] one right of two.
    expected = (1 * abs(1 - 0.5) + 1 * abs(1 - 0.65) + 2 * abs(0.5 - 0.925)) / 4
    assert expected_calibration_error(probabilities_NK, labels_N, bins=4) == pytest.approx(expected)


def test_perfect_confidence_is_calibrated_and_certain_error_is_not() -> None:
    assert expected_calibration_error(np.eye(3), [0, 1, 2]) == 0.0
    assert expected_calibration_error(np.eye(3), [1, 2, 0]) == 1.0


def test_cost_of_mistakes() -> None:
    cost_KK = [[0, 1], [10, 0]]
    assert mean_cost([0, 1, 0, 1], [0, 0, 1, 1], cost_KK) == pytest.approx(11 / 4)
