"""Which images come next: class shares, orders in which classes stay mixed, and randomness that is a function.

Nothing here has a state. What step n sees follows from (seed, n), so that a resumed training goes on bit for bit.
Shapes: N images, B of a batch, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import count
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Sampling = Literal["natural", "balanced", "sqrt"]


def generator_for(*key: int) -> torch.Generator:
    """A generator on the CPU that depends on all numbers of `key`, and whose neighbours are independent of it."""
    # With its length in front: numpy takes (1, 2) and (1, 2, 0) for the same.
    state = np.random.SeedSequence((len(key), *key)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) >> 1)


def class_shares(class_counts_K: Tensor, sampling: Sampling) -> Tensor:
    """Share of each class in what is drawn, float64, sums to 1; a class without images gets none.

    natural: in proportion to its images. balanced: the same for all. sqrt: in proportion to the root of its images
    (Kang et al. 2020, arXiv 1910.09217, eq. 1 with q = 1, 0 and 1/2).
    """
    power = {"natural": 1.0, "balanced": 0.0, "sqrt": 0.5}[sampling]
    weights_K = torch.where(class_counts_K > 0, class_counts_K.double() ** power, 0.0)
    return weights_K / weights_K.sum()


def draw(labels_N: Tensor, shares_K: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """Positions of `length` images, classes in the given shares, in an order that keeps them evenly mixed.

    Every class uses all its images before one comes again. Any stretch of the order holds each class within about
    one image of its share: the j-th of n images of a class lies at a random place in the j-th n-th of the order.
    """
    counts_K = torch.bincount(labels_N, minlength=len(shares_K)).tolist()
    # Sorted once: a search through all labels for every class takes minutes where there are thousands of both.
    members_of = torch.split(labels_N.argsort(stable=True), counts_K)
    positions, places = [], []
    for quota, members in zip(_quotas(shares_K, length, generator), members_of, strict=True):
        if quota:
            positions.append(_shuffled(members, quota, generator))
            places.append((torch.arange(quota) + torch.rand(quota, generator=generator)) / quota)
    return torch.cat(positions)[torch.cat(places).argsort(stable=True)]


def batches_from(first_step: int, labels_N: Tensor, sampling: Sampling, batch_size: int, seed: int) -> Iterator[Tensor]:
    """positions_B of every step from `first_step` on, without end; epochs of N images follow each other seamlessly."""
    shares_K = class_shares(torch.bincount(labels_N), sampling)
    epoch_images = len(labels_N)

    @lru_cache(maxsize=2)
    def order(epoch: int) -> Tensor:
        return draw(labels_N, shares_K, epoch_images, generator_for(seed, 0, epoch))

    # Whole numbers of Python and slices: nothing here is worth a tensor.
    for step in count(first_step):
        start, stop = step * batch_size, (step + 1) * batch_size
        parts = []
        while start < stop:
            epoch, place = divmod(start, epoch_images)
            parts.append(order(epoch)[place : place + stop - start])
            start += len(parts[-1])
        yield torch.cat(parts)


def _shuffled(members: Tensor, quota: int, generator: torch.Generator) -> Tensor:
    """`quota` of `members`, shuffled anew whenever all have come."""
    if len(members) == 1:
        return members.expand(quota)
    rounds = -(-quota // len(members))
    return torch.cat([members[torch.randperm(len(members), generator=generator)] for _ in range(rounds)])[:quota]


def _quotas(shares_K: Tensor, length: int, generator: torch.Generator) -> list[int]:
    """Whole numbers next to `shares_K * length` that sum to it (the largest remainders get one more, ties by lot)."""
    exact_K = shares_K * length
    quotas_K = exact_K.floor()
    missing = length - int(quotas_K.sum())
    remainders_K = exact_K - quotas_K + 1e-9 * torch.rand(len(shares_K), generator=generator, dtype=torch.float64)
    quotas_K[remainders_K.argsort(descending=True, stable=True)[:missing]] += 1
    return [int(quota) for quota in quotas_K]
