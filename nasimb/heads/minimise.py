"""Full-batch minimisation of a head's loss by L-BFGS: no learning rate, no order of images, no seed.

    minimise over W, b:   loss(x W^T + b, y) + penalty ||W||^2 / 2           (linear; the bias is not penalised)
    minimise over W:      loss(cos(x, W_k), y)                               (cosine; the length of W means nothing)

over standardised features x and the classes that have images. With a loss that is a mean over N images the penalty is
scikit-learn's 1 / (C N).

The variables are chosen so that the problem is well conditioned: the Hessian of a class starts as (1/P) X^T X / N, so
in the eigenbasis Q of X^T X / N = Q diag(l) Q^T weights are measured in units of (l / P + penalty)^-1/2. A rotation
keeps ||W||, so the minimum is the same.

Shapes: N images, B images of one part, D features, P classes with images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import normalize

from nasimb.heads.standardise import Standardised, parts
from nasimb.losses.base import Loss, Phase

CURVATURE_PAIRS = 20
GRADIENT_TOLERANCE = 1e-7
"""L-BFGS also stops where no entry of the gradient, in the scaled variables, is larger."""

SMALLEST_CURVATURE = 1e-8
"""For features without variance, where there is no penalty either."""


@dataclass(frozen=True, eq=False)
class Solution:
    """weight_PD and bias_P on standardised features, and the objective there."""

    weight_PD: Tensor
    bias_P: Tensor
    objective: float
    iterations: int


@dataclass(frozen=True, eq=False)
class Prepared:
    """Standardised features in the eigenbasis of their second moment, ready for any penalty.

    Attributes:
        rotated_ND: centred (linear) or of unit length (cosine), float64.
        centre_D: what was subtracted after the rotation.
        moments_D: eigenvalues l.
    """

    rotated_ND: Tensor
    positions_N: Tensor
    rotation_DD: Tensor
    centre_D: Tensor
    moments_D: Tensor
    num_present: int
    cosine: bool


def prepare(problem: Standardised, *, cosine: bool) -> Prepared:
    """Rotate (and, for a linear head, centre) the features once; every penalty uses them."""
    rotated_ND = torch.empty(problem.features_ND.shape, dtype=torch.float64, device=problem.features_ND.device)
    for part, standardised_BD in problem.parts():
        rotated_ND[part] = normalize(standardised_BD, dim=1) if cosine else standardised_BD
    centre_D = torch.zeros_like(problem.mean_D) if cosine else rotated_ND.mean(0)
    rotated_ND -= centre_D
    eigenvalues_D, rotation_DD = torch.linalg.eigh(rotated_ND.T @ rotated_ND / len(rotated_ND))
    return Prepared(
        rotated_ND @ rotation_DD,
        problem.positions_N,
        rotation_DD,
        centre_D,
        eigenvalues_D.clamp_min(0.0),
        len(problem.present_P),
        cosine,
    )


def minimise(
    prepared: Prepared,
    phases: Sequence[Phase],
    penalty: float,
    *,
    max_iterations: int,
    tolerance: float,
    start: Solution | None = None,
) -> Solution:
    """The solution of every phase from that of the one before; the first begins at `start`, or afresh.

    A phase has its share of the iterations, and ends sooner once an iteration decreases the objective by less than
    the share `tolerance` of it.
    """
    scale_D = (prepared.moments_D / prepared.num_present + penalty).clamp_min(SMALLEST_CURVATURE).rsqrt()
    solution = start or _fresh(prepared)
    iterations = 0
    for share, loss in phases:
        function = _Objective(prepared, loss, penalty, scale_D)
        found = minimize(
            function,
            function.variables(solution),
            jac=True,
            method="L-BFGS-B",
            options={
                "maxiter": max(1, round(share * max_iterations)),
                "maxfun": 2 * max_iterations + 20,
                "maxcor": CURVATURE_PAIRS,
                "gtol": GRADIENT_TOLERANCE,
                "ftol": tolerance,
            },
        )
        iterations += int(found.nit)
        solution = function.solution(found.x, float(found.fun), iterations)
    return solution


def _fresh(prepared: Prepared) -> Solution:
    """Zero for a linear head; for a cosine head, which has no direction there, the class means."""
    weight_PD = prepared.rotation_DD.new_zeros(prepared.num_present, len(prepared.moments_D))
    if prepared.cosine:
        for position in range(prepared.num_present):
            weight_PD[position] = prepared.rotated_ND[prepared.positions_N == position].mean(0)
        weight_PD = normalize(weight_PD, dim=1) @ prepared.rotation_DD.T
    return Solution(weight_PD, prepared.rotation_DD.new_zeros(prepared.num_present), float("nan"), 0)


@dataclass(frozen=True, eq=False)
class _Objective:
    """Value and gradient at a flat vector: scaled weights of every class, then scaled biases."""

    prepared: Prepared
    loss: Loss
    penalty: float
    scale_D: Tensor

    def __call__(self, variables: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        prepared = self.prepared
        leaf = torch.from_numpy(variables.copy()).to(prepared.rotated_ND).requires_grad_(True)
        weight_PD, bias_P = self._weights(leaf)
        # The parts differentiate with respect to the weights; the short way from there to the variables comes last.
        weights = weight_PD.detach().requires_grad_(True), bias_P.detach().requires_grad_(True)
        value = torch.zeros((), dtype=torch.float64, device=leaf.device)
        for part, share in _parts(prepared):
            logits_BP = torch.addmm(weights[1], prepared.rotated_ND[part], weights[0].T)
            loss = share * self.loss(logits_BP, prepared.positions_N[part])
            loss.backward()  # type: ignore[no-untyped-call]
            value += loss.detach()
        norm = 0.5 * self.penalty * weight_PD.square().sum()
        gradients = [*(tensor.grad for tensor in weights), torch.ones_like(norm)]
        (gradient,) = torch.autograd.grad([weight_PD, bias_P, norm], leaf, gradients)
        return float(value + norm.detach()), gradient.cpu().numpy()

    def variables(self, solution: Solution) -> NDArray[np.float64]:
        """Where the weights are those of `solution`."""
        rotated_PD = solution.weight_PD @ self.prepared.rotation_DD
        bias_P = solution.bias_P + solution.weight_PD @ self.prepared.centre_D
        flat = torch.cat([(rotated_PD / self.scale_D).flatten(), bias_P / self._bias_scale])
        return np.asarray(flat.cpu().numpy())

    def solution(self, variables: NDArray[np.float64], objective: float, iterations: int) -> Solution:
        """Undo `variables`."""
        weight_PD, bias_P = self._weights(torch.from_numpy(variables).to(self.scale_D))
        weight_PD = weight_PD @ self.prepared.rotation_DD.T
        return Solution(weight_PD, bias_P - weight_PD @ self.prepared.centre_D, objective, iterations)

    def _weights(self, variables: Tensor) -> tuple[Tensor, Tensor]:
        present = self.prepared.num_present
        weight_PD = variables[:-present].view(present, -1) * self.scale_D
        bias_P = variables[-present:] * self._bias_scale
        if self.prepared.cosine:
            return normalize(weight_PD, dim=1), 0.0 * bias_P
        return weight_PD, bias_P

    @property
    def _bias_scale(self) -> float:
        """As `scale_D`, for a feature that is always 1 and not penalised."""
        return float(self.prepared.num_present**0.5)


def _parts(prepared: Prepared) -> Iterator[tuple[slice, float]]:
    """Consecutive parts of the images, and their share: a loss is a mean over images, so parts add up by it."""
    total = len(prepared.positions_N)
    for part in parts(total, max(prepared.num_present, len(prepared.moments_D)), prepared.positions_N.device):
        yield part, (part.stop - part.start) / total
