"""What images are compared by: frozen features of a super-network, or simple ones where there is none.

Shapes: B images of a batch, N of a set, C channels, S pixels a side, D features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from nasimb.data.base import ImageSet
from nasimb.data.resize import BLUE, GREEN, RED, convert_channels
from nasimb.phases.supernet import load
from nasimb.supernet.calibrate import Calibration, calibrate

SIZE = 32
"""Pixels a side at which simple features look at images."""
PIXELS, CELLS, DIRECTIONS = 8, 4, 8
BATCH = 256
SIMPLE_LIMIT, TRAINED_LIMIT = 1.85, 0.7
"""Chosen on the pairs that `nasimb.care.gap` lists; what they are worth on others it says too."""
CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Features:
    """A way from images to features.

    Attributes:
        name: for the reader.
        size: pixels a side of the images it takes.
        channels: 1 or 3; None: takes either.
        gap_limit: the gap up to which a head on them is likely to do; see `nasimb.care.gap`.
        make: uint8 images_BCHW to float32 features_BD.
        trained_on: content hashes, at this size and these channels, of the images they were trained on.
    """

    name: str
    size: int
    channels: int | None
    gap_limit: float
    make: Callable[[Tensor], Tensor]
    trained_on: frozenset[str] = field(default=frozenset(), repr=False)

    def of(self, images: ImageSet, *, channels: int | None = None) -> Tensor:
        """features_ND of a set, on the CPU.

        Args:
            channels: for features that take either: what to bring the images to; None leaves them.
        """
        wanted = self.channels or channels or images.channels
        with torch.inference_mode():
            found = [self.make(convert_channels(batch, wanted)) for batch, _ in images.batches(BATCH, CPU)]
        return torch.cat(found).float()

    def seen(self, images: ImageSet) -> int:
        """How many of the images they were trained on.

        Args:
            images: of this size and these channels.
        """
        return sum(content in self.trained_on for content in images.hashes()) if self.trained_on else 0


SIMPLE = "simple features (8 x 8 pixels, histograms of edge directions)"


def simple() -> Features:
    """Features that need no training: 8 x 8 mean pixels of every channel, and where edges lie and how they run."""
    return Features(SIMPLE, SIZE, None, SIMPLE_LIMIT, simple_features)


def frozen(folder: Path) -> Features:
    """Features of the largest subnet of a trained super-network, its norms calibrated on its own source images.

    Raises:
        InputError: the folder holds no finished super-network.
    """
    found = load(folder, CPU)
    subnet = found.supernet.space.largest()
    statistics = calibrate(found.supernet, subnet, Calibration.on(found.source_images_BCHW))
    network = found.supernet.extract(subnet, statistics).eval()
    name = f"features of the largest subnet of {folder}"
    size, channels = found.supernet.space.max_resolution, found.supernet.in_channels
    return Features(name, size, channels, TRAINED_LIMIT, network, found.source_hashes)


def luma(images_BCHW: Tensor) -> Tensor:
    """Grey values_BHW in 0..255 as float32, of grey or of RGB images (ITU-R 601)."""
    values_BCHW = images_BCHW.float()
    if values_BCHW.shape[1] == 1:
        return values_BCHW[:, 0]
    red_BHW, green_BHW, blue_BHW = values_BCHW.unbind(1)
    return (RED * red_BHW + GREEN * green_BHW + BLUE * blue_BHW) / 2**16


def simple_features(images_BCHW: Tensor) -> Tensor:
    """features_BD: 64 C mean pixels in 0..1, and 4 x 4 cells x 8 directions of gradients, of length 1 an image.

    Directions are signed: an inverted image has the opposite ones.
    """
    pixels_BX = F.adaptive_avg_pool2d(images_BCHW.float() / 255, PIXELS).flatten(1)
    grey_BHW = F.adaptive_avg_pool2d(luma(images_BCHW)[:, None] / 255, SIZE)[:, 0]
    across_BHW = F.pad(grey_BHW[:, :, 2:] - grey_BHW[:, :, :-2], (1, 1))
    down_BHW = F.pad(grey_BHW[:, 2:] - grey_BHW[:, :-2], (0, 0, 1, 1))
    strength_BHW = torch.hypot(across_BHW, down_BHW)
    turn_BHW = torch.atan2(down_BHW, across_BHW) / (2 * math.pi) * DIRECTIONS
    bin_BHW = turn_BHW.round().long() % DIRECTIONS
    maps_BOHW = torch.zeros(len(bin_BHW), DIRECTIONS, SIZE, SIZE, device=bin_BHW.device)
    maps_BOHW.scatter_(1, bin_BHW[:, None], strength_BHW[:, None])
    cells_BX = F.adaptive_avg_pool2d(maps_BOHW, CELLS).flatten(1)
    return torch.cat([pixels_BX, F.normalize(cells_BX, eps=1e-4)], 1)
