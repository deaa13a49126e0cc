"""Products with every setting of a head's grid, by as few matrix products as the settings really differ.

A setting s enters a head as a diagonal matrix in the eigenbasis of its second moment, r_sd = 1 / (l_d + s) or alike.
What is wanted for all s, rows p and columns b is sum_d a_pd r_sd c_db. Over settings and eigenvalues r is smooth, so a
few combinations of its rows give all of them: r = mix basis (singular value decomposition, columns scaled to a largest
entry of 1, singular values below rounding dropped), and only those meet the long products.

Shapes: B images of one part, D features, P classes with images, S settings, R combinations, T taus.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nasimb.heads.moments import part_bytes

ROUNDING = 1e-14
"""Singular values below this share of the largest are dropped."""

WORTH_IT = 0.75
"""Combine settings only where the combinations are at most this share of them."""

MOST_PARTS = 8
"""Products of all combinations may take this many times the bytes of a part; otherwise each setting is on its own."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Settings and taus of one head, and the diagonals r of its settings.

    Attributes:
        mix_SR, basis_RD: diagonals = mix @ basis; None where combining does not pay.
    """

    settings: Sequence[float]
    taus: Sequence[float]
    diagonals_SD: Tensor
    mix_SR: Tensor | None
    basis_RD: Tensor | None

    @classmethod
    def of(cls, settings: Sequence[float], taus: Sequence[float], diagonals_SD: Tensor) -> Grid:
        """Find the combinations. The diagonals must be positive."""
        scale_D = diagonals_SD.amax(0)
        left_SR, values_R, right_RD = torch.linalg.svd(diagonals_SD / scale_D, full_matrices=False)
        rank = int((values_R > ROUNDING * values_R[0]).sum())
        if rank > WORTH_IT * len(settings):
            return cls(settings, taus, diagonals_SD, None, None)
        return cls(settings, taus, diagonals_SD, left_SR[:, :rank] * values_R[:rank], right_RD[:rank] * scale_D)

    def products(self, rows_PD: Tensor, columns_DB: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Groups of settings that fit the memory of a part together, with their products_SPB."""
        elements, bytes_of_part = len(rows_PD) * columns_DB.shape[1], part_bytes(columns_DB.device)
        length = max(1, bytes_of_part // (8 * elements))
        combined_RX: Tensor | None = None
        if self.basis_RD is not None and 8 * elements * len(self.basis_RD) <= MOST_PARTS * bytes_of_part:
            combined_RX = products(self.basis_RD, rows_PD, columns_DB).flatten(1)
        for start in range(0, len(self.settings), length):
            group = slice(start, min(start + length, len(self.settings)))
            if combined_RX is None or self.mix_SR is None:
                yield group, products(self.diagonals_SD[group], rows_PD, columns_DB)
            else:
                yield group, (self.mix_SR[group] @ combined_RX).view(-1, len(rows_PD), columns_DB.shape[1])


def products(diagonals_SD: Tensor, rows_PD: Tensor, columns_DB: Tensor) -> Tensor:
    """products_SPB = sum_d r_sd a_pd c_db."""
    scaled_XD = (diagonals_SD[:, None] * rows_PD).flatten(0, 1)
    return (scaled_XD @ columns_DB).view(len(diagonals_SD), len(rows_PD), -1)
