"""The Gaussian discriminant against refits without each image, written out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from nasimb.errors import WorkError
from nasimb.heads.gda import GdaSpec


def features_and_labels(counts: list[int], dimension: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels_N = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    centres_KD = rng.normal(size=(len(counts), dimension))
    mixing_DD = rng.normal(size=(dimension, dimension)) / np.sqrt(dimension)
    return centres_KD[labels_N] + rng.normal(size=(len(labels_N), dimension)) @ mixing_DD + 3.0, labels_N


def standardised_by_hand(features_ND: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    present = np.unique(labels_N)
    weights_N = np.array([1 / (len(present) * (labels_N == label).sum()) for label in labels_N])
    mean_D = weights_N @ features_ND
    std_D = np.sqrt(weights_N @ (features_ND - mean_D) ** 2)
    std_D[std_D < 1e-7 * np.abs(mean_D)] = 1.0
    return (features_ND - mean_D) / std_D


def distances(
    x_ND: np.ndarray,
    labels_N: np.ndarray,
    query_D: np.ndarray,
    classes: np.ndarray,
    shrinkage: float,
    weights_N: np.ndarray,
) -> np.ndarray:
    """Squared Mahalanobis distances of one query, from the definition; `classes` also fix the degrees of freedom."""
    means_PD = np.stack([x_ND[labels_N == label].mean(0) for label in classes])
    deviations_ND = x_ND - means_PD[np.searchsorted(classes, labels_N)]
    covariance_DD = deviations_ND.T @ (weights_N[:, None] * deviations_ND) / (len(x_ND) - len(classes))
    dimension = x_ND.shape[1]
    shrunk_DD = (1 - shrinkage) * covariance_DD + shrinkage * np.trace(covariance_DD) / dimension * np.eye(dimension)
    differences_PD = query_D - means_PD
    return np.einsum("pd,de,pe->p", differences_PD, np.linalg.inv(shrunk_DD), differences_PD)


def image_weights(labels_N: np.ndarray) -> np.ndarray:
    weights_N = np.array([(labels_N == label).sum() ** -0.5 for label in labels_N])
    return weights_N / weights_N.mean()


CASES = {
    "plain": ([20, 7, 3], 4),
    "more features than images": ([6, 4, 2], 30),
    "two classes": ([12, 2], 5),
    "a class with one image": ([9, 4, 1, 2], 6),
    "a class without images": ([8, 0, 5, 2], 6),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shrinkage", [1e-3, 0.2, 1.0])
def test_leave_one_out_equals_a_refit_without_each_image(case: str, shrinkage: float) -> None:
    counts, dimension = CASES[case]
    features_ND, labels_N = features_and_labels(counts, dimension)
    features_ND[:, 1] = -7.0  # a constant feature
    (found,) = GdaSpec(grid=(shrinkage,)).score(torch.tensor(features_ND), torch.tensor(labels_N), len(counts))

    x_ND, present = standardised_by_hand(features_ND, labels_N), np.unique(labels_N)
    weights_N = image_weights(labels_N)
    losses = {int(label): [] for label in present}
    for i, label in enumerate(labels_N):
        others = np.arange(len(labels_N)) != i
        if counts[label] == 1:
            assert found.predicted_N[i] == -1
            continue
        scores_P = -0.5 * distances(x_ND[others], labels_N[others], x_ND[i], present, shrinkage, weights_N[others])
        assert found.predicted_N[i] == present[scores_P.argmax()]
        losses[int(label)].append(logsumexp(scores_P) - scores_P[present == label][0])
    expected = np.mean([np.mean(values) for values in losses.values() if values])
    assert found.balanced_loss == pytest.approx(expected, rel=1e-6)


def test_the_trace_without_the_image_matters() -> None:
    """An outlier that carries most of the trace: keeping it in the shrinkage target would change the loss."""
    features_ND, labels_N = features_and_labels([6, 5], 3)
    features_ND[0] += 40.0
    (found,) = GdaSpec(grid=(0.9,)).score(torch.tensor(features_ND), torch.tensor(labels_N), 2)
    x_ND = standardised_by_hand(features_ND, labels_N)
    both, weights_N = np.array([0, 1]), image_weights(labels_N)
    scores_P = -0.5 * distances(x_ND[1:], labels_N[1:], x_ND[0], both, 0.9, weights_N[1:])
    assert found.predicted_N[0] == scores_P.argmax()
    kept_P = -0.5 * distances(x_ND, labels_N, x_ND[0], both, 0.9, weights_N)
    assert abs(kept_P - scores_P).max() > 1.0


def test_fit_equals_the_definition() -> None:
    features_ND, labels_N = features_and_labels([30, 20, 10], 5)
    x_ND = standardised_by_hand(features_ND, labels_N)
    head = GdaSpec().fit(torch.tensor(features_ND), torch.tensor(labels_N), 3, 0.3)
    logits_NK = head.logits(torch.tensor(features_ND)).numpy()
    scores_NP = np.stack(
        [-0.5 * distances(x_ND, labels_N, x_D, np.arange(3), 0.3, image_weights(labels_N)) for x_D in x_ND]
    )
    # A linear head drops the term that all classes share.
    np.testing.assert_allclose(logits_NK - logits_NK[:, :1], scores_NP - scores_NP[:, :1], atol=1e-9)


def test_fit_agrees_with_scikit_learn_without_shrinkage_on_balanced_classes() -> None:
    features_ND, labels_N = features_and_labels([20, 20, 20], 5)
    almost_none = GdaSpec().fit(torch.tensor(features_ND), torch.tensor(labels_N), 3, 1e-9)
    theirs = LinearDiscriminantAnalysis(solver="svd", priors=[1 / 3] * 3).fit(features_ND, labels_N)
    ours_N = almost_none.logits(torch.tensor(features_ND)).argmax(1).numpy()
    np.testing.assert_array_equal(ours_N, theirs.predict(features_ND))


def test_classes_whose_images_are_all_alike_are_finite_and_right() -> None:
    features_ND = torch.tensor([[0.0, 1.0], [0.0, 1.0], [2.0, 1.0], [2.0, 1.0]])
    labels_N = torch.tensor([0, 0, 1, 1])
    for found in GdaSpec().score(features_ND, labels_N, 2):
        assert found.predicted_N.tolist() == [0, 0, 1, 1]
        assert np.isfinite(found.balanced_loss)
    assert torch.isfinite(GdaSpec().fit(features_ND, labels_N, 2, 1e-4).weight_KD).all()


def test_features_that_are_not_finite_never_score() -> None:
    features_ND = torch.randn(6, 2)
    features_ND[0, 0] = float("nan")
    with pytest.raises(WorkError, match="finite"):
        GdaSpec().score(features_ND, torch.tensor([0, 0, 0, 1, 1, 1]), 2)
