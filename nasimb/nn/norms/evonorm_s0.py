"""EvoNorm-S0 (arXiv 2004.02967, table 2): each image by itself, over groups of channels.

Shapes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from pydantic import PositiveInt
from torch import Tensor

from nasimb.nn.moments import Moments
from nasimb.nn.norms.base import EpsilonSpec, PlacedSpec, check_maps, with_leading
from nasimb.nn.norms.evonorm import EvoNorm, EvoParameters
from nasimb.nn.norms.groups import group_count, group_variance


def _normalised(x_BCHW: Tensor, parameters: EvoParameters, group_size: int, eps: float) -> Tensor:
    check_maps(x_BCHW)
    channels = x_BCHW.shape[1]
    weight_C11, bias_C11, v_C11 = parameters.leading(channels)
    wide_BCHW = x_BCHW.float()
    scale_BC11 = (group_variance(wide_BCHW, group_count(channels, group_size)) + eps).rsqrt() * weight_C11
    gated_BCHW = wide_BCHW * torch.sigmoid(v_C11 * wide_BCHW)
    return torch.addcmul(bias_C11, gated_BCHW, scale_BC11).to(x_BCHW.dtype)


@final
class PlainEvoNormS0(EvoParameters):
    """`EvoNormS0` of one width."""

    def __init__(self, channels: int, group_size: int, eps: float, device: torch.device | None = None) -> None:
        super().__init__(channels, device)
        self.group_size, self.eps = group_size, eps

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Maps in the type of `x_BCHW`."""
        return _normalised(x_BCHW, self, self.group_size, self.eps)


@final
class EvoNormS0(EvoNorm):
    """`y = gamma x sigmoid(v x) / sqrt(var_group(x) + eps) + beta`."""

    needs_calibration: ClassVar[bool] = False

    def __init__(self, max_channels: int, group_size: int, eps: float) -> None:
        super().__init__(max_channels)
        self.group_size, self.eps = group_size, eps

    def forward(self, x_BCHW: Tensor, moments: Moments | None) -> Tensor:
        """Normalise every image by itself, in float32; `moments` are of no use."""
        return _normalised(x_BCHW, self, self.group_size, self.eps)

    def extract(self, channels: int, moments: Moments | None) -> PlainEvoNormS0:
        """A layer of that width."""
        return with_leading(PlainEvoNormS0(channels, self.group_size, self.eps, self.weight.device), self)


@final
class EvoNormS0Spec(PlacedSpec, EpsilonSpec):
    """EvoNorm-S0.

    Attributes:
        group_size: channels a group, as of `GroupNormSpec`.
    """

    parameters_per_channel: ClassVar[int] = 3

    name: Literal["evonorm_s0"] = "evonorm_s0"
    group_size: PositiveInt = 8

    def build(self, max_channels: int, generator: torch.Generator) -> EvoNormS0:
        """Weights and v start at 1, biases at 0."""
        del generator
        return EvoNormS0(max_channels, self.group_size, self.eps)
