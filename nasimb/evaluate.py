"""The test split: predicted here, in one pass for each backbone, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from nasimb.data.base import ImageSet
from nasimb.metrics import Metrics, bootstrap_intervals, measure, paired_difference

RESAMPLES = 2000
SHOWN = ("balanced_accuracy", "accuracy", "many", "medium", "few")


class Predicted(NamedTuple):
    """What one model says of every image.

    Attributes:
        predicted_N: int64 class indices.
        probability_N: float32, softmax probability of that class.
    """

    predicted_N: np.ndarray
    probability_N: np.ndarray


@dataclass(frozen=True, eq=False)
class Tested:
    """How one model did on the test split.

    Attributes:
        predicted_N: class of every test image, in the split's order.
        intervals: 95 % bootstrap intervals by metric, over test images resampled within their class.
        probability_N: of that class; None where it was not kept.
    """

    predicted_N: np.ndarray
    metrics: Metrics
    intervals: Mapping[str, tuple[float, float]]
    probability_N: np.ndarray | None = None

    def to_dict(self) -> dict[str, Any]:
        """The "test" part of result.json: fractions, null where a group is empty."""
        values = {name: getattr(self.metrics, name) for name in SHOWN}
        more = {name: getattr(self.metrics, name) for name in ("macro_f1", "weighted_f1", "g_mean", "worst_recall")}
        intervals = {name: list(interval) for name, interval in self.intervals.items()}
        return {**values, **more, "recalls": list(self.metrics.recalls_K), "ci95": intervals}


@torch.no_grad()
def predict_test(
    backbone: nn.Module, heads: Mapping[str, nn.Module], test: ImageSet, *, batch_size: int, device: torch.device
) -> dict[str, Predicted]:
    """What every head says of every test image, from one pass through the backbone they share.

    Args:
        backbone: images_BCHW -> features_BD.
        heads: features_BD -> logits_BK over `test.classes`, by name.
    """
    predicted = {name: torch.empty(len(test), dtype=torch.int64) for name in heads}
    probability = {name: torch.empty(len(test)) for name in heads}
    for images_BCHW, positions_B in test.batches(batch_size, device):
        features_BD = backbone(images_BCHW)
        for name, head in heads.items():
            best_B = head(features_BD).float().softmax(1).max(1)
            predicted[name][positions_B] = best_B.indices.cpu()
            probability[name][positions_B] = best_B.values.cpu()
    return {name: Predicted(predicted[name].numpy(), probability[name].numpy()) for name in heads}


def assess(predicted_N: np.ndarray, labels_N: np.ndarray, class_counts_K: np.ndarray, *, seed: int) -> Tested:
    """Metrics and intervals of predictions."""
    metrics = measure(predicted_N, labels_N, class_counts_K)
    intervals = bootstrap_intervals(predicted_N, labels_N, class_counts_K, resamples=RESAMPLES, seed=seed)
    return Tested(predicted_N, metrics, intervals)


def gain(better: Tested, over: Tested, test: ImageSet, class_counts_K: np.ndarray, *, seed: int) -> dict[str, Any]:
    """What one model gains over another: {metric: [difference, low, high]}, 95 % paired bootstrap over the images."""
    differences = paired_difference(
        better.predicted_N, over.predicted_N, test.labels_N.numpy(), class_counts_K, resamples=RESAMPLES, seed=seed
    )
    return {name: None if row is None else list(row) for name, row in differences.items()}
