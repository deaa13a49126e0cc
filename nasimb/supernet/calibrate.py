"""Calibration: the batch norm statistics of one subnet, estimated exactly on a fixed set of images.

Shapes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nasimb.nn.moments import Moments, Statistics, recording
from nasimb.space import Subnet
from nasimb.supernet.base import Supernet


@torch.no_grad()
def calibrate(supernet: Supernet, subnet: Subnet, images_BCHW: Tensor) -> Statistics:
    """Moments of every layer of `subnet` over all of `images_BCHW` as one batch, in one sweep.

    Each layer normalises with the moments it records, so that every layer sees the inputs it will see afterwards.
    One batch, because averages of the variances of several leave out the variance between their means. The result
    depends on the arguments alone: the super-network holds no statistics that could change.
    """
    statistics: dict[str, Moments] = {}
    supernet.features(images_BCHW, subnet, recording(statistics))
    return statistics
