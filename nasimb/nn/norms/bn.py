"""Batch normalisation (arXiv 1502.03167)."""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor, nn

from nasimb.nn.norms.affine import AffineBatchNorm
from nasimb.nn.norms.base import NormSpec


@final
class BatchNorm(AffineBatchNorm):
    """The weights themselves: `weight = gamma`, `bias = beta`."""

    def __init__(self, max_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(max_channels))
        self.bias = nn.Parameter(torch.zeros(max_channels))

    def weight_and_bias(self, channels: int) -> tuple[Tensor, Tensor]:
        """The leading entries."""
        return self.weight[:channels], self.bias[:channels]


@final
class BatchNormSpec(NormSpec):
    """Plain batch normalisation; no options."""

    name: Literal["bn"] = "bn"

    def build(self, max_channels: int, generator: torch.Generator) -> BatchNorm:
        """Weights start at 1, biases at 0."""
        del generator
        return BatchNorm(max_channels)
