"""The long-tail maker: how many images each class keeps, and which.

Counts are those of Cao et al. 2019 (LDAM-DRW, `imbalance_cifar.py`), after Cui et al. 2019; the imbalance factor is
n_max / n_min >= 1 throughout. Only training pools are ever thinned out.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from nasimb.data.base import ImageSet
from nasimb.errors import InputError, unknown_name

Profile = Literal["exponential", "step"]

# 49 * (1 / 49) is 0.9999999999999999 in floating point: counts that are whole must not lose an image to that.
ROUNDING = 1e-9


def class_counts(n_max: int, num_classes: int, imbalance_factor: float, profile: str = "exponential") -> list[int]:
    """Images per class, the first class being the head.

    exponential: n_k = floor(n_max * factor^(-k / (K-1))). step: the first K//2 classes keep n_max, all others
    floor(n_max / factor), so that with an odd K the class in the middle belongs to the tail.

    Raises:
        InputError: a factor below 1, an unknown profile, fewer than two classes, or a last class without an image.

    Example:
        >>> class_counts(5000, 10, imbalance_factor=100)  # CIFAR-10-LT
        [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """
    counts_K = _counts(n_max, _shares(num_classes, imbalance_factor, profile))
    if counts_K[-1] < 1:
        raise InputError(
            "the rarest class must keep at least one image",
            got=f"imbalance_factor {imbalance_factor:g} with {n_max} images in the largest class",
            do=f"Use an imbalance_factor of at most {n_max}.",
        )
    return [int(count) for count in counts_K]


def make_long_tailed(
    image_set: ImageSet, imbalance_factor: float, profile: str = "exponential", seed: int = 0
) -> ImageSet:
    """A long-tailed subset; class order is label order, so class 0 is the head.

    n_max is the largest number with which every class can supply its count: the pool size where pools are equal (as
    in CIFAR), less where a class is short. Images are drawn per class from (seed, class), so a larger factor keeps a
    subset of what a smaller one keeps. Positions stay in their order.

    Raises:
        InputError: as `class_counts`.

    Example:
        >>> from nasimb.data import LoadRequest, parse_dataset
        >>> pool = parse_dataset("digits:0-4").load(LoadRequest(size=8)).train
        >>> make_long_tailed(pool, imbalance_factor=20).class_counts_K.tolist()
        [60, 28, 13, 6, 3]
    """
    pool_K = image_set.class_counts_K.numpy()
    counts_K = class_counts(_largest_head(pool_K, imbalance_factor, profile), len(pool_K), imbalance_factor, profile)
    labels_N = image_set.labels_N.numpy()
    kept = [
        np.random.default_rng([seed, k]).permutation(np.flatnonzero(labels_N == k))[:count]
        for k, count in enumerate(counts_K)
    ]
    return image_set.subset(torch.from_numpy(np.sort(np.concatenate(kept))))


def imbalance_factor(class_counts_K: Tensor) -> float:
    """n_max / n_min over the classes that have an image (Cui et al. 2019).

    Example:
        >>> imbalance_factor(torch.tensor([500, 60, 0, 5]))
        100.0
    """
    counts = class_counts_K[class_counts_K > 0]
    return float(counts.max() / counts.min())


def _largest_head(pool_K: np.ndarray, factor: float, profile: str) -> int:
    shares_K = _shares(len(pool_K), factor, profile)
    n_max = int(pool_K[0])
    while n_max > 1 and (_counts(n_max, shares_K) > pool_K).any():
        n_max -= 1
    return n_max


def _counts(n_max: int, shares_K: np.ndarray) -> np.ndarray:
    return np.floor(n_max * shares_K + ROUNDING).astype(np.int64)


def _shares(num_classes: int, factor: float, profile: str) -> np.ndarray:
    """Fraction of n_max that each class keeps."""
    if factor < 1:
        # Several code bases pass n_min / n_max instead.
        hint = f"{factor:g} means {1 / factor:g} here: write that." if factor > 0 else "1 leaves the classes balanced."
        raise InputError("imbalance_factor = n_max / n_min must be at least 1", got=f"{factor:g}", do=hint)
    if profile not in get_args(Profile):
        raise unknown_name("a long-tail profile", profile, get_args(Profile))
    if num_classes < 2:
        raise InputError("a long tail needs at least two classes", got=num_classes, do="Add classes.")
    k = np.arange(num_classes)
    if profile == "step":
        return np.where(k < num_classes // 2, 1.0, 1.0 / factor)
    return (1.0 / factor) ** (k / (num_classes - 1))
