"""The contract of a normaliser: options, the elastic layer they build, and the plain layer that one becomes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from nasimb.nn.moments import Moments
from nasimb.spec import Spec


class Norm(nn.Module, ABC):
    """A normaliser built for the most channels, usable at every leading width.

    Attributes:
        needs_calibration: whether `forward` takes moments. A norm over single images (group, layer) does not.
    """

    needs_calibration: ClassVar[bool] = True

    @abstractmethod
    def forward(self, x_BCHW: Tensor, moments: Moments | None) -> Tensor:
        """Normalise with `moments`, or with those of the batch where None. C may be any leading width."""

    @abstractmethod
    def extract(self, channels: int, moments: Moments | None) -> nn.Module:
        """A plain layer for the leading `channels`, bit-equal in eval mode to `forward(x, moments)`.

        Without moments the layer is fresh (mean 0, variance 1), to load a state dict into.
        """


class NormSpec(Spec, ABC):
    """Options of a normaliser."""

    name: str

    @abstractmethod
    def build(self, max_channels: int, generator: torch.Generator) -> Norm:
        """The layer with fresh parameters; random ones, if any, come from `generator`."""
