"""Random shifts and flips of a whole batch at once, on the device the images are on.

Shapes: B images of a batch, N of a store, C channels, H and W pixels; shifts down and right, and (0 or 1) mirroring.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from nasimb.data.base import ImageSet, ImageStore
from nasimb.data.transfer import send


def augment(images_BCHW: Tensor, generator: torch.Generator, flip: bool, pad: int) -> Tensor:
    """uint8 [B, C, H, W]: each image shifted by up to `pad` pixels a direction; with `flip`, half of them mirrored.

    The same as padding by `pad` and cropping at random. The border repeats the edge pixels, which suits dark and
    light backgrounds alike.

    Args:
        generator: on the CPU, so that every device sees the same augmentation.
        pad: pixels; 0 shifts nothing.
    """
    return moved(images_BCHW, draw_moves(len(images_BCHW), generator, flip, pad))


def augmented(images: ImageSet, generator: torch.Generator, flip: bool, pad: int) -> ImageSet:
    """The same set with every image as `augment` might show it: always the same, in whatever order it is read.

    Args, as `augment`; `generator` is drawn from once, here.
    """
    return replace(images, store=_AugmentedStore(images.store, draw_moves(len(images.store), generator, flip, pad)))


class _AugmentedStore:
    """Each image of another store moved in its own way."""

    def __init__(self, store: ImageStore, moves_3N: Tensor) -> None:
        self._store, self._moves_3N = store, moves_3N
        self.channels, self.size = store.channels, store.size

    def __len__(self) -> int:
        return len(self._store)

    def read(self, indices_B: Tensor, device: torch.device) -> Tensor:
        return moved(self._store.read(indices_B, device), self._moves_3N[:, indices_B.cpu()])

    def stream(self, index_batches: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
        ahead: list[Tensor] = []

        def indices() -> Iterator[Tensor]:
            for indices_B in index_batches:
                ahead.append(indices_B.cpu())
                yield indices_B

        for images_BCHW in self._store.stream(indices(), device):
            yield moved(images_BCHW, self._moves_3N[:, ahead.pop(0)])

    def hashes(self) -> list[str]:
        """Those of the images as they are stored: a moved copy is no other image."""
        return self._store.hashes()

    def name(self, index: int) -> str:
        return self._store.name(index)


def draw_moves(num_images: int, generator: torch.Generator, flip: bool, pad: int) -> Tensor:
    """moves_3B of a batch for `moved`: shift down, shift right, whether mirrored. Arguments as of `augment`."""
    shifts_2B = torch.randint(-pad, pad + 1, (2, num_images), generator=generator)
    mirrored_1B = torch.zeros((1, num_images), dtype=torch.int64)
    if flip:
        mirrored_1B = torch.randint(2, (1, num_images), generator=generator)
    return torch.cat([shifts_2B, mirrored_1B])


def moved(images_BCHW: Tensor, moves_3B: Tensor) -> Tensor:
    """uint8 [B, C, H, W]: each image shifted and mirrored in its own way."""
    num_images, channels, height, width = images_BCHW.shape
    device = images_BCHW.device
    down_B, right_B, mirrored_B = send(moves_3B, device)
    rows_BH = (torch.arange(height, device=device) + down_B[:, None]).clamp(0, height - 1)
    columns_BW = (torch.arange(width, device=device) + right_B[:, None]).clamp(0, width - 1)
    columns_BW = torch.where(mirrored_B[:, None].bool(), columns_BW.flip(1), columns_BW)
    pixels_BP = (rows_BH[:, :, None] * width + columns_BW[:, None, :]).flatten(1)
    pixels_BCP = pixels_BP[:, None].expand(-1, channels, -1)
    return images_BCHW.flatten(2).gather(2, pixels_BCP).view(num_images, channels, height, width)
