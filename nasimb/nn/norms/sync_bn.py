"""Batch normalisation over the batches of all processes that train together."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from torch import nn

from nasimb.nn.moments import Reach
from nasimb.nn.norms.affine import OwnAffineBatchNorm
from nasimb.nn.norms.base import PlacedSpec, RunningSpec


@final
class SyncBatchNorm(OwnAffineBatchNorm):
    """Batch normalisation whose training moments are those of all processes; the same as `bn` where there is one."""


@final
class SyncBatchNormSpec(PlacedSpec, RunningSpec):
    """Synchronised batch normalisation, also where the recipe synchronises no other."""

    reach: ClassVar[Reach] = "ranks"

    name: Literal["sync_bn"] = "sync_bn"

    def build(self, max_channels: int, generator: torch.Generator) -> SyncBatchNorm:
        """Weights start at 1, biases at 0."""
        del generator
        return SyncBatchNorm(max_channels, self.eps, self.momentum)

    def plain(self, channels: int, generator: torch.Generator | None = None) -> nn.SyncBatchNorm:
        """torch's layer, which joins processes by itself (between GPUs; on CPUs only in a process of its own)."""
        return nn.SyncBatchNorm(channels, eps=self.eps, momentum=self.momentum)
