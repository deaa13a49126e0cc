"""Instance normalisation (arXiv 1607.08022): each image and channel by itself. (`in` is no name for a Python module.)

Shapes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn

from nasimb.nn.moments import Moments
from nasimb.nn.norms.base import EpsilonSpec, Norm, PlacedSpec, with_leading


def _normalised(x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float) -> Tensor:
    # The function behind torch's layer, without its refusal of maps of one pixel: those come out as beta.
    cudnn = torch.backends.cudnn.enabled
    y_BCHW = torch.instance_norm(
        x_BCHW.float(), weight_C.float(), bias_C.float(), None, None, True, 0.1, eps, cudnn
    )  # fmt: skip
    return y_BCHW.to(x_BCHW.dtype)


@final
class PlainInstanceNorm(nn.InstanceNorm2d):
    """torch's layer, in float32 whatever the input, and without its refusal of maps of one pixel."""

    def forward(self, input: Tensor) -> Tensor:
        """The normalised maps, in the type of `input`."""
        return _normalised(input, self.weight, self.bias, self.eps)


@final
class InstanceNorm(Norm):
    """`y = gamma (x - mean_HW) / sqrt(var_HW + eps) + beta`; maps of one pixel come out as beta."""

    needs_calibration: ClassVar[bool] = False

    def __init__(self, max_channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(max_channels))
        self.bias = nn.Parameter(torch.zeros(max_channels))

    def forward(self, x_BCHW: Tensor, moments: Moments | None) -> Tensor:
        """Normalise every map by itself, in float32; `moments` are of no use."""
        channels = x_BCHW.shape[1]
        return _normalised(x_BCHW, self.weight[:channels], self.bias[:channels], self.eps)

    def extract(self, channels: int, moments: Moments | None) -> nn.InstanceNorm2d:
        """torch's layer with weights and without running statistics."""
        norm = PlainInstanceNorm(channels, eps=self.eps, affine=True, device=self.weight.device)
        return with_leading(norm, self)


@final
class InstanceNormSpec(PlacedSpec, EpsilonSpec):
    """Instance normalisation."""

    name: Literal["in"] = "in"

    def build(self, max_channels: int, generator: torch.Generator) -> InstanceNorm:
        """Weights start at 1, biases at 0."""
        del generator
        return InstanceNorm(max_channels, self.eps)
