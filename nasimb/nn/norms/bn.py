"""Batch normalisation (arXiv 1502.03167)."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from pydantic import Field, PositiveFloat

from nasimb.nn.norms.affine import OwnAffineBatchNorm
from nasimb.nn.norms.base import NormSpec


@final
class BatchNorm(OwnAffineBatchNorm):
    """Batch normalisation as it is."""


@final
class BatchNormSpec(NormSpec):
    """Plain batch normalisation. It has no `where`: the other norms of a block are batch norms anyway.

    Attributes:
        eps: added to the variance.
        momentum: weight of the newest batch in the running statistics of a plain layer; a super-network has none.
    """

    over_batches: ClassVar[bool] = True

    name: Literal["bn"] = "bn"
    eps: PositiveFloat = 1e-5
    momentum: float = Field(default=0.1, gt=0, le=1)

    def build(self, max_channels: int, generator: torch.Generator) -> BatchNorm:
        """Weights start at 1, biases at 0."""
        del generator
        return BatchNorm(max_channels, self.eps, self.momentum)
