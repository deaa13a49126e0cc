"""Ghost batch normalisation (arXiv 1705.08741): in training, small parts of a batch by themselves.

Shapes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from nasimb.nn.moments import Reach
from nasimb.nn.norms.affine import OwnAffineBatchNorm
from nasimb.nn.norms.base import PlacedSpec, RunningSpec


def ghost_sizes(images: int, ghost_batch: int) -> list[int]:
    """Images of each part of a batch; a last one of fewer than 2 joins the one before.

    >>> ghost_sizes(9, 4), ghost_sizes(10, 4), ghost_sizes(3, 4)
    ([4, 5], [4, 4, 2], [3])
    """
    whole, rest = divmod(images, ghost_batch)
    sizes = [ghost_batch] * whole
    if rest >= 2 or not sizes:
        return [*sizes, rest]
    return [*sizes[:-1], sizes[-1] + rest]


@final
class PlainGhostBatchNorm(nn.BatchNorm2d):
    """torch's layer, which in training takes a batch part by part; each part moves the running statistics."""

    def __init__(self, channels: int, eps: float, momentum: float, ghost_batch: int) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)
        self.ghost_batch = ghost_batch

    def forward(self, input: Tensor) -> Tensor:
        """The normalised maps, in the type of `input`."""
        if not self.training:
            return super().forward(input)
        parts = torch.split(input, ghost_sizes(len(input), self.ghost_batch))
        return torch.cat([super(PlainGhostBatchNorm, self).forward(part) for part in parts])


@final
class GhostBatchNorm(OwnAffineBatchNorm):
    """Batch normalisation with given moments; over a batch, `ghost_batch` images at a time."""

    def __init__(self, max_channels: int, eps: float, momentum: float, ghost_batch: int) -> None:
        super().__init__(max_channels, eps, momentum)
        self.ghost_batch = ghost_batch

    def over_batch(self, x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor) -> Tensor:
        """Each part with its own moments."""
        parts = torch.split(x_BCHW, ghost_sizes(len(x_BCHW), self.ghost_batch))
        return torch.cat([super(GhostBatchNorm, self).over_batch(part, weight_C, bias_C) for part in parts])


@final
class GhostBatchNormSpec(PlacedSpec, RunningSpec):
    """Ghost batch normalisation.

    Attributes:
        ghost_batch: images that are normalised together in training, whatever the batch and however many processes.
    """

    reach: ClassVar[Reach] = "process"

    name: Literal["ghost_bn"] = "ghost_bn"
    ghost_batch: int = Field(default=32, ge=2)

    def build(self, max_channels: int, generator: torch.Generator) -> GhostBatchNorm:
        """Weights start at 1, biases at 0."""
        del generator
        return GhostBatchNorm(max_channels, self.eps, self.momentum, self.ghost_batch)

    def plain(self, channels: int, generator: torch.Generator | None = None) -> PlainGhostBatchNorm:
        """See `NormSpec.plain`."""
        return PlainGhostBatchNorm(channels, self.eps, self.momentum, self.ghost_batch)
