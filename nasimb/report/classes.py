"""The winner class by class: recall against training images, and what is taken for what. K classes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

from nasimb.metrics import Integers, measure, shot_groups
from nasimb.report.tested import TestSplit

MOST_SHOWN = 40
"""Classes in a confusion matrix that can still be read."""


def class_table(split: TestSplit) -> pd.DataFrame:
    """A row a class, most training images first: group, counts, recall and its 95 % interval, the commonest mistake.

    The interval is Wilson's, which stays sound with a handful of images. A class without test images has no recall.
    """
    winner_N = split.predicted["winner"]
    images_K = np.bincount(split.labels_N, minlength=len(split.classes))
    recalls_K = measure(winner_N, split.labels_N, split.training_K).recalls_K
    groups = {int(k): name for name, index in shot_groups(split.training_K).items() for k in index}
    rows = []
    for k in np.argsort(-split.training_K, kind="stable").tolist():
        wrong = winner_N[(split.labels_N == k) & (winner_N != k)]
        taken = np.bincount(wrong, minlength=1)
        recall = recalls_K[k]
        low, high = (None, None) if recall is None else wilson(int(images_K[k]) - len(wrong), int(images_K[k]))
        rows.append(
            {
                "class": split.classes[k],
                "group": groups[k],
                "training_images": int(split.training_K[k]),
                "test_images": int(images_K[k]),
                "recall": recall,
                "low": low,
                "high": high,
                "most_taken_for": split.classes[int(taken.argmax())] if len(wrong) else "",
                "times": int(taken.max()),
            }
        )
    return pd.DataFrame(rows)


def wilson(right: int, images: int) -> tuple[float, float]:
    """Ends of the 95 % interval of a share (Wilson 1927)."""
    ends = binomtest(right, images).proportion_ci(0.95, method="wilson")
    return float(ends.low), float(ends.high)


def confusion(split: TestSplit) -> Integers:
    """Test images [K, K]: row the label, column what the winner said."""
    every = range(len(split.classes))
    return np.asarray(confusion_matrix(split.labels_N, split.predicted["winner"], labels=every), dtype=np.int64)


def shown_classes(split: TestSplit) -> list[int]:
    """Indices for a matrix: all classes, largest first; of too many, those with the lowest recall, in that order."""
    order: list[int] = np.argsort(-split.training_K, kind="stable").tolist()
    if len(order) <= MOST_SHOWN:
        return order
    recalls_K = measure(split.predicted["winner"], split.labels_N, split.training_K).recalls_K
    known = [k for k in order if recalls_K[k] is not None]
    worst = sorted(known, key=lambda k: recalls_K[k] or 0.0)[:MOST_SHOWN]
    return [k for k in order if k in set(worst)]
