"""The contract of a closed-form head: scored by exact leave-one-out, fitted in one solve.

Heads that need no more than moments of the features share one sweep over them, take them as a stream, and predict in a
second sweep. `fit_stream` and `leave_one_out_stream` are the general case, `fit` and `score` those with one chunk.

Post-hoc logit adjustment (Menon et al. 2021, equation 9) subtracts tau log pi_k from the score of class k, where pi_k
is its share of the images. These heads balance already, so tau 0 is where to start; its leave-one-out predictions say
whether more (tau > 0 favours the tail) or less helps.

Shapes: N images, B images of a chunk or part, D features, K classes, P classes with images, S settings, T taus, G = S T
entries of the grid, settings first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from nasimb.errors import DataError
from nasimb.heads.grid import Grid
from nasimb.heads.head import Head
from nasimb.heads.moments import FEWEST_ROWS, Chunks, Classes, Moments, gather_moments, row_parts
from nasimb.heads.standardise import classes_of
from nasimb.heads.weights import ClassWeighting, WeightingName
from nasimb.metrics import NO_PREDICTION
from nasimb.spec import Spec


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """What a head predicts for every training image when it was fitted to all others.

    Attributes:
        name, setting: the head, and its penalty or shrinkage.
        predicted_N: int64 on the CPU; `NO_PREDICTION` for the only image of a class.
        balanced_loss: mean over classes of the mean loss of their images (each head's own kind of loss, so it
            compares settings and candidates of one head, not two heads); images without a prediction are left out.
        tau: of the logit adjustment.

    Example:
        >>> from nasimb.heads import parse_head
        >>> features_ND, labels_N = torch.tensor([[0.0], [1.0], [9.0], [10.0], [5.0]]), torch.tensor([0, 0, 1, 1, 2])
        >>> (found,) = parse_head({"name": "gda", "grid": [0.5]}).score(features_ND, labels_N, 3)
        >>> found.setting, found.predicted_N.tolist()  # the only image of a class cannot be left out
        (0.5, [0, 0, 1, 1, -1])
    """

    name: str
    setting: float
    predicted_N: Tensor
    balanced_loss: float
    tau: float = 0.0


class ClosedFormSpec(Spec, ABC):
    """Options of a closed-form head.

    Attributes:
        grid: settings that `score` tries, all from one decomposition.

    Example, the way from features to a head:
        >>> from nasimb.heads import parse_head
        >>> from sklearn.datasets import load_digits
        >>> pixels, digits = load_digits(return_X_y=True)
        >>> features_ND, labels_N = torch.tensor(pixels[:500]), torch.tensor(digits[:500])
        >>> spec = parse_head("ridge")
        >>> best = min(spec.score(features_ND, labels_N, 10), key=lambda one: one.balanced_loss)
        >>> head = spec.fit(features_ND, labels_N, 10, best.setting)
        >>> bool((head.logits(features_ND).argmax(1) == labels_N).double().mean() > 0.95)
        True
    """

    name: str
    grid: tuple[float, ...]

    @property
    def estimator(self) -> str:
        """How `score` holds images out."""
        return "leave-one-out"

    @abstractmethod
    def score(
        self, features_ND: Tensor, labels_N: Tensor, num_classes: int, *, images_K: Tensor | None = None
    ) -> list[LeaveOneOut]:
        """Leave-one-out predictions for every setting of the grid, equal to as many refits as there are images.

        What stays fixed while an image is left out: the weights of the others and the standardisation.

        Args:
            images_K: images of each class of the target, where these are only a class-capped part of it. The
                objective stays that of the target: an image stands for as many as its class has more.

        Raises:
            WorkError: a feature is not finite.
            DataError: fewer than two classes have images, or a label is out of range.
        """

    @abstractmethod
    def fit(
        self, features_ND: Tensor, labels_N: Tensor, num_classes: int, setting: float, *, images_K: Tensor | None = None
    ) -> Head:
        """The head fitted to all images. Args, raises: as `score`."""

    def fit_grid(
        self, features_ND: Tensor, labels_N: Tensor, num_classes: int, *, images_K: Tensor | None = None
    ) -> list[tuple[float, Head]]:
        """Every entry of `score`, in its order: the setting and its head fitted to all images. Raises as `score`."""
        return [
            (setting, self.fit(features_ND, labels_N, num_classes, setting, images_K=images_K)) for setting in self.grid
        ]

    def chosen(self, tau: float) -> ClosedFormSpec:
        """The same options with this tau alone, which `fit` then uses. Only 0 for a head without logit adjustment."""
        assert tau == 0.0
        return self


class MomentSpec(ClosedFormSpec):
    """Options of a head that class means and a second moment determine.

    Attributes:
        class_weighting: how much an image weighs by the number of images of its class; see `ClassWeighting`.
        beta: of effective_number.
        taus: of post-hoc logit adjustment, all tried with every setting.

    Example:
        >>> from nasimb.heads import parse_head
        >>> spec = parse_head({"name": "gda", "grid": [0.1, 1.0], "taus": [0.0, 0.5]})
        >>> spec.entries, spec.chosen(0.5).taus
        ([(0.1, 0.0), (0.1, 0.5), (1.0, 0.0), (1.0, 0.5)], (0.5,))
        >>> spec.weighting.name
        'inverse_sqrt'
    """

    class_weighting: WeightingName
    beta: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9999
    taus: Annotated[tuple[float, ...], Field(min_length=1)] = (0.0,)

    @property
    def weighting(self) -> ClassWeighting:
        """Equal for heads that can share a second moment."""
        beta = self.beta if self.class_weighting == "effective_number" else 0.0
        return ClassWeighting(self.class_weighting, beta)

    @abstractmethod
    def solve(self, moments: Moments) -> Solved:
        """Decompose the problem of this head's weighting."""

    def score(
        self, features_ND: Tensor, labels_N: Tensor, num_classes: int, *, images_K: Tensor | None = None
    ) -> list[LeaveOneOut]:
        """See `ClosedFormSpec.score`; taus change fastest."""
        return leave_one_out([self], features_ND, labels_N, num_classes, images_K=images_K)

    def fit(
        self,
        features_ND: Tensor,
        labels_N: Tensor,
        num_classes: int,
        setting: float,
        tau: float | None = None,
        *,
        images_K: Tensor | None = None,
    ) -> Head:
        """See `ClosedFormSpec.fit`; `tau` (None: the first of `taus`) is folded into the bias."""
        tau = self.taus[0] if tau is None else tau
        ((_, head),) = self._fit_entries(features_ND, labels_N, num_classes, [(setting, tau)], images_K)
        return head

    def fit_grid(
        self, features_ND: Tensor, labels_N: Tensor, num_classes: int, *, images_K: Tensor | None = None
    ) -> list[tuple[float, Head]]:
        """See `ClosedFormSpec.fit_grid`; all from one decomposition."""
        return self._fit_entries(features_ND, labels_N, num_classes, self.entries, images_K)

    def chosen(self, tau: float) -> MomentSpec:
        """See `ClosedFormSpec.chosen`."""
        return self.model_copy(update={"taus": (tau,)})

    @property
    def entries(self) -> list[tuple[float, float]]:
        """Every setting with every tau; taus change fastest."""
        return [(setting, tau) for setting in self.grid for tau in self.taus]

    def _fit_entries(
        self, features_ND: Tensor, labels_N: Tensor, num_classes: int, entries: Sequence[tuple[float, float]],
        images_K: Tensor | None,
    ) -> list[tuple[float, Head]]:  # fmt: skip
        labels_N = labels_N.to(features_ND.device)
        classes = classes_of(labels_N, num_classes, images_K)
        heads = _fit(self, lambda: [(features_ND, labels_N)], classes, entries)
        return [(head.setting, head) for head in heads]


class Solved(ABC):
    """One head's problem, decomposed: every setting is cheap from here."""

    adjustment_P: Tensor
    """What one unit of tau subtracts from the scores."""

    @abstractmethod
    def weights(self, setting: float) -> tuple[Tensor, Tensor]:
        """weight_PD and bias_P on standardised features."""

    @abstractmethod
    def diagonals(self, settings: Sequence[float]) -> Tensor:
        """diagonals_SD that stand for the settings in leave-one-out; see `Grid`."""

    @abstractmethod
    def leave_out(self, grid: Grid, standardised_BD: Tensor, positions_B: Tensor) -> tuple[Tensor, Tensor]:
        """predicted_GB, as positions in `present_P`, and losses_GB, each image by the head fitted without it.

        For an image that is alone in its class both may be anything.
        """


def leave_one_out(
    heads: Sequence[ClosedFormSpec],
    features_ND: Tensor,
    labels_N: Tensor,
    num_classes: int,
    *,
    images_K: Tensor | None = None,
) -> list[LeaveOneOut]:
    """`score` of several heads one after the other, their sweeps over the features shared. Args, raises: as there.

    Example:
        >>> from nasimb.heads import parse_head
        >>> from sklearn.datasets import load_digits
        >>> pixels, digits = load_digits(return_X_y=True)
        >>> features_ND, labels_N = torch.tensor(pixels[:500]), torch.tensor(digits[:500])
        >>> heads = [parse_head({"name": "ridge", "grid": [1.0]}), parse_head({"name": "gda", "grid": [0.1, 1.0]})]
        >>> for found in leave_one_out(heads, features_ND, labels_N, 10):
        ...     print(found.name, found.setting, round(float((found.predicted_N == labels_N).double().mean()), 2))
        ridge 1.0 0.95
        gda 0.1 0.97
        gda 1.0 0.89
    """
    labels_N = labels_N.to(features_ND.device)
    sharing = [head for head in heads if isinstance(head, MomentSpec)]
    shared: Iterator[list[LeaveOneOut]] = iter(())
    if sharing:
        classes = classes_of(labels_N, num_classes, images_K)
        shared = iter(_leave_one_out(sharing, lambda: [(features_ND, labels_N)], classes))
    results = []
    for head in heads:
        if isinstance(head, MomentSpec):
            results += next(shared)
        else:
            results += head.score(features_ND, labels_N, num_classes, images_K=images_K)
    return results


def leave_one_out_stream(
    heads: Sequence[MomentSpec], chunks: Chunks, class_counts_K: Tensor, *, images_K: Tensor | None = None
) -> list[LeaveOneOut]:
    """As `leave_one_out`, from two sweeps over features that are never in memory together.

    Args:
        class_counts_K: of the images that the chunks hold, on the device of the features.

    Example:
        >>> from nasimb.heads import parse_head
        >>> from sklearn.datasets import load_digits
        >>> pixels, digits = load_digits(return_X_y=True)
        >>> features_ND, labels_N = torch.tensor(pixels[:500]), torch.tensor(digits[:500])
        >>> chunks = lambda: zip(features_ND.split(100), labels_N.split(100))  # from a disk, or out of a network
        >>> (found,) = leave_one_out_stream(
        ...     [parse_head({"name": "gda", "grid": [0.1]})], chunks, torch.bincount(labels_N)
        ... )
        >>> (whole,) = leave_one_out([parse_head({"name": "gda", "grid": [0.1]})], features_ND, labels_N, 10)
        >>> torch.equal(found.predicted_N, whole.predicted_N)
        True
    """
    return [one for found in _leave_one_out(heads, chunks, Classes.of(class_counts_K, images_K)) for one in found]


def fit_stream(spec: MomentSpec, chunks: Chunks, class_counts_K: Tensor, setting: float, tau: float = 0.0) -> Head:
    """As `MomentSpec.fit`, from one sweep over features that are never in memory together.

    Args:
        class_counts_K: of the images that the chunks hold, on the device of the features.

    Example:
        >>> from nasimb.heads import parse_head
        >>> from sklearn.datasets import load_digits
        >>> pixels, digits = load_digits(return_X_y=True)
        >>> features_ND, labels_N = torch.tensor(pixels[:500]), torch.tensor(digits[:500])
        >>> chunks = lambda: zip(features_ND.split(100), labels_N.split(100))
        >>> head = fit_stream(parse_head("gda"), chunks, torch.bincount(labels_N), setting=0.1)
        >>> whole = parse_head("gda").fit(features_ND, labels_N, 10, setting=0.1)
        >>> torch.allclose(head.weight_KD, whole.weight_KD)
        True
    """
    (head,) = _fit(spec, chunks, Classes.of(class_counts_K), [(setting, tau)])
    return head


def _fit(spec: MomentSpec, chunks: Chunks, classes: Classes, entries: Sequence[tuple[float, float]]) -> Iterator[Head]:
    moments = gather_moments(chunks, classes, [spec.weighting])
    solved = spec.solve(moments)
    for setting, tau in entries:
        weight_PD, bias_P = solved.weights(setting)
        bias_P = bias_P - tau * solved.adjustment_P
        yield Head.from_standardised(weight_PD, bias_P, moments, name=spec.name, setting=setting, tau=tau)


def _leave_one_out(heads: Sequence[MomentSpec], chunks: Chunks, classes: Classes) -> list[list[LeaveOneOut]]:
    moments = gather_moments(chunks, classes, list(dict.fromkeys(head.weighting for head in heads)))
    solved = [head.solve(moments) for head in heads]
    grids = [
        Grid(head.grid, head.taus, problem.diagonals(head.grid)) for head, problem in zip(heads, solved, strict=True)
    ]
    tallies = [_Tally(head, classes) for head in heads]
    start, total = 0, int(classes.counts_P.sum())
    for features_BD, labels_B in chunks():
        if start + len(features_BD) > total:
            raise _changed(f"more than {total}")
        positions_B = classes.positions(labels_B)
        for part in row_parts(len(features_BD), features_BD.shape[1], features_BD.device, FEWEST_ROWS):
            standardised_BD = (features_BD[part] - moments.mean_D).div_(moments.std_D)
            for problem, grid, tally in zip(solved, grids, tallies, strict=True):
                found = problem.leave_out(grid, standardised_BD, positions_B[part])
                tally.put(slice(start + part.start, start + part.stop), positions_B[part], *found)
        start += len(features_BD)
    if start < total:
        raise _changed(str(start))
    return [tally.results() for tally in tallies]


def _changed(found: str) -> DataError:
    return DataError(
        "every call of chunks must give all images again",
        got=f"{found} images in the second sweep",
        do="Pass a function that makes a new iterator at every call, not one that returns the same generator.",
    )


class _Tally:
    """Leave-one-out results of one head, filled in a part at a time."""

    def __init__(self, head: MomentSpec, classes: Classes) -> None:
        self._head, self._classes = head, classes
        self._entries = head.entries
        device = classes.counts_P.device
        shape = len(self._entries), int(classes.counts_P.sum())
        self._predicted_GN = torch.full(shape, NO_PREDICTION, dtype=torch.int64, device=device)
        self._losses_G = torch.zeros(len(self._entries), dtype=torch.float64, device=device)
        # The mean over classes of the mean over their images; 0 for the image that cannot be left out.
        judged_P = classes.counts_P > 1
        self._weights_P = torch.where(judged_P, 1.0 / (judged_P.sum() * classes.counts_P), 0.0)

    def put(self, part: slice, positions_B: Tensor, predicted_GB: Tensor, losses_GB: Tensor) -> None:
        weights_B = self._weights_P[positions_B]
        judged_B = weights_B > 0
        self._predicted_GN[:, part] = torch.where(judged_B, self._classes.present_P[predicted_GB], NO_PREDICTION)
        # `where`, not only a product with 0: the loss of an image that cannot be left out may be anything.
        self._losses_G += torch.where(judged_B, losses_GB, 0.0) @ weights_B

    def results(self) -> list[LeaveOneOut]:
        predicted_GN, losses = self._predicted_GN.cpu(), self._losses_G.tolist()
        return [
            LeaveOneOut(self._head.name, setting, predicted_N, loss, tau)
            for (setting, tau), predicted_N, loss in zip(self._entries, predicted_GN, losses, strict=True)
        ]
