"""The contract of a closed-form head: scored by exact leave-one-out, fitted in one solve.

Shapes: N images, D features, K classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from nasimb.heads.head import Head
from nasimb.heads.standardise import Standardised
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
    """

    name: str
    setting: float
    predicted_N: Tensor
    balanced_loss: float


class ClosedFormSpec(Spec, ABC):
    """Options of a closed-form head.

    Attributes:
        grid: settings that `score` tries, all from one decomposition.
    """

    name: str
    grid: tuple[float, ...]

    @abstractmethod
    def score(self, features_ND: Tensor, labels_N: Tensor, num_classes: int) -> list[LeaveOneOut]:
        """Leave-one-out predictions for every setting of the grid, equal to as many refits as there are images.

        What stays fixed while an image is left out: the class weights and the standardisation.

        Raises:
            WorkError: a feature is not finite.
            DataError: fewer than two classes have images.
        """

    @abstractmethod
    def fit(self, features_ND: Tensor, labels_N: Tensor, num_classes: int, setting: float) -> Head:
        """The head fitted to all images. Raises as `score`."""


class Tally:
    """Leave-one-out results of every setting, filled in a part at a time."""

    def __init__(self, problem: Standardised, settings: int) -> None:
        self._problem = problem
        shape = (settings, len(problem.features_ND))
        self._predicted_GN = torch.empty(shape, dtype=torch.int64, device=problem.positions_N.device)
        self._losses_GN = torch.empty(shape, dtype=torch.float64, device=problem.positions_N.device)

    def put(self, index: int, part: slice, scores_BP: Tensor, losses_B: Tensor) -> None:
        """The scores (largest wins) and losses of one setting and part of the images."""
        self._predicted_GN[index, part] = self._problem.present_P[scores_BP.argmax(1)]
        self._losses_GN[index, part] = losses_B

    def results(self, name: str, settings: tuple[float, ...]) -> list[LeaveOneOut]:
        """One entry a setting."""
        problem = self._problem
        alone_N = problem.counts_P[problem.positions_N] < 2
        self._predicted_GN[:, alone_N] = NO_PREDICTION
        weights_N = torch.where(alone_N, 0.0, 1.0 / problem.counts_P[problem.positions_N])
        # `where`, not a product with 0: the loss of an image that cannot be left out may be anything.
        losses_G = torch.where(alone_N, 0.0, self._losses_GN) @ weights_N / weights_N.sum()
        predicted_GN = self._predicted_GN.cpu()
        return [
            LeaveOneOut(name, setting, predicted_GN[index], float(losses_G[index]))
            for index, setting in enumerate(settings)
        ]
