"""Batch normalisation (arXiv 1502.03167)."""

from __future__ import annotations

from typing import Literal, final

import torch

from nasimb.nn.norms.affine import OwnAffineBatchNorm
from nasimb.nn.norms.base import RunningSpec


@final
class BatchNorm(OwnAffineBatchNorm):
    """Batch normalisation as it is."""


@final
class BatchNormSpec(RunningSpec):
    """Plain batch normalisation. It has no `where`: the other norms of a block are batch norms anyway."""

    name: Literal["bn"] = "bn"

    def build(self, max_channels: int, generator: torch.Generator) -> BatchNorm:
        """Weights start at 1, biases at 0."""
        del generator
        return BatchNorm(max_channels, self.eps, self.momentum)
