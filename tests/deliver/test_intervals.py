"""Intervals against a plain bootstrap of images scored by scikit-learn, and against coverage of known truths."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score, recall_score

from nasimb.deliver.intervals import calibration_interval, confusion, confusion_intervals, most_cost, recall_interval
from nasimb.errors import DataError
from nasimb.metrics import expected_calibration_error

CLASSES = 4
COST_KK = np.array([[0.0, 1, 1, 2], [5, 0, 1, 1], [0, 0, 0, 0], [1, 9, 1, 0]])


@pytest.fixture
def guesses() -> tuple[np.ndarray, np.ndarray]:
    """300 images of three of four classes, two of three right, and predictions."""
    rng = np.random.default_rng(0)
    labels_N = rng.choice([0, 1, 3], size=300, p=[0.6, 0.3, 0.1])
    return np.where(rng.random(300) < 0.67, labels_N, rng.integers(0, CLASSES, 300)), labels_N


def by_hand(predicted_N: np.ndarray, labels_N: np.ndarray) -> dict[str, float]:
    present = [0, 1, 3]
    recalls = recall_score(labels_N, predicted_N, labels=present, average=None, zero_division=0)
    paid = COST_KK[labels_N, predicted_N]
    return {
        "macro_f1": f1_score(labels_N, predicted_N, labels=present, average="macro"),
        "weighted_f1": f1_score(labels_N, predicted_N, labels=present, average="weighted"),
        "g_mean": float(np.prod(recalls) ** (1 / 3)),
        "harmonic_mean": 3 / sum(1 / recall for recall in recalls),
        "worst_recall": min(recalls),
        "mean_cost": paid.mean(),
        "cost_weighted_accuracy": 1 - paid.sum() / COST_KK[labels_N].max(1).sum(),
    }


def test_intervals_are_those_of_images_resampled_within_classes(guesses: tuple[np.ndarray, np.ndarray]) -> None:
    predicted_N, labels_N = guesses
    found = confusion_intervals(confusion(predicted_N, labels_N, CLASSES), cost_KK=COST_KK, resamples=4000, seed=1)
    rng = np.random.default_rng(2)
    groups = [np.flatnonzero(labels_N == k) for k in (0, 1, 3)]
    drawn = []
    for _ in range(250):
        rows = np.concatenate([rng.choice(group, len(group)) for group in groups])
        drawn.append(by_hand(predicted_N[rows], labels_N[rows]))
    assert found.keys() == drawn[0].keys()
    for name, (low, high) in found.items():
        expected = np.quantile([one[name] for one in drawn], [0.025, 0.975])
        assert (low, high) == pytest.approx(tuple(expected), abs=0.25 * (high - low)), name


def test_the_confusion_is_scikit_learns(guesses: tuple[np.ndarray, np.ndarray]) -> None:
    predicted_N, labels_N = guesses
    expected = confusion_matrix(labels_N, predicted_N, labels=range(CLASSES))
    np.testing.assert_array_equal(confusion(predicted_N, labels_N, CLASSES), expected)


def test_parts_are_only_parts(guesses: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    confusion_KK = confusion(*guesses, CLASSES)
    whole = confusion_intervals(confusion_KK, resamples=50, seed=3)
    monkeypatch.setattr("nasimb.deliver.intervals.PART_BYTES", 1)
    for name, ends in confusion_intervals(confusion_KK, resamples=50, seed=3).items():
        assert ends == pytest.approx(whole[name]), name


def test_a_class_that_is_never_recognised_makes_its_means_zero() -> None:
    found = confusion_intervals(np.array([[0, 5], [0, 5]]), resamples=20, seed=0)
    for name in ("g_mean", "harmonic_mean", "worst_recall"):
        assert found[name] == (0, 0), name


def test_calibration_intervals_are_those_of_resampled_images() -> None:
    rng = np.random.default_rng(4)
    probabilities_NK = rng.dirichlet([0.4] * 3, size=400)
    labels_N = np.where(rng.random(400) < 0.8, probabilities_NK.argmax(1), rng.integers(0, 3, 400))
    low, high = calibration_interval(probabilities_NK, labels_N, resamples=1500, seed=5)
    groups = [np.flatnonzero(labels_N == k) for k in range(3)]
    drawn = []
    for _ in range(800):
        rows = np.concatenate([rng.choice(group, len(group)) for group in groups])
        drawn.append(expected_calibration_error(probabilities_NK[rows], labels_N[rows]))
    expected = np.quantile(drawn, [0.025, 0.975])
    assert (low, high) == pytest.approx(tuple(expected), abs=0.15 * (high - low))


@pytest.mark.parametrize(("hits", "images"), [(0, 4), (4, 4), (7, 10)])
def test_recall_intervals_are_wilsons(hits: int, images: int) -> None:
    z, p = 1.959963984540054, hits / images
    middle = (p + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * np.sqrt(p * (1 - p) / images + z**2 / (4 * images**2))
    assert recall_interval(hits, images) == pytest.approx((middle - half, middle + half))


def test_free_mistakes_have_no_share() -> None:
    with pytest.raises(DataError, match="must cost something"):
        most_cost(COST_KK, np.array([2]), np.array([7]))
