"""Frozen features as every head takes them: checked, standardised, in double precision, a bounded part at a time.

Shapes: N images, B images of one part, D features, K classes, P classes with images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from nasimb.heads.moments import PART_BYTES, Classes, check_range, gather_moments, row_parts

__all__ = ["PART_BYTES", "Standardised", "parts", "standardise"]


@dataclass(frozen=True, eq=False)
class Standardised:
    """Labelled features with the mean and deviation that standardise them.

    Every class has the same weight in mean and deviation, N / (P n_k) an image, so that the tail has a say in the
    scale. A constant feature keeps deviation 1.

    Attributes:
        features_ND: as they came.
        positions_N: each image's class, as its position in `present_P`.
        present_P: indices of the classes that have images.
        counts_P: their images, float64.
        means_PD: standardised mean of each class; their plain mean is 0.
    """

    features_ND: Tensor
    positions_N: Tensor
    present_P: Tensor
    counts_P: Tensor
    mean_D: Tensor
    std_D: Tensor
    means_PD: Tensor
    num_classes: int

    def parts(self) -> Iterator[tuple[slice, Tensor]]:
        """Consecutive parts of the images: where they are, and standardised_BD in float64."""
        columns = max(self.features_ND.shape[1], len(self.present_P))
        for part in parts(len(self.features_ND), columns, self.features_ND.device):
            yield part, (self.features_ND[part].double() - self.mean_D) / self.std_D

    def indicators(self, part: slice) -> Tensor:
        """indicators_BP in float64: 1 at each image's class."""
        return one_hot(self.positions_N[part], len(self.present_P)).double()


def parts(rows: int, columns: int, device: torch.device) -> list[slice]:
    """Consecutive parts of a float64 array of rows and columns, each of at most `PART_BYTES`."""
    return row_parts(rows, columns, device)


def standardise(features_ND: Tensor, labels_N: Tensor, num_classes: int) -> Standardised:
    """Check the features and find what standardises them.

    Raises:
        WorkError: a feature is not finite.
        DataError: fewer than two classes have images, or a label is out of range.
    """
    classes = classes_of(labels_N.to(features_ND.device), num_classes)
    moments = gather_moments(lambda: [(features_ND, labels_N)], classes, ())
    return Standardised(
        features_ND, classes.positions(labels_N), classes.present_P, classes.counts_P, moments.mean_D, moments.std_D,
        moments.means_PD, num_classes,
    )  # fmt: skip


def classes_of(labels_N: Tensor, num_classes: int, images_K: Tensor | None = None) -> Classes:
    """The classes of these images; see `Classes.of`."""
    check_range(labels_N, num_classes)
    return Classes.of(torch.bincount(labels_N, minlength=num_classes), images_K)
