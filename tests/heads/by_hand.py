"""Closed-form heads from their definitions in NumPy, refitted for every image: what the tests compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

BETA = 0.9


def features_and_labels(counts: list[int], dimension: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features of very different scales, far from 0."""
    rng = np.random.default_rng(seed)
    labels_N = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    centres_KD = rng.normal(size=(len(counts), dimension))
    mixing_DD = rng.normal(size=(dimension, dimension)) / np.sqrt(dimension) * rng.uniform(0.3, 3, dimension)
    noise_ND = rng.normal(size=(len(labels_N), dimension)) @ mixing_DD
    return centres_KD[labels_N] + noise_ND + 5 * rng.normal(size=dimension), labels_N


def standardised(features_ND: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    present = np.unique(labels_N)
    weights_N = np.array([1 / (len(present) * (labels_N == label).sum()) for label in labels_N])
    mean_D = weights_N @ features_ND
    std_D = np.sqrt(weights_N @ (features_ND - mean_D) ** 2)
    std_D[std_D < 1e-7 * np.abs(mean_D)] = 1.0
    return (features_ND - mean_D) / std_D


def weight_of_an_image(weighting: str, n: float) -> float:
    """Of a class with n images, up to a factor."""
    return {
        "inverse_frequency": 1 / n,
        "inverse_sqrt": n**-0.5,
        "effective_number": (1 - BETA) / (1 - BETA**n),
    }[weighting]


@dataclass(frozen=True)
class ByHand:
    """A weighted problem over standardised features.

    Attributes:
        images: of each class, in the whole target.
        weights_N: of each image, adding up to 1; an image stands for all that its class has more in the target.
    """

    x_ND: np.ndarray
    labels_N: np.ndarray
    present: np.ndarray
    images: np.ndarray
    weights_N: np.ndarray

    @classmethod
    def of(cls, features_ND: np.ndarray, labels_N: np.ndarray, weighting: str, images_K: list[int] | None) -> ByHand:
        counts_K = np.bincount(labels_N)
        present = np.flatnonzero(counts_K)
        all_K = counts_K if images_K is None else np.array(images_K)
        raw_N = np.array([weight_of_an_image(weighting, all_K[k]) * all_K[k] / counts_K[k] for k in labels_N])
        return cls(standardised(features_ND, labels_N), labels_N, present, all_K[present], raw_N / raw_N.sum())

    @property
    def log_prior_P(self) -> np.ndarray:
        return np.log(self.images / self.images.sum())

    def ridge_scores(self, kept_N: np.ndarray, query_D: np.ndarray, penalty: float) -> np.ndarray:
        """From the normal equations with a bias column that is not penalised."""
        design = np.hstack([self.x_ND[kept_N], np.ones((len(kept_N), 1))])
        right = np.zeros((len(self.present), design.shape[1]))  # design^T diag(weights) one-hot targets, transposed
        np.add.at(right, np.searchsorted(self.present, self.labels_N[kept_N]), self.weights_N[kept_N, None] * design)
        left = design.T @ (self.weights_N[kept_N, None] * design)
        left += penalty * np.diag([1.0] * self.x_ND.shape[1] + [0.0])
        return np.append(query_D, 1.0) @ np.linalg.solve(left, right.T)

    def gda_scores(self, kept_N: np.ndarray, query_D: np.ndarray, shrinkage: float) -> np.ndarray:
        """Minus half the squared Mahalanobis distances; leaving any image out costs one degree of freedom."""
        x_ND, labels_N = self.x_ND[kept_N], self.labels_N[kept_N]
        means_PD = np.stack([x_ND[labels_N == label].mean(0) for label in self.present])
        deviations_ND = x_ND - means_PD[np.searchsorted(self.present, labels_N)]
        total = self.images.sum()
        freedom = total - len(self.present) - (len(kept_N) < len(self.x_ND))
        covariance_DD = deviations_ND.T @ (self.weights_N[kept_N, None] * deviations_ND) * total / freedom
        shrunk_DD = (1 - shrinkage) * covariance_DD + shrinkage * np.eye(x_ND.shape[1])
        differences_DP = (query_D - means_PD).T
        return -0.5 * (differences_DP * np.linalg.solve(shrunk_DD, differences_DP)).sum(0)

    def left_out(self, scores: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
        """(image, scores_P from a refit without it) for every image that is not alone in its class."""
        for i, label in enumerate(self.labels_N):
            if (self.labels_N == label).sum() > 1:
                yield i, scores(np.flatnonzero(np.arange(len(self.labels_N)) != i), self.x_ND[i])

    def expected(
        self, scores: Callable[[np.ndarray, np.ndarray], np.ndarray], loss: Callable[[np.ndarray, int], float]
    ) -> tuple[np.ndarray, float]:
        """predicted_N (-1 where there is none) and the mean over classes of the mean loss of their images."""
        predicted_N = np.full(len(self.labels_N), -1)
        losses: dict[int, list[float]] = {}
        for i, scores_P in self.left_out(scores):
            predicted_N[i] = self.present[scores_P.argmax()]
            own = int(np.searchsorted(self.present, self.labels_N[i]))
            losses.setdefault(own, []).append(loss(scores_P, own))
        return predicted_N, float(np.mean([np.mean(values) for values in losses.values()]))


def squared_error(scores_P: np.ndarray, own: int) -> float:
    return float(((scores_P - (np.arange(len(scores_P)) == own)) ** 2).sum())


def log_loss(scores_P: np.ndarray, own: int) -> float:
    return float(logsumexp(scores_P) - scores_P[own])
