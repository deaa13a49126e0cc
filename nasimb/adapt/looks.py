"""Which images of a batch a look takes: enough to judge by, few enough to cost little.

Shapes: B images of a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOOK = 64
"""Images of a look at a healthy adaptation, and of a batch that brings a settled one up to date: of a larger batch, so
many drawn at random."""


def some(images: Tensor, batch: int) -> Tensor | None:
    """Positions of the images of a look, in order, drawn by the batch's number; None: all of them.

    At random, as every k-th image may be one class's where classes take turns.
    """
    if len(images) <= LOOK:
        return None
    generator = torch.Generator().manual_seed(batch)
    return torch.randperm(len(images), generator=generator)[:LOOK].sort().values.to(images.device)


def only(x_BX: Tensor, positions: Tensor | None) -> Tensor:
    """Rows at these positions; all of them, without a copy, at None."""
    return x_BX if positions is None else x_BX[positions]
