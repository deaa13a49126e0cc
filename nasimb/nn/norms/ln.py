"""Layer normalisation (arXiv 1607.06450) of maps: each image by itself, over all channels and pixels.

That is group normalisation with one group. (The layer of the same name in transformers and ConvNeXt is another: it
normalises over the channels of every pixel.)
"""

from __future__ import annotations

from typing import Literal, final

import torch

from nasimb.nn.norms.base import EpsilonSpec, PlacedSpec
from nasimb.nn.norms.gn import GroupNorm


@final
class LayerNormSpec(PlacedSpec, EpsilonSpec):
    """Layer normalisation over channels and pixels."""

    name: Literal["ln"] = "ln"

    def build(self, max_channels: int, generator: torch.Generator) -> GroupNorm:
        """Weights start at 1, biases at 0."""
        del generator
        return GroupNorm(max_channels, None, self.eps)
