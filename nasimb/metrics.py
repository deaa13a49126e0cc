"""How good predictions are when classes differ in size: recalls, groups, intervals, paired differences.

Everything follows from one count per class: how many of its images were recognised. Rules, all over one whole split:
classes without images in the split are left out of every mean and listed; an empty group is None, never 0; the
geometric mean is exactly 0 once a class has no recall (no floor). A prediction of `NO_PREDICTION` leaves its image out.

Shapes: N images, K classes. Accuracies, recalls and scores are fractions. Start with `measure`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr

from nasimb.errors import InputError, unknown_name

__all__ = [
    "NO_PREDICTION",
    "OBJECTIVES",
    "Difference",
    "Interval",
    "Metrics",
    "bootstrap_intervals",
    "expected_calibration_error",
    "mean_cost",
    "measure",
    "objective_value",
    "paired_difference",
    "shot_groups",
]

NO_PREDICTION = -1
"""Where no honest prediction exists: the only image of a class cannot be left out of it."""

MANY_ABOVE, FEW_BELOW = 100, 20
"""Training images of a many-shot and a few-shot class, both strict (Liu et al. 2019; Kang et al. 2020)."""

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Metrics:
    """What `measure` found.

    Attributes:
        balanced_accuracy: mean recall of the classes present (macro recall).
        accuracy: share of images that are right (micro).
        many, medium, few: mean recall of the classes present in each shot group; None where there are none.
        recalls_K: per class; None for a class without images.
        macro_f1, weighted_f1: mean F1 of the classes present, alike or by their images.
        g_mean, harmonic_mean: of the recalls of the classes present.
        worst_recall, worst_class: the lowest recall, and the first class (index) that has it.
        absent_classes: indices of the classes without images, which no number above includes.
        images: how many images the numbers are of.

    Example:
        >>> found = measure([0, 0, 0, 1], [0, 0, 1, 1], class_counts_K=[500, 30, 5])
        >>> found.recalls_K, found.absent_classes, found.few
        ((1.0, 0.5, None), (2,), None)
    """

    balanced_accuracy: float
    accuracy: float
    many: float | None
    medium: float | None
    few: float | None
    recalls_K: tuple[float | None, ...]
    macro_f1: float
    weighted_f1: float
    g_mean: float
    harmonic_mean: float
    worst_recall: float
    worst_class: int
    absent_classes: tuple[int, ...]
    images: int


class Interval(NamedTuple):
    """Ends of a confidence interval.

    Example:
        >>> low, high = Interval(0.59, 0.61)
        >>> f"[{low:.0%}, {high:.0%}]"
        '[59%, 61%]'
    """

    low: float
    high: float


class Difference(NamedTuple):
    """A paired difference, and the ends of its confidence interval.

    Example:
        >>> gain = Difference(0.02, low=-0.01, high=0.05)
        >>> gain.low > 0 or gain.high < 0  # significant?
        False
    """

    difference: float
    low: float
    high: float


TOSSES, MOST_TOSSED = 20_000, 20_000_000
"""Simulated outcomes of chance; fewer where classes are very many, for so many numbers, but a tenth at the least."""
OBJECTIVES: dict[str, Callable[[Metrics], float | None]] = {
    "balanced_accuracy": lambda metrics: metrics.balanced_accuracy,
    "accuracy": lambda metrics: metrics.accuracy,
    "few": lambda metrics: metrics.few,
    "medium": lambda metrics: metrics.medium,
    "many": lambda metrics: metrics.many,
    "worst_recall": lambda metrics: metrics.worst_recall,
    "g_mean": lambda metrics: metrics.g_mean,
    "macro_f1": lambda metrics: metrics.macro_f1,
}
"""What a search may maximise, by name."""


def shot_groups(class_counts_K: ArrayLike) -> dict[str, Integers]:
    """Class indices by training images: many (> 100), medium (20 to 100), few (< 20).

    Example:
        >>> {name: index.tolist() for name, index in shot_groups([500, 120, 100, 20, 19]).items()}
        {'many': [0, 1], 'medium': [2, 3], 'few': [4]}
    """
    counts_K = np.asarray(class_counts_K)
    many_K, few_K = counts_K > MANY_ABOVE, counts_K < FEW_BELOW
    masks = {"many": many_K, "medium": ~many_K & ~few_K, "few": few_K}
    return {name: np.flatnonzero(mask_K) for name, mask_K in masks.items()}


def measure(predicted_N: ArrayLike, labels_N: ArrayLike, class_counts_K: ArrayLike) -> Metrics:
    """Every metric of one set of predictions.

    Args:
        predicted_N: class indices; `NO_PREDICTION` leaves the image out.
        labels_N: class indices.
        class_counts_K: training images of each class, which define the shot groups.

    Raises:
        InputError: lengths differ, an index is out of range, or no image has a prediction.

    Example:
        >>> labels_N = [0] * 90 + [1] * 10  # and a model that always says 0
        >>> found = measure([0] * 100, labels_N, class_counts_K=[900, 10])
        >>> found.accuracy, found.balanced_accuracy, found.few
        (0.9, 0.5, 0.0)
    """
    counts_K = np.asarray(class_counts_K)
    predicted_N, labels_N = _predicted_only(labels_N, predicted_N, num_classes=len(counts_K))
    images_K = np.bincount(labels_N, minlength=len(counts_K))
    hits_K = np.bincount(labels_N[predicted_N == labels_N], minlength=len(counts_K))
    guesses_K = np.bincount(predicted_N, minlength=len(counts_K))
    present = np.flatnonzero(images_K)
    recalls_P = hits_K[present] / images_K[present]
    f1_P = 2 * hits_K[present] / (images_K[present] + guesses_K[present])
    summary = _summary(hits_K, images_K, counts_K)
    recalls_K: list[float | None] = [None] * len(counts_K)
    for index, recall in zip(present.tolist(), recalls_P.tolist(), strict=True):
        recalls_K[index] = recall
    return Metrics(
        balanced_accuracy=float(summary["balanced_accuracy"]),
        accuracy=float(summary["accuracy"]),
        many=_optional(summary.get("many")),
        medium=_optional(summary.get("medium")),
        few=_optional(summary.get("few")),
        recalls_K=tuple(recalls_K),
        macro_f1=float(f1_P.mean()),
        weighted_f1=float(np.average(f1_P, weights=images_K[present])),
        g_mean=float(np.exp(np.log(recalls_P).mean())) if recalls_P.all() else 0.0,
        harmonic_mean=float(1 / (1 / recalls_P).mean()) if recalls_P.all() else 0.0,
        worst_recall=float(recalls_P.min()),
        worst_class=int(present[recalls_P.argmin()]),
        absent_classes=tuple(np.flatnonzero(images_K == 0).tolist()),
        images=len(labels_N),
    )


def objective_value(metrics: Metrics, name: str) -> float:
    """The objective called `name`.

    Raises:
        InputError: there is no such objective, or its group of classes is empty.

    Example:
        >>> found = measure([0, 0, 1], [0, 1, 1], class_counts_K=[900, 10])
        >>> objective_value(found, "few"), objective_value(found, "worst_recall")
        (0.5, 0.5)
    """
    if name not in OBJECTIVES:
        raise unknown_name("the objective", name, OBJECTIVES)
    value = OBJECTIVES[name](metrics)
    if value is None:
        raise InputError(
            f"the objective {name} needs {name}-shot classes (many: > {MANY_ABOVE} images, few: < {FEW_BELOW})",
            got="a data set without any",
            do="Choose another objective, such as balanced_accuracy.",
        )
    return value


def check_objective(name: str, class_counts_K: ArrayLike) -> None:
    """Raise InputError, before any work, where `objective_value` would for data with these training counts."""
    present = np.flatnonzero(np.asarray(class_counts_K))
    objective_value(measure(present, present, class_counts_K), name)


def bootstrap_intervals(
    predicted_N: ArrayLike,
    labels_N: ArrayLike,
    class_counts_K: ArrayLike,
    *,
    resamples: int = 2000,
    seed: int | np.random.Generator,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Percentile intervals of balanced_accuracy, accuracy, many, medium and few; empty groups are left out.

    Each class's images are resampled with replacement within the class. The hits among m resampled images of a class
    with h hits are Binomial(m, h / m), so that is what is drawn. A class that is all right or all wrong does not vary
    (with one image: always), so intervals are too narrow where classes have only a handful of images.

    Example:
        >>> predicted_N, labels_N = [0] * 80 + [1] * 20, [0] * 70 + [1] * 30
        >>> found = bootstrap_intervals(predicted_N, labels_N, [900, 10], seed=0)
        >>> low, high = found["balanced_accuracy"]
        >>> round(low, 2), round(high, 2)
        (0.75, 0.92)
    """
    counts_K = np.asarray(class_counts_K)
    predicted_N, labels_N = _predicted_only(labels_N, predicted_N, num_classes=len(counts_K))
    images_K = np.bincount(labels_N, minlength=len(counts_K))
    hits_K = np.bincount(labels_N[predicted_N == labels_N], minlength=len(counts_K))
    rng = np.random.default_rng(seed)
    hits_RK = rng.binomial(images_K, hits_K / np.maximum(images_K, 1), size=(resamples, len(counts_K)))
    return {name: _interval(values_R, level) for name, values_R in _summary(hits_RK, images_K, counts_K).items()}


def paired_difference(
    predicted_a_N: ArrayLike,
    predicted_b_N: ArrayLike,
    labels_N: ArrayLike,
    class_counts_K: ArrayLike,
    *,
    resamples: int = 2000,
    seed: int | np.random.Generator,
    level: float = 0.95,
) -> dict[str, Difference]:
    """a - b with percentile intervals, on the same resampled images, for the names of `bootstrap_intervals`.

    Within a class every image is one of four kinds (both right, only a, only b, neither), and a resample draws their
    counts from the multinomial of their shares. Resamples of a handful of images that differ know too little of chance
    (two of two won would always be won): so an interval reaches to 0 wherever a test of "no difference" at this level
    does not refuse it, see `_p_values`.

    Example:
        >>> labels_N = [0] * 50 + [1] * 50
        >>> a_N, b_N = [0] * 50 + [1] * 45 + [0] * 5, [0] * 50 + [1] * 35 + [0] * 15
        >>> gain = paired_difference(a_N, b_N, labels_N, [900, 10], seed=0)["balanced_accuracy"]
        >>> round(gain.difference, 2), gain.low > 0
        (0.1, True)
    """
    counts_K = np.asarray(class_counts_K)
    a_N, b_N, labels_N = _predicted_only(labels_N, predicted_a_N, predicted_b_N, num_classes=len(counts_K))
    images_K = np.bincount(labels_N, minlength=len(counts_K))
    kinds_N = 2 * (a_N == labels_N) + (b_N == labels_N)
    kinds_K4 = np.zeros((len(counts_K), 4), dtype=np.int64)
    np.add.at(kinds_K4, (labels_N, kinds_N), 1)
    shares_K4 = np.where(images_K[:, None] > 0, kinds_K4 / np.maximum(images_K, 1)[:, None], 0.25)
    rng = np.random.default_rng(seed)
    drawn_RK4 = rng.multinomial(images_K, shares_K4, size=(resamples, len(counts_K)))
    found = _summary(_a_minus_b(kinds_K4), images_K, counts_K)
    resampled = _summary(_a_minus_b(drawn_RK4), images_K, counts_K)
    p_values = _p_values(found, kinds_K4, images_K, counts_K)
    differences = {}
    for name, difference in found.items():
        low, high = _interval(resampled[name], level)
        if p_values[name] > 1 - level:
            low, high = min(low, 0.0), max(high, 0.0)
        differences[name] = Difference(float(difference), low, high)
    return differences


def _p_values(
    found: Mapping[str, Floats], kinds_K4: Integers, images_K: Integers, counts_K: NDArray[Any]
) -> dict[str, float]:
    """Two-sided, by metric: how often chance would make a difference as large as that found.

    By chance either model wins each image that only one of them has right, as a coin falls. Where these images weigh
    the same (always in accuracy; in means over classes with equally many test images) that is McNemar's exact test.
    Else coins are tossed, `TOSSES` times, always the same.
    """
    only_a_K, differ_K = kinds_K4[:, 2], kinds_K4[:, 1] + kinds_K4[:, 2]
    everywhere = np.arange(len(counts_K))
    members = {"balanced_accuracy": everywhere, "accuracy": everywhere, **shot_groups(counts_K)}
    p_values, simulated = {}, []
    for name in found:
        differing = members[name][differ_K[members[name]] > 0]
        if name == "accuracy" or len(np.unique(images_K[differing])) <= 1:
            images, won = int(differ_K[differing].sum()), int(only_a_K[differing].sum())
            p_values[name] = min(1.0, 2 * float(bdtr(min(won, images - won), images, 0.5)))
        else:
            simulated.append(name)
    if simulated:
        tosses = max(TOSSES // 10, min(TOSSES, MOST_TOSSED // len(counts_K)))
        heads_RK = np.random.default_rng(0).binomial(differ_K, 0.5, size=(tosses, len(counts_K)))
        by_chance = _summary(2 * heads_RK - differ_K, images_K, counts_K)
        for name in simulated:
            p_values[name] = float(np.mean(np.abs(by_chance[name]) >= np.abs(found[name]) - 1e-12))
    return p_values


def expected_calibration_error(probabilities_NK: ArrayLike, labels_N: ArrayLike, bins: int = 15) -> float:
    """Mean distance between confidence and accuracy over equal-width bins of confidence, by images.

    Bins are closed above; confidence 0 belongs to the first. Empty bins weigh nothing. (Guo et al. 2017, equation 5.)

    Example:
        >>> sure_NK = [[0.9, 0.1]] * 10
        >>> round(expected_calibration_error(sure_NK, [0] * 9 + [1]), 6), round(
        ...     expected_calibration_error(sure_NK, [0] * 5 + [1] * 5), 6
        ... )
        (0.0, 0.4)
    """
    probabilities_NK = np.asarray(probabilities_NK, dtype=np.float64)
    confidence_N = probabilities_NK.max(axis=1)
    right_N = probabilities_NK.argmax(axis=1) == np.asarray(labels_N)
    bin_N = np.clip(np.ceil(confidence_N * bins).astype(np.int64) - 1, 0, bins - 1)
    gap_sums = np.bincount(bin_N, weights=right_N - confidence_N, minlength=bins)
    return float(np.abs(gap_sums).sum() / len(confidence_N))


def mean_cost(predicted_N: ArrayLike, labels_N: ArrayLike, cost_KK: ArrayLike) -> float:
    """Mean over images of the cost of predicting column j for an image of row k.

    Example:
        >>> cost_KK = [[0, 1], [20, 0]]  # to miss class 1 is twenty times as bad as a false alarm
        >>> mean_cost([0, 0, 1, 1], [0, 1, 0, 1], cost_KK)
        5.25
    """
    cost_KK = np.asarray(cost_KK, dtype=np.float64)
    predicted_N, labels_N = _predicted_only(labels_N, predicted_N, num_classes=len(cost_KK))
    return float(cost_KK[labels_N, predicted_N].mean())


def _predicted_only(labels_N: ArrayLike, *predictions: ArrayLike, num_classes: int) -> list[Integers]:
    """The predictions, then the labels, of the images that every prediction covers."""
    arrays = [np.asarray(values_N) for values_N in (*predictions, labels_N)]
    if len({array.shape for array in arrays}) > 1 or arrays[0].ndim != 1:
        raise InputError(
            "there must be one prediction for each label",
            got=f"arrays of shape {', '.join(str(array.shape) for array in arrays)}",
            do="Pass predictions and labels of the same images.",
        )
    kept_N = np.logical_and.reduce([array != NO_PREDICTION for array in arrays[:-1]])
    kept = [array[kept_N].astype(np.int64) for array in arrays]
    if not kept_N.any():
        raise InputError("at least one image must have a prediction", got="none", do="Pass a non-empty split.")
    lowest, highest = min(int(array.min()) for array in kept), max(int(array.max()) for array in kept)
    if lowest < 0 or highest >= num_classes:
        raise InputError(
            f"classes must be from 0 to {num_classes - 1}",
            got=lowest if lowest < 0 else highest,
            do="Check that the counts, labels and predictions are of the same classes.",
        )
    return kept


def _summary(hits_K: NDArray[Any], images_K: Integers, class_counts_K: NDArray[Any]) -> dict[str, Floats]:
    """Balanced accuracy, accuracy and the non-empty groups from hits; leading dimensions (resamples) are kept."""
    recalls_K = hits_K / np.maximum(images_K, 1)
    present = np.flatnonzero(images_K)
    groups = {name: np.intersect1d(index, present) for name, index in shot_groups(class_counts_K).items()}
    means = {name: recalls_K[..., index].mean(axis=-1) for name, index in groups.items() if len(index)}
    overall = {"balanced_accuracy": recalls_K[..., present].mean(axis=-1)}
    return {**overall, "accuracy": hits_K.sum(axis=-1) / images_K.sum(), **means}


def _a_minus_b(kinds_K4: Integers) -> Integers:
    """Hits of a minus hits of b, from counts of neither, only b, only a, both."""
    return np.asarray(kinds_K4[..., 2] - kinds_K4[..., 1])


def _interval(values_R: Floats, level: float) -> Interval:
    low, high = np.quantile(values_R, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _optional(value: Floats | None) -> float | None:
    return None if value is None else float(value)
