"""Frozen features as every head takes them: checked, standardised, in double precision, a bounded part at a time.

Shapes: N images, B images of one part, D features, K classes, P classes with images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from nasimb.errors import DataError, WorkError

PART_BYTES = {"cpu": 2**20, "cuda": 32 * 2**20}
"""Of one float64 work array over a part of the images, by device; a head keeps a handful of them at a time.

On a processor what fits its cache: one part for all took twice as long. On a GPU what fills it.
"""

RESOLUTION = 1e-7
"""Below this share of its mean a standard deviation is float32 rounding: the feature is constant."""


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

    @property
    def weights_P(self) -> Tensor:
        """Weight of one image of each class; over all images they add up to N."""
        return len(self.features_ND) / (len(self.counts_P) * self.counts_P)

    def parts(self) -> Iterator[tuple[slice, Tensor]]:
        """Consecutive parts of the images: where they are, and standardised_BD in float64."""
        for part in _parts(self.features_ND, len(self.present_P)):
            yield part, (self.features_ND[part].double() - self.mean_D) / self.std_D

    def indicators(self, part: slice) -> Tensor:
        """indicators_BP in float64: 1 at each image's class."""
        return one_hot(self.positions_N[part], len(self.present_P)).double()


def parts(rows: int, columns: int, device: torch.device) -> list[slice]:
    """Consecutive parts of a float64 array of rows and columns, each of at most `PART_BYTES`."""
    length = max(1, PART_BYTES.get(device.type, PART_BYTES["cuda"]) // (8 * columns))
    return [slice(start, min(start + length, rows)) for start in range(0, rows, length)]


def standardise(features_ND: Tensor, labels_N: Tensor, num_classes: int) -> Standardised:
    """Check the features and find what standardises them.

    Raises:
        WorkError: a feature is not finite.
        DataError: fewer than two classes have images, or a label is out of range.
    """
    _check(features_ND, labels_N, num_classes)
    labels_N = labels_N.to(features_ND.device)
    counts_K = torch.bincount(labels_N, minlength=num_classes)
    present_P = counts_K.nonzero().squeeze(1)
    positions_N = (torch.cumsum(counts_K > 0, dim=0) - 1)[labels_N]
    counts_P = counts_K[present_P].double()
    # Sums by product with indicators, not by scattered addition: that is not deterministic on a GPU.
    sums_PD = features_ND.new_zeros(len(present_P), features_ND.shape[1], dtype=torch.float64)
    for part in _parts(features_ND, len(present_P)):
        sums_PD += one_hot(positions_N[part], len(present_P)).double().T @ features_ND[part].double()
    raw_means_PD = sums_PD / counts_P[:, None]
    mean_D = raw_means_PD.mean(0)
    shares_P = 1.0 / (len(present_P) * counts_P)
    variance_D = torch.zeros_like(mean_D)
    for part in _parts(features_ND, len(present_P)):
        variance_D += shares_P[positions_N[part]] @ (features_ND[part].double() - mean_D) ** 2
    std_D = variance_D.sqrt()
    std_D = torch.where(std_D > RESOLUTION * mean_D.abs(), std_D, torch.ones_like(std_D))
    means_PD = (raw_means_PD - mean_D) / std_D
    return Standardised(features_ND, positions_N, present_P, counts_P, mean_D, std_D, means_PD, num_classes)


def _parts(features_ND: Tensor, num_present: int) -> list[slice]:
    return parts(len(features_ND), max(features_ND.shape[1], num_present), features_ND.device)


def _check(features_ND: Tensor, labels_N: Tensor, num_classes: int) -> None:
    assert features_ND.ndim == 2
    assert labels_N.shape == features_ND.shape[:1]
    if not torch.isfinite(features_ND).all():
        broken = int((~torch.isfinite(features_ND)).any(dim=1).sum())
        raise WorkError(
            "features must be finite",
            got=f"NaN or infinity in {broken} of {len(features_ND)} images",
            do="Leave this candidate out; check its normalisation statistics.",
        )
    if len(labels_N) and (int(labels_N.min()) < 0 or int(labels_N.max()) >= num_classes):
        raise DataError(
            f"labels must be from 0 to {num_classes - 1}",
            got=f"labels from {int(labels_N.min())} to {int(labels_N.max())}",
            do="Check the number of classes.",
        )
    present = int((torch.bincount(labels_N, minlength=num_classes) > 0).sum())
    if present < 2:
        raise DataError(
            "a head needs training images of at least two classes",
            got=f"{present} class(es) with images",
            do="Add images of another class.",
        )
