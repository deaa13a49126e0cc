"""Products with every setting of a head's grid, in groups that fit the memory of a part.

A setting s enters a head as a diagonal matrix in the eigenbasis of its second moment, r_sd = 1 / (l_d + s) or alike.
What is wanted for all s, rows p and columns b is sum_d a_pd r_sd c_db. (Few combinations of the r_s would do only where
the eigenvalues span less than a decade or two, which those of real features do not.)

Shapes: B images of one part, D features, P classes with images, S settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from nasimb.heads.moments import part_bytes


@dataclass(frozen=True, eq=False)
class Grid:
    """Settings and taus of one head, and the diagonals r of its settings."""

    settings: Sequence[float]
    taus: Sequence[float]
    diagonals_SD: Tensor

    def products(self, rows_PD: Tensor, columns_DB: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Groups of settings that fit the memory of a part together, with their products_SPB."""
        elements = len(rows_PD) * columns_DB.shape[1]
        length = max(1, part_bytes(columns_DB.device) // (columns_DB.element_size() * elements))
        diagonals_SD = self.diagonals_SD.to(columns_DB.dtype)
        for start in range(0, len(self.settings), length):
            group = slice(start, min(start + length, len(self.settings)))
            yield group, products(diagonals_SD[group], rows_PD, columns_DB)


def products(diagonals_SD: Tensor, rows_PD: Tensor, columns_DB: Tensor) -> Tensor:
    """products_SPB = sum_d r_sd a_pd c_db."""
    scaled_XD = (diagonals_SD[:, None] * rows_PD).flatten(0, 1)
    return (scaled_XD @ columns_DB).view(len(diagonals_SD), len(rows_PD), -1)
