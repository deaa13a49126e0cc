"""Many heads in one pass over the features: where the full batch of `nasimb.heads.minimise` takes too long.

Stochastic gradient descent with Nesterov momentum and a cosine schedule on the same objective. Heads of one loss lie in
one matrix, so a batch of images is read and multiplied once for a whole grid of learning rates and weight decays.
Every phase of a loss has its own cosine schedule, so that its first steps can still go somewhere. Under a weight decay
w the weights' learning rate r is r / (1 + r w): no decay, however large, makes a step too long.

A head has converged once the norm of its mean gradient over an epoch is a small share of that over the first epoch of
its last phase; then it stays as it is. Nothing else tells when to stop, for a noisy objective has no duality gap to
watch.

Shapes: N images, B images of a batch, D features, P classes with images, H heads of one loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import product
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor
from torch.nn.functional import normalize

from nasimb.heads.checkpoint import Checkpoint
from nasimb.heads.folds import ROWS, balanced_log_loss
from nasimb.heads.head import Head
from nasimb.heads.minimise import CURVATURE_PAIRS
from nasimb.heads.standardise import Standardised, standardise
from nasimb.losses import LossSpec
from nasimb.losses.base import Phase
from nasimb.metrics import measure
from nasimb.spec import Spec

FULL_BATCH_BYTES = 3 * 2**30
"""Of the memory that L-BFGS keeps: pairs of steps and changes, and a handful of vectors."""
FULL_BATCH_NUMBERS = 10**12
"""Images x features x classes. At 4 operations each, an iteration takes a minute on a few CPU cores."""

STEP = "step"


def full_batch_fits(images: int, dimension: int, classes: int) -> bool:
    """The one rule by which a logistic head is fitted by full-batch L-BFGS; otherwise, by `train_stacked`."""
    vectors = 2 * CURVATURE_PAIRS + 8
    few_bytes = 4 * vectors * classes * (dimension + 1) <= FULL_BATCH_BYTES
    return few_bytes and images * dimension * classes <= FULL_BATCH_NUMBERS


Positive = Annotated[float, Field(gt=0.0)]


class StackedSpec(Spec):
    """Options of one pass.

    Attributes:
        learning_rates: every loss is trained with each, on standardised features.
        weight_decays: each with every learning rate; the penalty of `nasimb.heads.minimise`. Nothing to a cosine head.
        epochs: of the schedule; heads may end earlier, see `tolerance`.
        fewest_steps: more epochs where these would have fewer batches. On 9,600 images of 200 classes (penalty 1e-4)
            the best of 380 steps was 25 % above the minimum, that of 2,000 1 %.
        tolerance: share of the gradient norm of the last phase's first epoch at which a head has converged.
        seed: of the order of images.
    """

    learning_rates: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.3, 1.0, 3.0)
    weight_decays: Annotated[tuple[Annotated[float, Field(ge=0.0)], ...], Field(min_length=1)] = (1e-4,)
    epochs: PositiveInt = 20
    fewest_steps: NonNegativeInt = 2000
    batch_size: PositiveInt = 512
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    tolerance: float = Field(default=1e-2, ge=0.0)
    seed: int = 0

    def epochs_of(self, batches: int) -> int:
        """The epochs of a pass with so many batches in each."""
        return max(self.epochs, math.ceil(self.fewest_steps / batches))


@dataclass(frozen=True, eq=False)
class StackedHead:
    """One head of the stack and how it did on the images that decide.

    Attributes:
        epochs: before it had converged, or all.
        objective: of the images trained on, by the last phase of the loss; infinite for a head that diverged.
        balanced_loss: infinite for a head that diverged.
    """

    head: Head
    loss: str
    learning_rate: float
    weight_decay: float
    epochs: int
    objective: float
    balanced_accuracy: float
    balanced_loss: float


def train_stacked(
    spec: StackedSpec,
    losses: Sequence[LossSpec],
    features_ND: Tensor,
    labels_N: Tensor,
    num_classes: int,
    *,
    held_out: tuple[Tensor, Tensor] | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> list[StackedHead]:
    """Every loss at every learning rate and weight decay, the best on `held_out` first.

    The order is by balanced accuracy, ties by the balanced log loss; without `held_out`, by the balanced log loss of
    the images trained on. Equal seeds give equal heads, interrupted (with a checkpoint) or not.

    Args:
        held_out: features_MD and labels_M that no head is trained on.
        checkpoint: saves the pass now and then; an interrupted one goes on.
        progress: called after every batch with the share of the pass that is over.

    Raises:
        WorkError: a feature is not finite.
        DataError: fewer than two classes have images.
        ResumeError: the checkpoint is of another pass.
    """
    problem = standardise(features_ND, labels_N, num_classes)
    groups = [_Group.of(spec, loss, problem) for loss in losses]
    _train(spec, groups, problem, checkpoint, progress)
    judged_MD, judged_M = held_out or (features_ND, labels_N)
    counts_K = torch.bincount(labels_N.cpu(), minlength=num_classes)
    found = [one for group in groups for one in group.heads(problem, judged_MD, judged_M, counts_K)]
    if held_out is None:
        return sorted(found, key=lambda one: one.balanced_loss)
    return sorted(found, key=lambda one: (-one.balanced_accuracy, one.balanced_loss))


def _train(
    spec: StackedSpec, groups: Sequence[_Group], problem: Standardised, checkpoint: Checkpoint | None,
    progress: Callable[[float], None],
) -> None:  # fmt: skip
    images, device = len(problem.features_ND), problem.features_ND.device
    batches = math.ceil(images / spec.batch_size)
    epochs = spec.epochs_of(batches)
    identity = _identity(spec, groups, problem)
    done = 0
    if checkpoint is not None and (saved := checkpoint.load(identity)) is not None:
        done = int(saved[STEP])
        for number, group in enumerate(groups):
            group.restore({name: saved[f"{number}.{name}"].to(device, copy=True) for name in group.state})
    generator = torch.Generator().manual_seed(spec.seed)
    for epoch in range(epochs):
        order_N = torch.randperm(images, generator=generator).to(device)
        for batch in range(batches):
            step = epoch * batches + batch + 1
            if step <= done:
                continue
            rows_B = order_N[batch * spec.batch_size : (batch + 1) * spec.batch_size]
            images_BD = ((problem.features_ND[rows_B].double() - problem.mean_D) / problem.std_D).float()
            share = (step - 1) / (epochs * batches)
            for group in groups:
                group.step(images_BD, problem.positions_N[rows_B], share)
            if batch == batches - 1:
                for group in groups:
                    group.end_epoch(epoch / epochs, batches)
            if checkpoint is not None:
                checkpoint.offer(identity, partial(_tensors, groups, step))
            progress(step / (epochs * batches))
        if not any(bool(group.state["active_H"].any()) for group in groups):
            break
    if checkpoint is not None:
        checkpoint.remove()


def _tensors(groups: Sequence[_Group], step: int) -> dict[str, Tensor]:
    states = {f"{number}.{name}": value for number, group in enumerate(groups) for name, value in group.state.items()}
    return {STEP: torch.tensor(step), **states}


@dataclass(frozen=True, eq=False)
class _Group:
    """The heads of one loss.

    Attributes:
        grid: (learning rate, weight decay) of each head.
        phases: of the loss.
        state: weight_HPD, bias_HP and their momenta; the gradient summed over this epoch; the norm of the mean gradient
            of the last phase's first epoch, and of the epoch before; which heads still move, and their epochs so far.
    """

    loss: LossSpec
    spec: StackedSpec
    grid: tuple[tuple[float, float], ...]
    phases: tuple[Phase, ...]
    state: dict[str, Tensor]

    @classmethod
    def of(cls, spec: StackedSpec, loss: LossSpec, problem: Standardised) -> _Group:
        decays = (0.0,) if loss.cosine else spec.weight_decays
        grid = tuple(product(spec.learning_rates, decays))
        heads, (present, dimension) = len(grid), problem.means_PD.shape
        device = problem.features_ND.device
        weight_HPD = torch.zeros(heads, present, dimension, device=device)
        if loss.cosine:  # 0 has no direction
            weight_HPD += normalize(problem.means_PD, dim=1).float()
        state = {
            "weight_HPD": weight_HPD,
            "bias_HP": torch.zeros(heads, present, device=device),
            "first_H": torch.full((heads,), math.nan, device=device),
            "norm_H": torch.full((heads,), math.nan, device=device),
            "active_H": torch.ones(heads, device=device),
            "epochs_H": torch.zeros(heads, device=device),
        }
        for kind in ("momentum", "sum"):
            state[f"weight_{kind}_HPD"] = torch.zeros_like(state["weight_HPD"])
            state[f"bias_{kind}_HP"] = torch.zeros_like(state["bias_HP"])
        return cls(loss, spec, grid, loss.phases(problem.counts_P), state)

    def restore(self, saved: dict[str, Tensor]) -> None:
        self.state.update(saved)

    def step(self, images_BD: Tensor, positions_B: Tensor, share: float) -> None:
        """One batch, when this share of the schedule is over."""
        weight_HPD = self.state["weight_HPD"].detach().requires_grad_(True)
        bias_HP = self.state["bias_HP"].detach().requires_grad_(True)
        logits_BHP = self._logits(images_BD, weight_HPD, bias_HP)
        heads = len(self.grid)
        labels_B = positions_B[:, None].expand(-1, heads).flatten()
        phase, over = self._phase(share)
        # A loss is a mean over images: times the heads it is the sum of every head's own mean.
        value = heads * phase.loss(logits_BHP.flatten(0, 1), labels_B)
        gradients = torch.autograd.grad(value, (weight_HPD, bias_HP), allow_unused=True, materialize_grads=True)
        rates_H, decays_H = torch.tensor(self.grid, device=images_BD.device).T
        scale_H = self.state["active_H"] * 0.5 * (1.0 + math.cos(math.pi * over))
        for name, shape, gradient in zip(("weight", "bias"), ("HPD", "HP"), gradients, strict=True):
            values = self.state[f"{name}_{shape}"]
            per_head = (-1,) + (1,) * (values.ndim - 1)
            steps_H = scale_H * rates_H
            if name == "weight":
                gradient = gradient + decays_H.view(per_head) * values
                steps_H = steps_H / (1.0 + rates_H * decays_H)
            self.state[f"{name}_sum_{shape}"].add_(gradient)
            momentum = self.state[f"{name}_momentum_{shape}"].mul_(self.spec.momentum).add_(gradient)
            values -= steps_H.view(per_head) * (gradient + self.spec.momentum * momentum)

    def end_epoch(self, began: float, batches: int) -> None:
        """Heads whose mean gradient has become small stay as they are, if all of this epoch was of the last phase.

        Args:
            began: the share of the schedule that was over when the epoch began.
        """
        state = self.state
        squares_H = state["weight_sum_HPD"].square().sum((1, 2)) + state["bias_sum_HP"].square().sum(1)
        norm_H = squares_H.sqrt() / batches
        state["epochs_H"] += state["active_H"]
        # Of a head that stays as it is the norm goes on: that of its last own epoch tells no more.
        state["norm_H"] = norm_H
        if self._phase(began)[0] is self.phases[-1]:
            first_H = torch.where(state["first_H"].isnan(), norm_H, state["first_H"])
            moving_H = norm_H > self.spec.tolerance * first_H  # false for a head that diverged
            state.update(first_H=first_H, active_H=state["active_H"] * moving_H)
        state["weight_sum_HPD"].zero_()
        state["bias_sum_HP"].zero_()

    def heads(
        self, problem: Standardised, judged_MD: Tensor, judged_M: Tensor, counts_K: Tensor
    ) -> Iterator[StackedHead]:
        """Each with its standardisation folded in, judged on these images."""
        for index, (rate, decay) in enumerate(self.grid):
            weight_PD, bias_P = (self.state[name][index].double() for name in ("weight_HPD", "bias_HP"))
            if self.loss.cosine:
                weight_PD = normalize(weight_PD, dim=1)
            head = Head.from_standardised(
                weight_PD, bias_P, problem,
                name=self.loss.name, setting=decay, scale=self.loss.cosine_scale, solver="minibatch",
                gradient_norm=float(self.state["norm_H"][index]),
            )  # fmt: skip
            starts = range(0, len(judged_MD), ROWS)
            logits_MK = torch.cat([head.logits(judged_MD[start : start + ROWS]).cpu() for start in starts])
            accuracy, loss = -math.inf, math.inf
            if torch.isfinite(logits_MK).all():
                accuracy = measure(logits_MK.argmax(1), judged_M.cpu(), counts_K).balanced_accuracy
                loss = balanced_log_loss(logits_MK, judged_M.cpu())
            epochs = int(self.state["epochs_H"][index])
            objective = self._objective(problem, index)
            yield StackedHead(head, self.loss.name, rate, decay, epochs, objective, accuracy, loss)

    def _objective(self, problem: Standardised, index: int) -> float:
        weight_1PD, bias_1P = (self.state[name][index : index + 1] for name in ("weight_HPD", "bias_HP"))
        value = 0.5 * self.grid[index][1] * float(weight_1PD.double().square().sum())
        for part, standardised_BD in problem.parts():
            logits_BP = self._logits(standardised_BD.float(), weight_1PD, bias_1P)[:, 0].double()
            share = len(logits_BP) / len(problem.positions_N)
            value += share * float(self.phases[-1].loss(logits_BP, problem.positions_N[part]))
        return value if math.isfinite(value) else math.inf

    def _logits(self, images_BD: Tensor, weight_HPD: Tensor, bias_HP: Tensor) -> Tensor:
        if self.loss.cosine:
            directions_BD = normalize(images_BD, dim=1)
            return (directions_BD @ normalize(weight_HPD, dim=2).flatten(0, 1).T).view(-1, *bias_HP.shape)
        return torch.addmm(bias_HP.flatten(), images_BD, weight_HPD.flatten(0, 1).T).view(-1, *bias_HP.shape)

    def _phase(self, share: float) -> tuple[Phase, float]:
        """The phase when this share of the schedule is over, and how much of the phase is."""
        since = 0.0
        for phase in self.phases[:-1]:
            if share < since + phase.share:
                return phase, (share - since) / phase.share
            since += phase.share
        return self.phases[-1], min(1.0, (share - since) / (1.0 - since))


def _identity(spec: StackedSpec, groups: Sequence[_Group], problem: Standardised) -> dict[str, Any]:
    digest = sha256()
    for tensor in (problem.positions_N, problem.mean_D, problem.std_D, problem.means_PD):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    losses = [group.loss.model_dump(mode="json") for group in groups]
    return {"spec": spec.model_dump(mode="json"), "losses": losses, "data": digest.hexdigest()}
