"""Full-batch minimisation of a head's loss by L-BFGS: no learning rate, no order of images, no seed.

    minimise over W, b:   loss(x W^T + b, y) + penalty ||W||^2 / 2           (linear; the bias is not penalised)
    minimise over W:      loss(cos(x, W_k), y)                               (cosine; the length of W means nothing)

over standardised features x and the classes that have images. With a loss that is a mean over N images the penalty is
scikit-learn's 1 / (C N).

L-BFGS starts every direction from a diagonal that is close to the Hessian. The Hessian of class k is about
c_k X^T X / N + penalty, with c_k the mean curvature of the loss in that logit: for a softmax with probabilities p the
mean of w p_k (1 - p_k), which is nearly what the other classes' images pull at the logit, and so comes with the
gradient. The mean of c follows the fit, from where all classes are alike to where few images still pull; the ratios of
the c_k stay those at logits 0 (following them too took three times the iterations, for they change with every step).
The variables are the weights in the eigenbasis of X^T X / N = Q diag(l) Q^T, and the diagonal is c_k l + penalty. Q and
l only steer, so a part of the images and float32 are enough for them; the features themselves are not rotated.

Iterations run in float32, with the parts' losses added up in float64. A tolerance that float32 cannot resolve is then
met in float64, from where float32 ended and with what it remembers.

Shapes: N images, B images of one part, D features, P classes with images, V = P (D + 1) variables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nasimb.errors import NotFiniteError
from nasimb.heads.lbfgs import At, State, descend
from nasimb.heads.standardise import Standardised, parts
from nasimb.losses.base import Loss, Phase

CURVATURE_PAIRS = 20
GRADIENT_TOLERANCE = 1e-7
"""L-BFGS also stops where no entry of the gradient, in the scaled variables, is larger."""

FLOAT32_TOLERANCE = 1e-6
"""Of the objective: float32 goes so far, a smaller tolerance takes float64 from there."""

SMALLEST_CURVATURE = 1e-8
"""For features without variance, where there is no penalty either."""

SHORTEST = 1e-12
"""Length of a cosine head's weight that still has a direction."""

MOMENT_IMAGES = 8
"""Images, for each feature, whose second moment is taken. Eigenvalues are then right within a factor of two."""

KEPT_BYTES = 2**30
"""Standardised features are kept in float32 up to this size; more are standardised anew in every iteration."""

LONG_PARTS = 4
"""Parts here are longer than those of closed forms, which have more arrays and all in float64."""

Watch = Callable[[int, State, float], None]
"""(stage, state, share of all iterations) after every iteration; a stage is a phase of the loss in one precision."""


@dataclass(frozen=True, eq=False)
class Solution:
    """weight_PD and bias_P (float64) on standardised features, the objective and the norm of its gradient there."""

    weight_PD: Tensor
    bias_P: Tensor
    objective: float
    iterations: int
    gradient_norm: float


@dataclass(frozen=True, eq=False)
class Prepared:
    """Standardised features with the eigenbasis of their second moment, ready for any penalty and any loss.

    Attributes:
        centre_D: what is subtracted from standardised features (linear; 0 for cosine, where their length becomes 1).
        rotation_DD, moments_D: Q and l.
        kept_ND: the features so changed, in float32; None where they are too large.
    """

    problem: Standardised
    cosine: bool
    centre_D: Tensor
    rotation_DD: Tensor
    moments_D: Tensor
    kept_ND: Tensor | None

    @property
    def num_present(self) -> int:
        """P."""
        return len(self.problem.present_P)

    def parts(self) -> list[slice]:
        """Consecutive parts of the images."""
        columns = max(self.num_present, len(self.moments_D))
        device = self.problem.features_ND.device
        return parts(len(self.problem.features_ND), max(1, columns // LONG_PARTS), device)

    def images(self, part: slice, dtype: torch.dtype) -> Tensor:
        """Centred or normalised images_BD of one part."""
        if self.kept_ND is not None and dtype == self.kept_ND.dtype:
            return self.kept_ND[part]
        return _changed(self.problem, self.problem.features_ND[part], self.centre_D, cosine=self.cosine).to(dtype)


def prepare(problem: Standardised, *, cosine: bool) -> Prepared:
    """What every penalty and loss of this kind of head shares."""
    images, dimension = problem.features_ND.shape
    centre_D = torch.zeros_like(problem.mean_D)
    if not cosine:
        centre_D = problem.counts_P @ problem.means_PD / images
    kept_ND = None
    if 4 * problem.features_ND.numel() <= KEPT_BYTES:
        kept_ND = torch.empty(problem.features_ND.shape, dtype=torch.float32, device=problem.features_ND.device)
        for part in parts(images, dimension, kept_ND.device):
            kept_ND[part] = _changed(problem, problem.features_ND[part], centre_D, cosine=cosine)
    stride = max(1, images // (MOMENT_IMAGES * dimension))
    if kept_ND is None:
        sample_MD = _changed(problem, problem.features_ND[::stride], centre_D, cosine=cosine).float()
    else:
        sample_MD = kept_ND[::stride]
    moments_D, rotation_DD = torch.linalg.eigh(sample_MD.T @ sample_MD / len(sample_MD))
    return Prepared(problem, cosine, centre_D, rotation_DD, moments_D.clamp_min(0.0), kept_ND)


def minimise(
    prepared: Prepared,
    phases: Sequence[Phase],
    penalty: float,
    *,
    max_iterations: int,
    tolerance: float,
    start: Solution | None = None,
    resumed: tuple[int, State] | None = None,
    watch: Watch = lambda stage, state, share: None,
) -> Solution:
    """The solution of every phase from that of the one before; the first begins at `start`, or afresh.

    Args:
        max_iterations: of all phases, each of which has its share of them.
        tolerance: a phase ends once its objective is above the minimum by an estimated share of this, or less; see
            `nasimb.heads.lbfgs.descend`.
        resumed: what `watch` was told last, to go on from there.
        watch: told of every iteration.

    Raises:
        NotFiniteError: the objective, or a weight, has left the range of numbers.
    """
    precisions = [torch.float32] if tolerance >= FLOAT32_TOLERANCE else [torch.float32, torch.float64]
    solution = start or _fresh(prepared)
    for stage, (phase, dtype) in enumerate(product(phases, precisions)):
        earlier = sum(other.share for other in phases[: stage // len(precisions)])
        if resumed is not None and stage < resumed[0]:
            continue
        objective = _Objective.of(prepared, phase.loss, penalty, dtype)
        if resumed is not None and stage == resumed[0]:
            state = resumed[1]
        elif dtype == precisions[0]:
            state = State.start(objective, objective.variables(solution))
        else:
            state = state.to(dtype, objective)
        iterations = descend(
            objective,
            state,
            pairs=CURVATURE_PAIRS,
            max_iterations=max(1, round(phase.share * max_iterations)),
            tolerance=max(tolerance, FLOAT32_TOLERANCE) if dtype == torch.float32 else tolerance,
            smallest_gradient=GRADIENT_TOLERANCE,
        )
        for state in iterations:  # the last one is what the next stage goes on from
            watch(stage, state, min(earlier + state.iteration / max_iterations, 1.0))
        solution = objective.solution(state)
        check_solution(solution.objective, solution.weight_PD, solution.bias_P)
    return solution


def check_solution(objective: float, weight_PD: Tensor, bias_P: Tensor) -> None:
    """Raise NotFiniteError if a number is not finite."""
    if math.isfinite(objective) and bool(torch.isfinite(weight_PD).all() and torch.isfinite(bias_P).all()):
        return
    raise NotFiniteError(
        "a fitted head must be finite",
        got=f"objective {objective:g} with largest weight {float(weight_PD.abs().max()):g}",
        do="Try another penalty; check the features.",
    )


def _changed(problem: Standardised, features_BD: Tensor, centre_D: Tensor, *, cosine: bool) -> Tensor:
    standardised_BD = (features_BD.double() - problem.mean_D) / problem.std_D
    return normalize(standardised_BD, dim=1) if cosine else standardised_BD - centre_D


def _fresh(prepared: Prepared) -> Solution:
    """Zero for a linear head; for a cosine head, which has no direction there, the mean directions of the classes."""
    problem = prepared.problem
    weight_PD = torch.zeros_like(problem.means_PD)
    if prepared.cosine:
        for part in prepared.parts():
            weight_PD += problem.indicators(part).T @ prepared.images(part, torch.float64)
        weight_PD = normalize(weight_PD, dim=1)
        weight_PD[weight_PD.norm(dim=1) == 0.0] = weight_PD.shape[1] ** -0.5  # any direction serves
    return Solution(weight_PD, torch.zeros_like(problem.counts_P), math.nan, 0, math.nan)


@dataclass(frozen=True, eq=False)
class _Objective:
    """Value, gradient and curvature at a point: for every class its rotated weights and its bias."""

    prepared: Prepared
    loss: Loss
    penalty: float
    rotation_DD: Tensor
    ratios_P: Tensor

    @classmethod
    def of(cls, prepared: Prepared, loss: Loss, penalty: float, dtype: torch.dtype) -> _Objective:
        ratios_P = _curvature(prepared, loss)
        return cls(prepared, loss, penalty, prepared.rotation_DD.to(dtype), (ratios_P / ratios_P.mean()).to(dtype))

    def __call__(self, point_V: Tensor) -> At:
        prepared = self.prepared
        weight_PD, bias_P, length_P = self._weights(point_V)
        gradient_PD = torch.zeros_like(weight_PD)
        gradient_P, pulls_P = torch.zeros_like(bias_P), torch.zeros_like(bias_P)
        value = torch.zeros((), dtype=torch.float64, device=point_V.device)
        total = len(prepared.problem.positions_N)
        for part in prepared.parts():
            images_BD = prepared.images(part, point_V.dtype)
            logits_BP = torch.addmm(bias_P, images_BD, weight_PD.T).requires_grad_(True)
            loss = self.loss(logits_BP, prepared.problem.positions_N[part]) * (len(images_BD) / total)
            (errors_BP,) = torch.autograd.grad(loss, logits_BP)
            value += loss.detach()
            gradient_PD.addmm_(errors_BP.T, images_BD)
            gradient_P += errors_BP.sum(0)
            pulls_P += errors_BP.norm(p=1, dim=0)
        curvature_P = (0.5 * (pulls_P + gradient_P).mean() * self.ratios_P).clamp_min_(SMALLEST_CURVATURE)
        if prepared.cosine:
            # Of the direction W / |W|; the bias is fixed at 0.
            gradient_PD -= (gradient_PD * weight_PD).sum(1, keepdim=True) * weight_PD
            gradient_PD /= length_P[:, None]
            gradient_P.zero_()
        else:
            value += 0.5 * self.penalty * weight_PD.square().sum()
            gradient_PD.add_(weight_PD, alpha=self.penalty)
        moments_D = self.prepared.moments_D.to(point_V)
        curvature_PD = torch.addmm(moments_D.new_tensor(self.penalty), curvature_P[:, None], moments_D[None])
        return At(
            float(value),
            _flat(gradient_PD @ self.rotation_DD, gradient_P),
            _flat(curvature_PD.clamp_min_(SMALLEST_CURVATURE), curvature_P),
        )

    def variables(self, solution: Solution) -> Tensor:
        """The point where the weights are those of `solution`."""
        bias_P = solution.bias_P + solution.weight_PD @ self.prepared.centre_D
        return _flat(solution.weight_PD.to(self.rotation_DD) @ self.rotation_DD, bias_P.to(self.rotation_DD))

    def solution(self, state: State) -> Solution:
        """Undo `variables`."""
        weight_PD, bias_P = (tensor.double() for tensor in self._weights(state.point_V)[:2])
        bias_P = bias_P - weight_PD @ self.prepared.centre_D
        return Solution(weight_PD, bias_P, state.at.value, state.iteration, float(state.at.gradient_V.norm()))

    def _weights(self, point_V: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """weight_PD (of length 1 for cosine), bias_P, and the length_P that the weights had."""
        columns_PE = point_V.view(self.prepared.num_present, -1)
        weight_PD, bias_P = columns_PE[:, :-1] @ self.rotation_DD.T, columns_PE[:, -1]
        length_P = weight_PD.norm(dim=1).clamp_min(SHORTEST)
        if self.prepared.cosine:
            return weight_PD / length_P[:, None], torch.zeros_like(bias_P), length_P
        return weight_PD, bias_P.contiguous(), length_P


def _flat(columns_PD: Tensor, last_P: Tensor) -> Tensor:
    return torch.cat([columns_PD, last_P[:, None]], dim=1).flatten()


def _curvature(prepared: Prepared, loss: Loss) -> Tensor:
    """c_P: the mean pull of other classes' images at each logit, where all logits are 0."""
    problem, present = prepared.problem, prepared.num_present
    curvature_P = torch.zeros_like(problem.counts_P)
    for part in parts(present, present, curvature_P.device):
        own_B = torch.arange(part.start, part.stop, device=curvature_P.device)
        logits_BP = curvature_P.new_zeros(len(own_B), present).requires_grad_(True)
        # A loss is a mean over images: here over one image of each class.
        (pulls_BP,) = torch.autograd.grad(loss(logits_BP, own_B) * len(own_B), logits_BP)
        shares_B = problem.counts_P[part] / problem.counts_P.sum()
        curvature_P += shares_B @ pulls_BP.clamp_min(0.0).scatter(1, own_B[:, None], 0.0)
    return curvature_P.clamp_min(SMALLEST_CURVATURE)
