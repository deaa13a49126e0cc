"""The ridge head against refits of the plain normal equations, written out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nasimb.errors import DataError, WorkError
from nasimb.heads import standardise as standardise_module
from nasimb.heads.ridge import RidgeSpec


def features_and_labels(counts: list[int], dimension: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels_N = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    centres_KD = rng.normal(size=(len(counts), dimension))
    features_ND = centres_KD[labels_N] + rng.normal(size=(len(labels_N), dimension)) * rng.uniform(0.3, 3, dimension)
    return features_ND + rng.normal(size=dimension) * 5, labels_N


def standardised_by_hand(features_ND: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    present = np.unique(labels_N)
    weights_N = np.array([1 / (len(present) * (labels_N == label).sum()) for label in labels_N])
    mean_D = weights_N @ features_ND
    std_D = np.sqrt(weights_N @ (features_ND - mean_D) ** 2)
    std_D[std_D < 1e-7 * np.abs(mean_D)] = 1.0
    return (features_ND - mean_D) / std_D


def refit(x_ND: np.ndarray, labels_N: np.ndarray, weights_N: np.ndarray, total: int, penalty: float) -> np.ndarray:
    """Coefficients (with a last row for the bias) of the weighted normal equations with a bias column."""
    present = np.unique(labels_N)
    design = np.hstack([x_ND, np.ones((len(x_ND), 1))])
    targets = (labels_N[:, None] == present).astype(float)
    ridge = penalty * total * np.diag([1.0] * x_ND.shape[1] + [0.0])
    left = design.T @ (weights_N[:, None] * design) + ridge
    return np.linalg.solve(left, design.T @ (weights_N[:, None] * targets))


CASES = {
    "plain": ([20, 7, 3], 4),
    "more features than images": ([6, 4, 2], 30),
    "two classes": ([12, 3], 5),
    "a class with one image": ([9, 4, 1, 2], 6),
    "a class without images": ([8, 0, 5, 2], 6),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("penalty", [1e-3, 0.1, 3.0])
def test_leave_one_out_equals_a_refit_without_each_image(case: str, penalty: float) -> None:
    counts, dimension = CASES[case]
    features_ND, labels_N = features_and_labels(counts, dimension)
    features_ND[:, 0] = 4.2  # a constant feature
    (found,) = RidgeSpec(grid=(penalty,)).score(torch.tensor(features_ND), torch.tensor(labels_N), len(counts))

    x_ND, present = standardised_by_hand(features_ND, labels_N), np.unique(labels_N)
    weights_N = np.array([len(labels_N) / (len(present) * counts[label]) for label in labels_N])
    losses = {int(label): [] for label in present}
    for i, label in enumerate(labels_N):
        others = np.arange(len(labels_N)) != i
        if counts[label] == 1:
            assert found.predicted_N[i] == -1
            continue
        coefficients = refit(x_ND[others], labels_N[others], weights_N[others], len(labels_N), penalty)
        scores_P = np.append(x_ND[i], 1.0) @ coefficients
        assert found.predicted_N[i] == present[scores_P.argmax()]
        losses[int(label)].append(((scores_P - (present == label)) ** 2).sum())
    expected = np.mean([np.mean(values) for values in losses.values() if values])
    assert found.balanced_loss == pytest.approx(expected, rel=1e-6)


def test_fit_equals_the_normal_equations() -> None:
    features_ND, labels_N = features_and_labels([20, 0, 7, 3], 5)
    head = RidgeSpec().fit(torch.tensor(features_ND), torch.tensor(labels_N), 4, 0.05)
    x_ND = standardised_by_hand(features_ND, labels_N)
    weights_N = np.array([30 / (3 * (labels_N == label).sum()) for label in labels_N])
    coefficients = refit(x_ND, labels_N, weights_N, 30, 0.05)
    logits_NK = head.logits(torch.tensor(features_ND)).numpy()
    np.testing.assert_allclose(logits_NK[:, [0, 2, 3]], x_ND @ coefficients[:-1] + coefficients[-1], atol=1e-10)
    assert (logits_NK[:, 1] < -1e8).all()


def test_parts_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    features_ND, labels_N = (torch.tensor(a) for a in features_and_labels([40, 20, 9], 6))
    whole = RidgeSpec().score(features_ND, labels_N, 3)
    monkeypatch.setitem(standardise_module.PART_BYTES, "cpu", 7 * 8 * 6)  # seven images a part
    parts = RidgeSpec().score(features_ND, labels_N, 3)
    for a, b in zip(whole, parts, strict=True):
        assert torch.equal(a.predicted_N, b.predicted_N)
        assert a.balanced_loss == pytest.approx(b.balanced_loss, rel=1e-10)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_finite_never_score(bad: float) -> None:
    features_ND, labels_N = (torch.tensor(a) for a in features_and_labels([5, 5], 3))
    features_ND[4, 1] = bad
    with pytest.raises(WorkError, match="1 of 10 images"):
        RidgeSpec().score(features_ND, labels_N, 2)


def test_one_class_is_not_enough() -> None:
    with pytest.raises(DataError, match="two classes"):
        RidgeSpec().fit(torch.randn(5, 3), torch.zeros(5, dtype=torch.int64), 2, 0.1)
