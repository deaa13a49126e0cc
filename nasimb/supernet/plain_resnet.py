"""One residual subnet as a plain module: no elastic parts, nothing to choose. It is exported, timed and deployed.

Shapes: B images, C channels, H and W pixels, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasimb.supernet.base import channels_last, pooled, prepare_images


@final
class PlainBlock(nn.Module):
    """convolution - norm - relu - convolution - norm, plus the shortcut, then relu.

    `activated`: the first norm has a nonlinearity of its own, and no relu after it.
    """

    def __init__(
        self, conv1: nn.Module, norm1: nn.Module, conv2: nn.Module, norm2: nn.Module, shortcut: nn.Module,
        activated: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.activated = activated
        self.conv1, self.norm1, self.conv2, self.norm2, self.shortcut = conv1, norm1, conv2, norm2, shortcut

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Same maps as the elastic block."""
        y_BCHW = self.norm1(self.conv1(x_BCHW))
        if not self.activated:
            y_BCHW = F.relu(y_BCHW, inplace=True)
        return F.relu(self.norm2(self.conv2(y_BCHW)).add_(self.shortcut(x_BCHW)), inplace=True)


@final
class PlainResNet(nn.Module):
    """From images (uint8 or float in 0..255, any size) to features_BD.

    Args:
        resolution: side that images are resized to, pixels.
        taps: how many of the last stages are pooled and concatenated.
        stem, stem_norm: convolution and norm in front of the first stage.
        stages: the blocks of each stage.
        pixel_mean_C, pixel_std_C: standardise the pixels.
        stem_activated: the stem's norm has a nonlinearity of its own, and no relu after it.
    """

    pixel_mean_C: Tensor
    pixel_std_C: Tensor

    def __init__(
        self,
        resolution: int,
        taps: int,
        stem: nn.Module,
        stem_norm: nn.Module,
        stages: Sequence[Sequence[PlainBlock]],
        pixel_mean_C: Tensor,
        pixel_std_C: Tensor,
        stem_activated: bool = False,
    ) -> None:
        super().__init__()
        self.resolution, self.taps, self.stem_activated = resolution, taps, stem_activated
        self.register_buffer("pixel_mean_C", pixel_mean_C.clone())
        self.register_buffer("pixel_std_C", pixel_std_C.clone())
        self.stem, self.stem_norm = stem, stem_norm
        self.stages = nn.ModuleList(nn.Sequential(*blocks) for blocks in stages)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """features_BD, the last stage last."""
        x_BCHW = prepare_images(images_BCHW, self.resolution, self.pixel_mean_C, self.pixel_std_C)
        x_BCHW = self.stem_norm(channels_last(self.stem(x_BCHW)))
        if not self.stem_activated:
            x_BCHW = F.relu(x_BCHW, inplace=True)
        features = []
        for number, stage in enumerate(self.stages):
            x_BCHW = stage(x_BCHW)
            if number >= len(self.stages) - self.taps:
                features.append(pooled(x_BCHW))
        return torch.cat(features, dim=1)
