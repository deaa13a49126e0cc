"""Orders in which labelled test images may come, as index arrays: what an adapter has to cope with.

Nothing here has a state; the same labels and seed give the same order.
Shapes: N images, M of them in a stream, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nasimb.data.longtail import class_counts

RUN_LENGTH = 50.0
IMBALANCE_FACTOR = 100.0

Indices = NDArray[np.int64]
Stream = Callable[[Indices, int], Indices]
"""(labels_N, seed) -> positions_M in the order in which they come, none twice."""


def iid(labels_N: Indices, seed: int) -> Indices:
    """All images in random order."""
    return np.random.default_rng(seed).permutation(len(labels_N))


def by_class(labels_N: Indices, seed: int) -> Indices:
    """All images, class after class; classes, and images within each, in random order."""
    return np.concatenate(_members(labels_N, np.random.default_rng(seed)))


def runs(labels_N: Indices, seed: int, mean_length: float = RUN_LENGTH) -> Indices:
    """All images in runs of one class, as a camera at one place takes them: lengths are geometric, runs in any order.

    Neighbouring runs may be of one class, so that the runs one sees are a little longer than `mean_length` images. A
    class of fewer images than that comes at once, more often than not.
    """
    rng = np.random.default_rng(seed)
    found: list[Indices] = []
    for members in _members(labels_N, rng):
        lengths = rng.geometric(1 / mean_length, size=len(members))
        ends = np.cumsum(lengths)
        found += [run for run in np.split(members, ends[ends < len(members)]) if len(run)]
    return np.concatenate([found[number] for number in rng.permutation(len(found))])


def long_tailed(labels_N: Indices, seed: int, imbalance_factor: float = IMBALANCE_FACTOR) -> Indices:
    """Images in random order, their classes in an exponential long tail; which class is the head follows from the seed.

    The head keeps as many images as the smallest class has, the last class 1 / `imbalance_factor` of them, and at
    least one. (Counts of Cui et al. 2019, as those of `nasimb.data.longtail`.)
    """
    rng = np.random.default_rng(seed)
    members = _members(labels_N, rng)
    head = min(map(len, members))
    # Of so many images that no share is rounded to none; then of those that there are.
    counts_K = class_counts(10**9, len(members), imbalance_factor)
    kept = [images[: max(head * count // 10**9, 1)] for images, count in zip(members, counts_K, strict=True)]
    return rng.permutation(np.concatenate(kept))


STREAMS: dict[str, Stream] = {
    "iid": iid,
    "sorted": by_class,
    "runs": runs,
    "longtail": long_tailed,
}


def _members(labels_N: Indices, rng: np.random.Generator) -> list[Indices]:
    """Shuffled positions of every class that has images; the classes in random order."""
    labels_N = np.asarray(labels_N)
    return [rng.permutation(np.flatnonzero(labels_N == k)) for k in rng.permutation(np.unique(labels_N))]
