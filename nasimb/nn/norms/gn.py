"""Group normalisation (arXiv 1803.08494): each image by itself, over groups of channels.

Shapes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from nasimb.nn.moments import Moments
from nasimb.nn.norms.base import EpsilonSpec, Norm, PlacedSpec, with_leading
from nasimb.nn.norms.groups import group_count


@final
class GroupNorm(Norm):
    """`y = gamma (x - mean) / sqrt(var + eps) + beta`, moments over a group's channels and pixels in one image.

    Args:
        max_channels: most channels it is used with.
        group_size: channels a group, as near as a width can be divided (`group_count`); None: one group of them all.
        eps: added to the variance.
    """

    needs_calibration: ClassVar[bool] = False

    def __init__(self, max_channels: int, group_size: int | None, eps: float) -> None:
        super().__init__()
        self.group_size, self.eps = group_size, eps
        self.weight = nn.Parameter(torch.ones(max_channels))
        self.bias = nn.Parameter(torch.zeros(max_channels))

    def forward(self, x_BCHW: Tensor, moments: Moments | None) -> Tensor:
        """Normalise every image by itself, in float32; `moments` are of no use."""
        channels = x_BCHW.shape[1]
        weight_C, bias_C = self.weight[:channels], self.bias[:channels]
        return F.group_norm(x_BCHW.float(), self._groups(channels), weight_C, bias_C, self.eps).to(x_BCHW.dtype)

    def extract(self, channels: int, moments: Moments | None) -> nn.GroupNorm:
        """torch's layer."""
        norm = nn.GroupNorm(self._groups(channels), channels, eps=self.eps, device=self.weight.device)
        return with_leading(norm, self)

    def _groups(self, channels: int) -> int:
        return 1 if self.group_size is None else group_count(channels, self.group_size)


@final
class GroupNormSpec(PlacedSpec, EpsilonSpec):
    """Group normalisation.

    Attributes:
        group_size: channels a group. Where a width is no multiple of it, the nearest size that divides the width (as
            a ratio, the smaller on a tie): 6 of 12 channels, 10 of 20, all of 4 or 11.
    """

    name: Literal["gn"] = "gn"
    group_size: PositiveInt = 8

    def build(self, max_channels: int, generator: torch.Generator) -> GroupNorm:
        """Weights start at 1, biases at 0."""
        del generator
        return GroupNorm(max_channels, self.group_size, self.eps)
