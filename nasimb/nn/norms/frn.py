"""Filter response normalisation with its thresholded linear unit (arXiv 1911.09737, equations 1 to 4).

Shapes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn

from nasimb.nn.moments import Moments
from nasimb.nn.norms.base import Norm, PlacedSpec, check_maps, with_leading

EPS = 1e-6
"""Fixed, as in the paper's experiments; it learns eps only for maps of one pixel."""


def _normalised(x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor, tau_C: Tensor) -> Tensor:
    check_maps(x_BCHW)
    weight_C11, bias_C11, tau_C11 = (vector_C.float()[:, None, None] for vector_C in (weight_C, bias_C, tau_C))
    wide_BCHW = x_BCHW.float()
    scale_BC11 = (wide_BCHW.square().mean((2, 3), keepdim=True) + EPS).rsqrt() * weight_C11
    return torch.maximum(wide_BCHW * scale_BC11 + bias_C11, tau_C11).to(x_BCHW.dtype)


@final
class PlainFilterResponseNorm(nn.Module):
    """`FilterResponseNorm` of one width."""

    def __init__(self, channels: int, device: torch.device | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, device=device))
        self.bias = nn.Parameter(torch.zeros(channels, device=device))
        self.tau = nn.Parameter(torch.zeros(channels, device=device))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Maps in the type of `x_BCHW`."""
        return _normalised(x_BCHW, self.weight, self.bias, self.tau)


@final
class FilterResponseNorm(Norm):
    """`y = max(gamma x / sqrt(mean_HW(x^2) + 1e-6) + beta, tau)`: no mean is taken off, and tau is learned.

    The nonlinearity is part of it. At the end of a residual branch it acts before the addition.
    """

    needs_calibration: ClassVar[bool] = False
    activates: ClassVar[bool] = True

    def __init__(self, max_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(max_channels))
        self.bias = nn.Parameter(torch.zeros(max_channels))
        self.tau = nn.Parameter(torch.zeros(max_channels))

    def forward(self, x_BCHW: Tensor, moments: Moments | None) -> Tensor:
        """Normalise every map by itself, in float32; `moments` are of no use."""
        channels = x_BCHW.shape[1]
        return _normalised(x_BCHW, self.weight[:channels], self.bias[:channels], self.tau[:channels])

    def extract(self, channels: int, moments: Moments | None) -> PlainFilterResponseNorm:
        """A layer of that width."""
        return with_leading(PlainFilterResponseNorm(channels, self.weight.device), self)


@final
class FilterResponseNormSpec(PlacedSpec):
    """FRN and TLU."""

    parameters_per_channel: ClassVar[int] = 3

    name: Literal["frn"] = "frn"

    def build(self, max_channels: int, generator: torch.Generator) -> FilterResponseNorm:
        """Weights start at 1, biases and thresholds at 0: as a rectifier."""
        del generator
        return FilterResponseNorm(max_channels)
