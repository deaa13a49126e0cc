"""Which images of a stream were not there before: copies say nothing new of how images differ."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor

REMEMBERED = 16_384
"""Images whose checksums are kept."""

PRODUCTS_A_PART = 2**21


class Fresh(NamedTuple):
    """Positions in a batch, and the checksums of the images there."""

    positions: Tensor
    checksums: tuple[int, ...]


class Distinct:
    """Checksums of the newest images of a stream."""

    def __init__(self) -> None:
        self._seen: OrderedDict[int, int] = OrderedDict()

    def fresh(self, images_BCHW: Tensor, since: int = 0) -> Fresh:
        """The images that are copies of none before them, in the batch or among those remembered.

        Args:
            since: number of a batch; copies of images last remembered before it are new.
        """
        positions, checksums = [], []
        here = set()
        for position, checksum in enumerate(_checksums(images_BCHW)):
            if checksum not in here and self._seen.get(checksum, -1) < since:
                positions.append(position)
                checksums.append(checksum)
            here.add(checksum)
        return Fresh(torch.tensor(positions, dtype=torch.long, device=images_BCHW.device), tuple(checksums))

    def remember(self, fresh: Fresh, batch: int = 0) -> None:
        """From now on copies of these images, which came in this batch, are known as such."""
        for checksum in fresh.checksums:
            self._seen[checksum] = batch
            self._seen.move_to_end(checksum)
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)


def _checksums(images_BCHW: Tensor) -> list[int]:
    """Sums of the images' bits with fixed odd factors, modulo 2^64: the same for the same pixels, exactly."""
    bits_BX = images_BCHW.contiguous().flatten(1)
    if bits_BX.is_floating_point():
        bits_BX = bits_BX.float().view(torch.int32)
    generator = torch.Generator().manual_seed(0)
    factors_X = torch.randint(-(2**62), 2**62, (bits_BX.shape[1],), generator=generator) * 2 + 1
    factors_X = factors_X.to(bits_BX.device)
    # In parts: products take 8 bytes a pixel.
    parts = torch.split(bits_BX, max(1, PRODUCTS_A_PART // max(1, bits_BX.shape[1])))
    sums_B: list[int] = torch.cat([(part.long() * factors_X).sum(1) for part in parts]).tolist()
    return sums_B
