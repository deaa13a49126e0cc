"""What closed-form heads need to know of labelled features: class means and weighted second moments, from one sweep.

Features come in chunks and are not kept: O(K D + D^2) memory however many images. Everything accumulates in float64,
about a provisional origin c (the mean of the first images seen), because the sums of squares about a far origin would
cancel. From S_k = sum (z - c) over class k and, with image weights a that add up to 1, G = sum a (z - c)(z - c)^T:

    mean = c + mean_k S_k / n_k =: c + o            the same weight for every class, so that the tail has a say
    var  = diag G - o^2                             with the balanced weights 1 / (P n_k)
    E    = (G - m o^T - o m^T + o o^T) / (std std^T)         about the mean, standardised; m = sum a (z - c)

Constant features keep deviation 1.

Shapes: B images of a chunk or part, D features, K classes, P classes with images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from nasimb.errors import DataError, NotFiniteError
from nasimb.heads.weights import BALANCED, ClassWeighting

Chunks = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Gives all images once a call, always in the same order: pairs of features_BD and labels_B."""

PART_BYTES = {"cpu": 2**20, "cuda": 32 * 2**20}
"""Of one float64 work array over a part of the images, by device; a head keeps a handful of them at a time.

On a processor what fits its cache: one part for all took twice as long. On a GPU what fills it.
"""

FEWEST_ROWS = 256
"""Images of a part of the sweeps here, however wide: below it matrix products slow down."""

RESOLUTION = 1e-7
"""Below this share of its mean a standard deviation is float32 rounding: the feature is constant."""


@dataclass(frozen=True, eq=False)
class Classes:
    """The classes that have images.

    Attributes:
        num_classes: K.
        present_P: their indices.
        counts_P: their images, float64.
        images_P: how many images those stand for (more, where they are a class-capped part of the target), float64.
        position_K: where each class stands in `present_P`; -1 for one without images.
    """

    num_classes: int
    present_P: Tensor
    counts_P: Tensor
    images_P: Tensor
    position_K: Tensor

    @classmethod
    def of(cls, counts_K: Tensor, images_K: Tensor | None = None) -> Classes:
        """From the images of each class, and of each class of the target where those are only a part of it.

        Raises:
            DataError: fewer than two classes have images, or more than they stand for.
        """
        images_K = counts_K if images_K is None else images_K.to(counts_K)
        present_P = counts_K.nonzero().squeeze(1)
        if len(present_P) < 2:
            raise DataError(
                "a head needs training images of at least two classes",
                got=f"{len(present_P)} class(es) with images",
                do="Add images of another class.",
            )
        if bool((images_K < counts_K).any()):
            wrong = int((images_K < counts_K).nonzero()[0, 0])
            raise DataError(
                "a class-capped part cannot have more images than the whole",
                got=f"{int(counts_K[wrong])} of {int(images_K[wrong])} for class {wrong}",
                do="Pass the class counts of the whole target.",
            )
        position_K = torch.full_like(counts_K, -1)
        position_K[present_P] = torch.arange(len(present_P), device=counts_K.device)
        return cls(len(counts_K), present_P, counts_K[present_P].double(), images_K[present_P].double(), position_K)

    def positions(self, labels_B: Tensor) -> Tensor:
        """Each image's class as its position in `present_P`.

        Raises:
            DataError: a label is out of range, or of a class said to have no images.
        """
        check_range(labels_B, self.num_classes)
        positions_B = self.position_K[labels_B.to(self.position_K)]
        if bool((positions_B < 0).any()):
            raise DataError(
                "the class counts must be those of the images",
                got=f"an image of class {int(labels_B.to(positions_B)[positions_B < 0][0])}, which has none",
                do="Count the classes of the same images.",
            )
        return positions_B

    def weights(self, weighting: ClassWeighting) -> Tensor:
        """weights_P of one image; over all images they add up to 1."""
        return weighting.shares(self.images_P) / self.counts_P


@dataclass(frozen=True, eq=False)
class Moments:
    """Class means and second moments of features, standardised with equal weight for every class.

    Attributes:
        means_PD: standardised mean of each class; their plain mean is 0.
        seconds: E of each weighting asked for, over standardised features.
    """

    classes: Classes
    mean_D: Tensor
    std_D: Tensor
    means_PD: Tensor
    seconds: Mapping[ClassWeighting, Tensor]

    @property
    def num_classes(self) -> int:
        """K."""
        return self.classes.num_classes

    @property
    def present_P(self) -> Tensor:
        """Indices of the classes that have images."""
        return self.classes.present_P


def part_bytes(device: torch.device) -> int:
    """`PART_BYTES` of the device."""
    return PART_BYTES.get(device.type, PART_BYTES["cuda"])


def row_parts(rows: int, columns: int, device: torch.device, fewest: int = 1) -> list[slice]:
    """Consecutive parts of a float64 array: each of at most `PART_BYTES`, but of `fewest` rows at least."""
    length = max(fewest, part_bytes(device) // (8 * columns))
    return [slice(start, min(start + length, rows)) for start in range(0, rows, length)]


def gather_moments(chunks: Chunks, classes: Classes, weightings: Sequence[ClassWeighting]) -> Moments:
    """One sweep over all images.

    Args:
        classes: of all images that the chunks hold.
        weightings: those whose second moments are wanted; their D x D products are the cost.

    Raises:
        NotFiniteError: a feature is not finite.
        DataError: the images are not those that `classes` counts.
    """
    sums: _Sums | None = None
    for features_BD, labels_B in chunks():
        assert features_BD.ndim == 2
        assert labels_B.shape == features_BD.shape[:1]
        if len(features_BD):
            sums = sums or _Sums(classes, features_BD, weightings)
            sums.add(features_BD, classes.positions(labels_B))
    found_P = torch.zeros_like(classes.counts_P) if sums is None else sums.counts_P
    if sums is None or not torch.equal(found_P, classes.counts_P):
        raise DataError(
            "the class counts must be those of the images",
            got=f"{int(found_P.sum())} images where the counts say {int(classes.counts_P.sum())}",
            do="Count the classes of the same images.",
        )
    return sums.moments()


class _Sums:
    """S_k, diag G of the balanced weights, and G of every weighting."""

    def __init__(self, classes: Classes, features_BD: Tensor, weightings: Sequence[ClassWeighting]) -> None:
        self._classes = classes
        dimension = features_BD.shape[1]
        first = row_parts(len(features_BD), dimension, features_BD.device, FEWEST_ROWS)[0]
        self._origin_D = features_BD[first].mean(0, dtype=torch.float64)
        self.counts_P = torch.zeros_like(classes.counts_P)
        self._sums_PD = self._origin_D.new_zeros(len(classes.present_P), dimension)
        self._squares_D = torch.zeros_like(self._origin_D)
        self._products = {weighting: self._origin_D.new_zeros(dimension, dimension) for weighting in weightings}
        self._weights = {weighting: classes.weights(weighting) for weighting in {BALANCED, *weightings}}

    def add(self, features_BD: Tensor, positions_B: Tensor) -> None:
        self.counts_P += torch.bincount(positions_B, minlength=len(self.counts_P))
        for part in row_parts(len(features_BD), features_BD.shape[1], features_BD.device, FEWEST_ROWS):
            shifted_BD = features_BD[part] - self._origin_D  # in float64
            _add_by_class(self._sums_PD, shifted_BD, positions_B[part])
            self._squares_D += self._weights[BALANCED][positions_B[part]] @ shifted_BD.square()
            for weighting, product_DD in self._products.items():
                weights_B = self._weights[weighting][positions_B[part]]
                product_DD.addmm_(shifted_BD.T, weights_B[:, None] * shifted_BD)
        # Squares only grow: one value that is not finite stays.
        if not torch.isfinite(self._squares_D).all():
            broken = int((~torch.isfinite(features_BD)).any(dim=1).sum())
            raise NotFiniteError(
                "features must be finite",
                got=f"NaN or infinity in {broken} of {len(features_BD)} images",
                do="Leave this candidate out; check its normalisation statistics.",
            )

    def moments(self) -> Moments:
        classes = self._classes
        self._sums_PD /= classes.counts_P[:, None]
        means_PD = self._sums_PD
        offset_D = means_PD.mean(0)
        mean_D = self._origin_D + offset_D
        std_D = (self._squares_D - offset_D**2).clamp_min_(0.0).sqrt()
        std_D = torch.where(std_D > RESOLUTION * mean_D.abs(), std_D, 1.0)
        seconds = {}
        for weighting, second_DD in self._products.items():
            away_D = offset_D - weighting.shares(classes.images_P) @ means_PD
            # G - m o^T - o m^T + o o^T, grouped so that two small corrections remain.
            second_DD += torch.outer(away_D, offset_D)
            second_DD -= torch.outer(offset_D, offset_D - away_D)
            seconds[weighting] = second_DD / std_D / std_D[:, None]
        means_PD.sub_(offset_D).div_(std_D)
        return Moments(classes, mean_D, std_D, means_PD, seconds)


def _add_by_class(sums_PD: Tensor, rows_BD: Tensor, positions_B: Tensor) -> None:
    """sums_PD[positions_B] += rows_BD, the same on every run."""
    if sums_PD.device.type == "cpu":
        sums_PD.index_add_(0, positions_B, rows_BD)
    else:
        _add_by_bags(sums_PD, rows_BD, positions_B)


def _add_by_bags(sums_PD: Tensor, rows_BD: Tensor, positions_B: Tensor) -> None:
    """Scattered addition on a GPU has no fixed order; a sum over each class's own rows has."""
    ordered_B, rows_B = positions_B.sort(stable=True)
    starts_P = torch.searchsorted(ordered_B, torch.arange(len(sums_PD), device=ordered_B.device))
    sums_PD += embedding_bag(rows_B, rows_BD, starts_P, mode="sum")


def check_range(labels_N: Tensor, num_classes: int) -> None:
    """Raises DataError: a label is out of range."""
    if len(labels_N) and (int(labels_N.min()) < 0 or int(labels_N.max()) >= num_classes):
        raise DataError(
            f"labels must be from 0 to {num_classes - 1}",
            got=f"labels from {int(labels_N.min())} to {int(labels_N.max())}",
            do="Check the number of classes.",
        )
