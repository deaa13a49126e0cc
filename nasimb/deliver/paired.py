"""Two models on the same images: is the difference more than chance?

Shapes: N images, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from nasimb.metrics import Difference, paired_difference

SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Paired:
    """What `compare` found.

    Attributes:
        both, only_first, only_second, neither: images by which of the models is right.
        mcnemar_p: exact two-sided test (McNemar 1947) that either is as often the one that is right alone. It is of
            accuracy: every image counts alike.
        differences: first - second by metric, with 95 % paired bootstrap intervals.
    """

    both: int
    only_first: int
    only_second: int
    neither: int
    mcnemar_p: float
    differences: Mapping[str, Difference]

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        differences = {name: list(row) for name, row in self.differences.items()}
        return {**asdict(self), "differences": differences}


def compare(
    first_N: NDArray[np.int64],
    second_N: NDArray[np.int64],
    labels_N: NDArray[np.int64],
    class_counts_K: NDArray[np.int64],
    *,
    resamples: int,
    seed: int,
) -> Paired:
    """Both models' predictions of the same images, in the same numbering of classes."""
    right_first_N, right_second_N = first_N == labels_N, second_N == labels_N
    only_first = int((right_first_N & ~right_second_N).sum())
    only_second = int((~right_first_N & right_second_N).sum())
    both = int((right_first_N & right_second_N).sum())
    apart = only_first + only_second
    p = float(binomtest(only_first, apart).pvalue) if apart else 1.0
    differences = paired_difference(first_N, second_N, labels_N, class_counts_K, resamples=resamples, seed=seed)
    return Paired(both, only_first, only_second, len(labels_N) - both - apart, p, differences)
