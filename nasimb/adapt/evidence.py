"""What predictions say of the images behind them: how many kinds there are, whether the order matters, in what shares.

Shapes: N images in the order of the stream, K classes; `probabilities_NK` are softmax outputs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

TINY = 1e-12


def entropy(probabilities_XK: Tensor) -> Tensor:
    """In nats, over the last axis."""
    return -(probabilities_XK * probabilities_XK.clamp(min=TINY).log()).sum(-1)


def information(probabilities_NK: Tensor) -> float:
    """Mutual information of image and class, nats: entropy of the mean prediction - mean entropy of the predictions.

    High where predictions are sure and different. With the statistics of their own batch, images of one class get
    predictions that spread over classes, but unsure ones; so that this tells images of one class from images of
    many, whatever is wrong with them. The entropy of a mean of N is too low by about half the sum of var / (N mean)
    (Miller 1955, for a mean of probability vectors), which is added.
    """
    mean_K = probabilities_NK.mean(0)
    return float(entropy(mean_K) + 0.5 * _sampling(probabilities_NK, mean_K) - entropy(probabilities_NK).mean())


def excess_divergence(probabilities_NK: Tensor, expected_K: Tensor) -> float:
    """Kullback-Leibler divergence of the mean prediction from the expected one, nats, less what N images would show
    if they were drawn from it (half the sum of var / (N expected)); 0 at least."""
    mean_K = probabilities_NK.mean(0)
    found = (mean_K * (mean_K.clamp(min=TINY) / expected_K.clamp(min=TINY)).log()).sum()
    return max(0.0, float(found - 0.5 * _sampling(probabilities_NK, expected_K)))


def serial_dependence(probabilities_NK: Tensor, reach: int) -> float:
    """How much more alike the predictions of images near each other are than those of any two: a standard score.

    The sum over pairs at most `reach` apart of the products of centred predictions, against its mean and deviation
    when all orders are equally likely, both exact. Images in random order give about a standard normal variable,
    whatever their classes and whatever is wrong with them; so it needs no reference.
    """
    images = len(probabilities_NK)
    reach = min(reach, images - 1)
    if images < 4 or reach < 1:
        return 0.0
    centred_NK = probabilities_NK.double() - probabilities_NK.double().mean(0)
    summed_NK = centred_NK.cumsum(0)
    # What follows an image within reach, summed: where it ends before the stream does, and where not.
    after_NK = torch.cat([summed_NK[reach:], summed_NK[-1:].expand(reach, -1)]) - summed_NK
    found = float((centred_NK * after_NK).sum())
    squares_N = centred_NK.square().sum(1)
    # A matrix of images or of classes, whichever is smaller, has the same squares.
    gram = centred_NK.T @ centred_NK if centred_NK.shape[1] < images else centred_NK @ centred_NK.T
    # Products of an image with all others sum to minus its square.
    own = float(squares_N.square().sum())
    products = _PairSums(float(gram.square().sum()) - own, own, -float(squares_N.sum()))
    neighbours = _neighbours(images, reach)
    mean = products.total * neighbours.total / (images * (images - 1))
    variance = _square_over_orders(products, neighbours, images) - mean**2
    return (2 * found - mean) / variance**0.5 if variance > TINY * products.squares * neighbours.total else 0.0


class _PairSums(NamedTuple):
    """Of a symmetric table of images, without its diagonal: of squares, of squared sums of rows, of all."""

    squares: float
    rows: float
    total: float


@lru_cache(maxsize=64)
def _neighbours(images: int, reach: int) -> _PairSums:
    """Of the table that has a 1 where two images are neighbours."""
    counts = [min(place, reach) + min(images - 1 - place, reach) for place in range(images)]
    return _PairSums(sum(counts), sum(count**2 for count in counts), sum(counts))


def _square_over_orders(a: _PairSums, b: _PairSums, images: int) -> float:
    """Mean over all orders of the square of the sum of products of two tables, one of them reordered (Mantel 1967)."""
    ordered = images * (images - 1)
    same = 2 * a.squares * b.squares / ordered
    ordered *= images - 2
    chained = 4 * (a.rows - a.squares) * (b.rows - b.squares) / ordered
    ordered *= images - 3
    of_a, of_b = (one.total**2 + 2 * one.squares - 4 * one.rows for one in (a, b))
    return same + chained + of_a * of_b / ordered


def class_shares(probabilities_NK: Tensor, shares_K: Tensor, expected_K: Tensor) -> Tensor:
    """One step of expectation maximisation for the classes' shares (Saerens et al. 2002), summed over images: [K].

    Args:
        shares_K: what they were believed to be; expected_K: the mean prediction that the model was trained to give.
    """
    weighted_NK = probabilities_NK * (shares_K / expected_K.clamp(min=TINY))
    return (weighted_NK / weighted_NK.sum(1, keepdim=True)).sum(0)


def _sampling(probabilities_NK: Tensor, around_K: Tensor) -> Tensor:
    if len(probabilities_NK) < 2:
        return probabilities_NK.new_zeros(())
    return (probabilities_NK.var(0) / around_K.clamp(min=TINY)).sum() / len(probabilities_NK)
