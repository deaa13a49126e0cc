"""The iterative head: any loss, minimised over all images at once, its penalty chosen by folds.

Shapes: N images, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt, SerializeAsAny, field_validator
from torch import Tensor

from nasimb.heads.folds import OutOfFold, out_of_fold, stratified_folds
from nasimb.heads.head import Head
from nasimb.heads.minimise import Solution, minimise, prepare
from nasimb.heads.standardise import standardise
from nasimb.losses import BalancedSoftmaxSpec, LossSpec, parse_loss
from nasimb.spec import Spec


class LogisticSpec(Spec):
    """Options of the logistic head.

    Attributes:
        loss: by name or mapping, or as a `LossSpec`.
        penalties: what `cross_validate` tries; see `nasimb.heads.minimise` for the objective. They mean nothing to a
            cosine head, which has the one setting 0.
        folds: of `cross_validate`.
        max_iterations: of L-BFGS, over all phases of the loss. Bounds the time of many classes under a small penalty.
        tolerance: relative decrease of the objective, an iteration, below which L-BFGS stops. By the default the
            balanced accuracy of CIFAR-10-LT and plankton features has long settled; 1e-12 goes on to the optimum.
    """

    loss: SerializeAsAny[LossSpec] = BalancedSoftmaxSpec()
    penalties: Annotated[tuple[Annotated[float, Field(ge=0.0)], ...], Field(min_length=1)] = (
        1e-5, 1e-4, 1e-3, 1e-2, 1e-1,
    )  # fmt: skip
    folds: int = Field(default=5, ge=2)
    max_iterations: PositiveInt = 150
    tolerance: float = Field(default=3e-5, ge=0.0)

    @field_validator("loss", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return parse_loss(value) if isinstance(value, str | Mapping) else value

    @property
    def name(self) -> str:
        """That of the loss."""
        return self.loss.name

    @property
    def grid(self) -> tuple[float, ...]:
        """Settings that `cross_validate` tries, from the largest penalty (where the next may start) to the smallest."""
        return (0.0,) if self.loss.cosine else tuple(sorted(set(self.penalties), reverse=True))

    def fit(self, features_ND: Tensor, labels_N: Tensor, num_classes: int, setting: float) -> Head:
        """The head fitted to all images with the penalty `setting`, reached from the larger ones of `grid`.

        The way there is the one that `cross_validate` goes: L-BFGS stops early, so another start is another head.

        Raises:
            WorkError: a feature is not finite.
            DataError: fewer than two classes have images.
        """
        larger = [penalty for penalty in self.grid if penalty > setting]
        start: Solution | None = None
        for penalty in (*larger, setting):
            head, start = self._fit(features_ND, labels_N, num_classes, penalty, start)
        return head

    def cross_validate(
        self,
        features_ND: Tensor,
        labels_N: Tensor,
        num_classes: int,
        *,
        seed: int,
        deadline: Callable[[], bool] = lambda: False,
    ) -> list[OutOfFold]:
        """Out-of-fold predictions for every setting of `grid`.

        Args:
            seed: of the folds.
            deadline: asked before every fit; once true, the settings finished so far are returned (perhaps none).

        Raises: as `fit`.
        """
        fold_N = torch.from_numpy(stratified_folds(labels_N.cpu().numpy(), self.folds, seed))
        labels_N = labels_N.to(features_ND.device)
        kept = [(fold_N != fold).nonzero().squeeze(1).to(features_ND.device) for fold in range(self.folds)]
        starts: list[Solution | None] = [None] * self.folds
        finished: list[OutOfFold] = []
        for setting in self.grid:
            heads = []
            for fold, positions in enumerate(kept):
                if deadline():
                    return finished
                images_MD, labels_M = features_ND[positions], labels_N[positions]
                head, starts[fold] = self._fit(images_MD, labels_M, num_classes, setting, starts[fold])
                heads.append(head)
            finished.append(out_of_fold(features_ND, labels_N, fold_N, heads))
        return finished

    def _fit(
        self, features_ND: Tensor, labels_N: Tensor, num_classes: int, penalty: float, start: Solution | None
    ) -> tuple[Head, Solution]:
        if self.loss.cosine:
            penalty = 0.0
        problem = standardise(features_ND, labels_N, num_classes)
        prepared = prepare(problem, cosine=self.loss.cosine)
        phases = self.loss.phases(problem.counts_P)
        solution = minimise(
            prepared, phases, penalty, max_iterations=self.max_iterations, tolerance=self.tolerance, start=start
        )
        head = Head.from_standardised(
            solution.weight_PD, solution.bias_P, problem, name=self.name, setting=penalty, scale=self.loss.cosine_scale
        )
        return head, solution
