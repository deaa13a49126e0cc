"""Mean and standard deviation of pixels, with which a network standardises its input."""

from __future__ import annotations

import torch
from torch import Tensor

from nasimb.data.base import ImageSet


def pixel_mean_and_std(images: ImageSet, *, limit: int = 4096) -> tuple[Tensor, Tensor]:
    """mean_C and std_C in units of 0..255, over at most `limit` images spread evenly over the set.

    A channel without any contrast gets the standard deviation 1 (of 255), so that nothing is divided by zero.
    """
    positions = torch.linspace(0, len(images) - 1, min(limit, len(images))).round().long()
    pixels = images.store.read(images.indices_N[positions], torch.device("cpu")).double()
    std_C, mean_C = torch.std_mean(pixels, dim=(0, 2, 3), correction=0)
    return mean_C.float(), std_C.clamp(min=1.0).float()
