"""What both EvoNorms share (arXiv 2004.02967): weight, bias and the vector v, elastic and plain.

Normalisation and nonlinearity are one formula: without the nonlinearity nothing would be normalised at all. At the end
of a residual branch the whole formula therefore acts before the addition.
Shapes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from nasimb.nn.norms.base import Norm


class EvoParameters(nn.Module):
    """`weight`, `bias` and `v` of so many channels; weight and v start at 1, the bias at 0."""

    def __init__(self, channels: int, device: torch.device | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, device=device))
        self.bias = nn.Parameter(torch.zeros(channels, device=device))
        self.v = nn.Parameter(torch.ones(channels, device=device))

    def leading(self, channels: int) -> tuple[Tensor, Tensor, Tensor]:
        """weight_C11, bias_C11 and v_C11 of the leading channels, float32."""
        weight, bias, v = (vector[:channels].float()[:, None, None] for vector in (self.weight, self.bias, self.v))
        return weight, bias, v


class EvoNorm(EvoParameters, Norm):
    """An elastic EvoNorm."""

    activates: ClassVar[bool] = True
