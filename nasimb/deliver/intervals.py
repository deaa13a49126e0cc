"""Bootstrap intervals of what `nasimb.metrics.bootstrap_intervals` leaves out: F1, means other than the arithmetic, the
worst class, calibration, costs, and the recall of each class.

Images are resampled with replacement within their class, as there. Shapes: N images, K classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from nasimb.errors import DataError
from nasimb.metrics import Interval, expected_calibration_error

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

PART_BYTES = 2**26
LEVEL = 0.95


def confusion(predicted_N: Integers, labels_N: Integers, num_classes: int) -> Integers:
    """Images of each true class (row) by the class that they were taken for (column): [K, K]."""
    pairs_N = labels_N * num_classes + predicted_N
    return np.bincount(pairs_N, minlength=num_classes**2).reshape(num_classes, num_classes)


def confusion_intervals(
    confusion_KK: Integers, *, cost_KK: Floats | None = None, resamples: int, seed: int
) -> dict[str, Interval]:
    """Percentile intervals of macro_f1, weighted_f1, g_mean, harmonic_mean and worst_recall over classes with images;
    with costs also of mean_cost and cost_weighted_accuracy.

    Where an image of a class lands is drawn anew from where the images of the class landed: a multinomial. The worst
    of several recalls is lower in resamples than it is in truth, so its interval lies low.
    """
    present_P = np.flatnonzero(confusion_KK.sum(1))
    images_P = confusion_KK.sum(1)[present_P]
    found: dict[str, list[Floats]] = {}
    for drawn_RPK in _resampled(confusion_KK[present_P], resamples, np.random.default_rng(seed)):
        for name, values_R in _figures(drawn_RPK, present_P, images_P, cost_KK).items():
            found.setdefault(name, []).append(values_R)
    return {name: _interval(np.concatenate(parts)) for name, parts in found.items()}


def calibration_interval(probabilities_NK: Floats, labels_N: Integers, *, resamples: int, seed: int) -> Interval:
    """Percentile interval of the expected calibration error. Noise adds to the error, in resamples once more than in
    the images themselves, so that the interval lies high where images are few."""
    order_N = np.argsort(labels_N, kind="stable")
    counts_P = np.unique(labels_N, return_counts=True)[1]
    starts_N = np.repeat(np.cumsum(counts_P) - counts_P, counts_P)
    sizes_N = np.repeat(counts_P, counts_P)
    # Only the confidence and whether it is right count: as two classes of which the first is the one named.
    confidence_N = probabilities_NK.max(1)
    wrong_N = (probabilities_NK.argmax(1) != labels_N).astype(np.int64)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        drawn_N = order_N[starts_N + (rng.random(len(sizes_N)) * sizes_N).astype(np.int64)]
        values.append(expected_calibration_error(confidence_N[drawn_N, None], wrong_N[drawn_N]))
    return _interval(np.array(values))


def most_cost(cost_KK: Floats, present_P: Integers, images_P: Integers) -> float:
    """What it would cost to make the dearest mistake with every image.

    Raises:
        DataError: nothing, since mistakes with the classes present are free.
    """
    most = float(cost_KK[present_P].max(1) @ images_P)
    if not most:
        do = "Give costs of classes that have images."
        raise DataError("some mistake with these images must cost something", got="only 0", do=do)
    return most


def recall_interval(hits: int, images: int) -> Interval:
    """Wilson's interval, which also tells something of a class that is all right or all wrong."""
    found = binomtest(hits, images).proportion_ci(LEVEL, method="wilson")
    return Interval(float(found.low), float(found.high))


def _resampled(confusion_PK: Integers, resamples: int, rng: np.random.Generator) -> Iterator[Integers]:
    images_P = confusion_PK.sum(1)
    shares_PK = confusion_PK / images_P[:, None]
    at_a_time = max(1, PART_BYTES // (8 * confusion_PK.size))
    for start in range(0, resamples, at_a_time):
        yield rng.multinomial(images_P, shares_PK, size=(min(at_a_time, resamples - start), len(images_P)))


def _figures(drawn_RPK: Integers, present_P: Integers, images_P: Integers, cost_KK: Floats | None) -> dict[str, Floats]:
    """The figures of every resample."""
    hits_RP = drawn_RPK[:, np.arange(len(present_P)), present_P]
    guesses_RP = drawn_RPK.sum(1)[:, present_P]
    recalls_RP = hits_RP / images_P
    f1_RP = 2 * hits_RP / (images_P + guesses_RP)
    with np.errstate(divide="ignore"):  # a recall of 0 makes both means 0, as it should
        g_mean_R = np.exp(np.log(recalls_RP).mean(1))
        harmonic_R = 1 / (1 / recalls_RP).mean(1)
    figures = {
        "macro_f1": f1_RP.mean(1),
        "weighted_f1": f1_RP @ images_P / images_P.sum(),
        "g_mean": g_mean_R,
        "harmonic_mean": harmonic_R,
        "worst_recall": recalls_RP.min(1),
    }
    if cost_KK is not None:
        paid_R = (drawn_RPK * cost_KK[present_P]).sum((1, 2))
        figures["mean_cost"] = paid_R / images_P.sum()
        figures["cost_weighted_accuracy"] = 1 - paid_R / most_cost(cost_KK, present_P, images_P)
    return figures


def _interval(values_R: Floats) -> Interval:
    low, high = np.quantile(values_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))
