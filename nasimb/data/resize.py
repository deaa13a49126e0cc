"""Images that are already in memory, brought to the size and channels wanted."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Luma weights of ITU-R 601 as Pillow computes them, in 1/65536: arrays and files turn grey alike.
RED, GREEN, BLUE = 19595, 38470, 7471
CHUNK = 4096


def resize(images_NCHW: Tensor, size: int) -> Tensor:
    """uint8 [N, C, size, size]: bilinear with antialiasing, rounded.

    Args:
        images_NCHW: uint8, or float with values in 0..255.
    """
    if images_NCHW.shape[-2:] == (size, size):
        return images_NCHW if images_NCHW.dtype == torch.uint8 else images_NCHW.round().to(torch.uint8)
    num_images, channels = images_NCHW.shape[:2]
    resized = torch.empty((num_images, channels, size, size), dtype=torch.uint8)
    # In chunks: the float copy of a large array would need four times its memory.
    for start in range(0, num_images, CHUNK):
        chunk = images_NCHW[start : start + CHUNK].float()
        chunk = F.interpolate(chunk, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        resized[start : start + CHUNK] = chunk.round().clamp(0, 255).to(torch.uint8)
    return resized


def convert_channels(images_NCHW: Tensor, channels: int) -> Tensor:
    """uint8 with 1 or 3 channels: grey is repeated, colour becomes luma (ITU-R 601)."""
    if images_NCHW.shape[1] == channels:
        return images_NCHW
    if channels == 3:
        return images_NCHW.expand(-1, 3, -1, -1).contiguous()
    grey = torch.empty((len(images_NCHW), 1, *images_NCHW.shape[2:]), dtype=torch.uint8)
    for start in range(0, len(images_NCHW), CHUNK):
        red, green, blue = images_NCHW[start : start + CHUNK].to(torch.int32).unbind(dim=1)
        grey[start : start + CHUNK, 0] = ((RED * red + GREEN * green + BLUE * blue + 2**15) >> 16).to(torch.uint8)
    return grey
