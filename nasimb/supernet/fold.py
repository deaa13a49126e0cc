"""Networks for inference alone: norms folded into the convolutions before them.

Values differ from those of the plain network by float32 rounding. Shapes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nasimb.supernet.base import channels_last, prepare_images
from nasimb.supernet.plain_resnet import PlainBlock


def folded(conv: nn.Module, norm: nn.Module) -> nn.Module:
    """The convolution followed by the norm, as one convolution where the norm is a batch norm with given statistics."""
    if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d:
        return fuse_conv_bn_eval(conv.eval(), norm.eval()).to(memory_format=torch.channels_last)
    return nn.Sequential(conv, norm)


@final
class FoldedStem(nn.Module):
    """Images to maps: resized, standardised, through the stem."""

    pixel_mean_C: Tensor
    pixel_std_C: Tensor

    def __init__(
        self, resolution: int, stem: nn.Module, pixel_mean_C: Tensor, pixel_std_C: Tensor, activated: bool = False
    ) -> None:
        super().__init__()
        self.resolution, self.stem, self.activated = resolution, stem, activated
        self.pixel_mean_C, self.pixel_std_C = pixel_mean_C, pixel_std_C

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Maps in the number format of the stem's weights."""
        x_BCHW = prepare_images(images_BCHW, self.resolution, self.pixel_mean_C, self.pixel_std_C)
        dtype = next(self.stem.parameters()).dtype
        x_BCHW = channels_last(self.stem(x_BCHW.to(dtype)))
        return x_BCHW if self.activated else F.relu(x_BCHW, inplace=True)


@final
class FoldedBlock(nn.Module):
    """A residual block of two or three convolutions."""

    def __init__(self, block: PlainBlock) -> None:
        super().__init__()
        self.activated = block.activated
        self.inner, self.main = folded(block.conv1, block.norm1), folded(block.conv2, block.norm2)
        self.shortcut = folded(*block.shortcut) if isinstance(block.shortcut, nn.Sequential) else block.shortcut

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Same maps as the plain block."""
        y_BCHW = self.inner(x_BCHW)
        y_BCHW = self.main(y_BCHW if self.activated else F.relu(y_BCHW, inplace=True))
        return F.relu(y_BCHW.add_(self.shortcut(x_BCHW)), inplace=True)
