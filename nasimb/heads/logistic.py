"""The iterative head: any loss, minimised over all images at once, its penalty chosen by folds.

Where all images at once take too much memory or time, batches of them: `nasimb.heads.stacked`.

Shapes: N images, D features, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt, SerializeAsAny, field_validator
from torch import Tensor

from nasimb.heads.checkpoint import Checkpoint
from nasimb.heads.folds import OutOfFold, out_of_fold, stratified_folds
from nasimb.heads.head import Head
from nasimb.heads.lbfgs import State
from nasimb.heads.minimise import Prepared, Solution, Watch, check_solution, minimise, prepare
from nasimb.heads.stacked import StackedSpec, full_batch_fits, train_stacked
from nasimb.heads.standardise import standardise
from nasimb.losses import BalancedSoftmaxSpec, LossSpec, parse_loss
from nasimb.spec import Spec

WHERE = "where"
"""In a checkpoint: the penalty, as its position, and the stage of its minimisation."""

MINIBATCH = StackedSpec()
"""Where the full batch does not fit: see `nasimb.heads.stacked.full_batch_fits`."""

Progress = Callable[[float, float], None]
"""(share of all iterations that may be needed, objective); many fits end long before the last."""


class LogisticSpec(Spec):
    """Options of the logistic head.

    Attributes:
        loss: by name or mapping, or as a `LossSpec`.
        penalties: what `cross_validate` tries; see `nasimb.heads.minimise` for the objective. They mean nothing to a
            cosine head, which has the one setting 0.
        folds: of `cross_validate`.
        max_iterations: of L-BFGS, over all phases of the loss. Bounds the time of many classes under a small penalty.
        tolerance: L-BFGS stops where it estimates, from the gradient and the curvature it remembers, that the objective
            exceeds its minimum by no more than this share. The estimate is low: the true excess may be 10 to 50 times
            as large, most under small penalties. By the default the balanced accuracy of CIFAR-10-LT and plankton
            features has long settled; 1e-12 goes on to the optimum, in float64.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> pixels, digits = load_digits(n_class=3, return_X_y=True)
        >>> features_ND, labels_N = torch.tensor(pixels[:200]), torch.tensor(digits[:200])
        >>> spec = LogisticSpec(loss={"name": "logit_adjusted", "tau": 1.0}, penalties=(0.01, 0.1))
        >>> tried = spec.cross_validate(features_ND, labels_N, 3, seed=0)
        >>> [(one.setting, bool((one.predicted_N == labels_N).double().mean() > 0.95)) for one in tried]
        [(0.1, True), (0.01, True)]
        >>> spec.fit(features_ND, labels_N, 3, setting=0.01).name
        'logit_adjusted'
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

    def fit(
        self,
        features_ND: Tensor,
        labels_N: Tensor,
        num_classes: int,
        setting: float,
        *,
        checkpoint: Checkpoint | None = None,
        progress: Progress = lambda share, objective: None,
    ) -> Head:
        """The head fitted to all images with the penalty `setting`, reached from the larger ones of `grid`.

        The way there is the one that `cross_validate` goes: L-BFGS stops early, so another start is another head.

        Args:
            features_ND: of any float type; may lie in a memory map (`nasimb.heads.features.mapped`), which is read a
                part at a time.
            checkpoint: saves the fit now and then; one that was interrupted goes on to the very same head.
            progress: called after every iteration. Batches have no objective to tell: NaN.

        Raises:
            WorkError: a feature is not finite.
            DataError: fewer than two classes have images.
            ResumeError: the checkpoint is of another fit.
        """
        if not self._fits(features_ND, labels_N):
            told = lambda share: progress(share, math.nan)  # noqa: E731
            return self._in_batches(features_ND, labels_N, num_classes, (setting,), checkpoint, told)[0]
        larger = () if self.loss.cosine else tuple(penalty for penalty in self.grid if penalty > setting)
        walk = _Walk.of(self, features_ND, labels_N, num_classes, (*larger, 0.0 if self.loss.cosine else setting))
        for head in walk.heads(checkpoint=checkpoint, progress=progress):  # noqa: B007  # the last is the one asked for
            pass
        return head

    def walk(
        self, features_ND: Tensor, labels_N: Tensor, num_classes: int, between: Callable[[], None] = lambda: None
    ) -> Iterator[Head]:
        """The heads of `fit` at every setting of `grid`, each warm-started from the one before.

        Where the full batch does not fit, all settings are trained in one pass.

        Args:
            between: called before every setting, or in batches after every one; what it raises ends the walk.

        Raises: as `fit`.
        """
        if self._fits(features_ND, labels_N):
            yield from _Walk.of(self, features_ND, labels_N, num_classes, self.grid).heads(between=between)
            return
        between()
        yield from self._in_batches(features_ND, labels_N, num_classes, self.grid, None, lambda share: between())

    def cross_validate(
        self,
        features_ND: Tensor,
        labels_N: Tensor,
        num_classes: int,
        *,
        seed: int,
        between: Callable[[], None] = lambda: None,
    ) -> list[OutOfFold]:
        """Out-of-fold predictions for every setting of `grid`.

        Args:
            seed: of the folds.
            between: called before every fit; what it raises ends them.

        Raises: as `fit`.
        """
        fold_N = torch.from_numpy(stratified_folds(labels_N.cpu().numpy(), self.folds, seed))
        labels_N = labels_N.to(features_ND.device)
        heads_F: list[list[Head]] = []
        for fold in range(self.folds):
            kept = (fold_N != fold).nonzero().squeeze(1).to(features_ND.device)
            heads_F.append(list(self.walk(features_ND[kept], labels_N[kept], num_classes, between)))
        return [out_of_fold(features_ND, labels_N, fold_N, heads) for heads in zip(*heads_F, strict=True)]

    def _fits(self, features_ND: Tensor, labels_N: Tensor) -> bool:
        images, dimension = features_ND.shape
        return full_batch_fits(images, dimension, int((torch.bincount(labels_N) > 0).sum()))

    def _in_batches(
        self, features_ND: Tensor, labels_N: Tensor, num_classes: int, settings: tuple[float, ...],
        checkpoint: Checkpoint | None, progress: Callable[[float], None],
    ) -> list[Head]:  # fmt: skip
        """At every setting, by the learning rate that minimises its objective best."""
        spec = MINIBATCH.model_copy(update={"weight_decays": settings})
        found = train_stacked(
            spec, [self.loss], features_ND, labels_N, num_classes, checkpoint=checkpoint, progress=progress
        )
        heads = []
        for decay in (0.0,) if self.loss.cosine else settings:
            best = min((one for one in found if one.weight_decay == decay), key=lambda one: one.objective)
            check_solution(best.objective, best.head.weight_KD, best.head.bias_K)
            heads.append(best.head)
        return heads


@dataclass(frozen=True, eq=False)
class _Walk:
    """One set of images, and the penalties from the largest to the smallest."""

    spec: LogisticSpec
    prepared: Prepared
    penalties: tuple[float, ...]

    @classmethod
    def of(
        cls, spec: LogisticSpec, features_ND: Tensor, labels_N: Tensor, num_classes: int, penalties: tuple[float, ...]
    ) -> _Walk:
        problem = standardise(features_ND, labels_N, num_classes)
        return cls(spec, prepare(problem, cosine=spec.loss.cosine), penalties)

    def heads(
        self,
        *,
        between: Callable[[], None] = lambda: None,
        checkpoint: Checkpoint | None = None,
        progress: Progress = lambda share, objective: None,
    ) -> Iterator[Head]:
        spec, problem = self.spec, self.prepared.problem
        reached, resumed = (0, None) if checkpoint is None else self._resumed(checkpoint)
        solution: Solution | None = None
        for position in range(reached, len(self.penalties)):
            between()
            solution = minimise(
                self.prepared,
                spec.loss.phases(problem.counts_P),
                self.penalties[position],
                max_iterations=spec.max_iterations,
                tolerance=spec.tolerance,
                start=solution,
                resumed=resumed,
                watch=self._watch(position, checkpoint, progress),
            )
            resumed = None
            yield Head.from_standardised(
                solution.weight_PD,
                solution.bias_P,
                problem,
                name=spec.name,
                setting=self.penalties[position],
                scale=spec.loss.cosine_scale,
                solver="full batch",
                gradient_norm=solution.gradient_norm,
            )
        if checkpoint is not None:
            checkpoint.remove()

    def _watch(self, position: int, checkpoint: Checkpoint | None, progress: Progress) -> Watch:
        """What follows an iteration under one penalty."""

        def watch(stage: int, state: State, share: float) -> None:
            if checkpoint is not None:
                where = torch.tensor([position, stage])
                checkpoint.offer(self._identity(), lambda: {WHERE: where, **state.tensors()})
            progress((position + share) / len(self.penalties), state.at.value)

        return watch

    def _resumed(self, checkpoint: Checkpoint) -> tuple[int, tuple[int, State] | None]:
        """Where in the penalties, at which stage and with which state."""
        tensors = checkpoint.load(self._identity())
        if tensors is None:
            return 0, None
        position, stage = tensors.pop(WHERE).tolist()
        return position, (stage, State.from_tensors(tensors, self.prepared.rotation_DD.device))

    def _identity(self) -> dict[str, Any]:
        problem = self.prepared.problem
        digest = sha256()
        for tensor in (problem.positions_N, problem.mean_D, problem.std_D, problem.means_PD):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return {"head": self.spec.model_dump(mode="json"), "penalties": self.penalties, "data": digest.hexdigest()}
