"""Random shifts and flips of a whole batch at once, on the device the images are on."""

from __future__ import annotations

import torch
from torch import Tensor

from nasimb.data.transfer import send


def augment(images_BCHW: Tensor, generator: torch.Generator, flip: bool, pad: int) -> Tensor:
    """uint8 [B, C, H, W]: each image shifted by up to `pad` pixels a direction; with `flip`, half of them mirrored.

    The same as padding by `pad` and cropping at random. The border repeats the edge pixels, which suits dark and
    light backgrounds alike.

    Args:
        generator: on the CPU, so that every device sees the same augmentation.
        pad: pixels; 0 shifts nothing.
    """
    num_images, channels, height, width = images_BCHW.shape
    device = images_BCHW.device
    drawn = torch.randint(-pad, pad + 1, (2, num_images), generator=generator)
    if flip:
        drawn = torch.cat([drawn, torch.randint(2, (1, num_images), generator=generator)])
    shifts_2B, mirrored_1B = torch.split(send(drawn, device), [2, int(flip)])
    rows_BH = (torch.arange(height, device=device) + shifts_2B[0, :, None]).clamp(0, height - 1)
    columns_BW = (torch.arange(width, device=device) + shifts_2B[1, :, None]).clamp(0, width - 1)
    if flip:
        columns_BW = torch.where(mirrored_1B.T.bool(), columns_BW.flip(1), columns_BW)
    pixels_BP = (rows_BH[:, :, None] * width + columns_BW[:, None, :]).flatten(1)
    pixels_BCP = pixels_BP[:, None].expand(-1, channels, -1)
    return images_BCHW.flatten(2).gather(2, pixels_BCP).view(num_images, channels, height, width)
