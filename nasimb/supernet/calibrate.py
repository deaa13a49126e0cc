"""Calibration: the batch norm statistics of one subnet, estimated exactly on a fixed set of images.

Shapes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nasimb.data.base import ImageSet
from nasimb.errors import unknown_name
from nasimb.nn.moments import Moments, Statistics
from nasimb.space import Subnet
from nasimb.supernet.base import Supernet, images_at_a_time
from nasimb.supernet.sampling import Sampling, class_shares, draw, generator_for

Side = Literal["source", "target"]

CALIBRATIONS: dict[str, tuple[Side, Sampling]] = {
    "source": ("source", "balanced"),
    "target-natural": ("target", "natural"),
    "target-balanced": ("target", "balanced"),
}
"""Policies by name: which images, and in which class shares."""


@torch.no_grad()
def calibrate(supernet: Supernet, subnet: Subnet, images_BCHW: Tensor) -> Statistics:
    """Moments of every layer of `subnet` over all of `images_BCHW` together, layer by layer.

    Each layer normalises with the moments it records, so that every layer sees the inputs it will see afterwards.
    All images together, because averages of the variances of several batches leave out the variance between their
    means; but in parts that fit the processor's cache, which takes half the time. The result depends on the arguments
    alone: the super-network holds no statistics that could change.
    """
    statistics: dict[str, Moments] = {}
    parts = calibration_parts(supernet, images_BCHW)
    for step in supernet.steps(subnet):
        settled, parts = supernet.settle(step, parts)
        statistics.update(settled)
    return statistics


def calibration_parts(supernet: Supernet, images_BCHW: Tensor, most: int | None = None) -> list[Tensor]:
    """The images as `Supernet.settle` takes them, at most so many at a time; None: as many as are quick."""
    return list(torch.split(images_BCHW, most or images_at_a_time(supernet.space, images_BCHW.device)))


def calibration_images(
    policy: str, source: ImageSet, target: ImageSet, *, seed: int, device: torch.device, limit: int = 1024
) -> Tensor:
    """The images that a policy calibrates on: uint8 [B, C, S, S] on `device`, B at most `limit`.

    The same for every subnet. Balanced policies show every class equally often; a class of fewer images than its
    share repeats them.

    Raises:
        InputError: no such policy.
    """
    if policy not in CALIBRATIONS:
        raise unknown_name("calibration", policy, CALIBRATIONS)
    side, sampling = CALIBRATIONS[policy]
    images = source if side == "source" else target
    shares_K = class_shares(images.class_counts_K, sampling)
    positions_B = draw(images.labels_N, shares_K, min(limit, len(images)), generator_for(seed, 3))
    return images.store.read(images.indices_N[positions_B], device)
