"""Full-batch minimisation of a head's loss by L-BFGS: no learning rate, no order of images, no seed.

    minimise over W, b:   loss(x W^T + b, y) + penalty ||W||^2 / 2           (linear; the bias is not penalised)
    minimise over W:      loss(cos(x, W_k), y)                               (cosine; the length of W means nothing)

over standardised features x and the classes that have images. With a loss that is a mean over N images the penalty is
scikit-learn's 1 / (C N).

The variables are chosen so that the problem is well conditioned. Near its start a softmax has Hessian (1/P) X^T X / N
in each class, so in the eigenbasis Q of X^T X / N = Q diag(l) Q^T weights are measured in units of
(l / P + penalty)^-1/2. A rotation keeps ||W||, so the minimum is the same.

Shapes: N images, B images of one part, D features, P classes with images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import normalize

from nasimb.heads.standardise import Standardised
from nasimb.losses.base import Loss, Phase

LOGITS_PART_BYTES = 4 * 2**20
"""Of the logits of one part; small enough for a processor's cache, and what bounds memory for many classes."""

CURVATURE_PAIRS = 20
GRADIENT_TOLERANCE = 1e-6
VALUE_TOLERANCE = 1e-10
"""Where L-BFGS stops: largest gradient entry (in the scaled variables), relative decrease of the objective."""


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
    prepared: Prepared, phases: Sequence[Phase], penalty: float, *, max_iterations: int, start: Solution | None = None
) -> Solution:
    """The solution of every phase from that of the one before; the first starts from `start`, or from zero.

    A phase has its share of the iterations and may end sooner at its minimum.
    """
    scale_D = (prepared.moments_D / prepared.num_present + penalty).clamp_min(1e-12).rsqrt()
    variables = _variables(prepared, scale_D, start)
    iterations = 0
    objective = float("nan")
    for share, loss in phases:
        function = _Objective(prepared, loss, 0.0 if prepared.cosine else penalty, scale_D)
        found = minimize(
            function,
            variables,
            jac=True,
            method="L-BFGS-B",
            options={
                "maxiter": max(1, round(share * max_iterations)),
                "maxfun": 2 * max_iterations + 20,
                "maxcor": CURVATURE_PAIRS,
                "gtol": GRADIENT_TOLERANCE,
                "ftol": VALUE_TOLERANCE,
            },
        )
        variables, objective = found.x, float(found.fun)
        iterations += int(found.nit)
    return _solution(prepared, scale_D, variables, objective, iterations)


@dataclass(frozen=True, eq=False)
class _Objective:
    """Value and gradient at a flat vector of scaled weights, then biases."""

    prepared: Prepared
    loss: Loss
    penalty: float
    scale_D: Tensor

    def __call__(self, variables: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        prepared = self.prepared
        leaf = torch.from_numpy(variables.copy()).to(prepared.rotated_ND).requires_grad_(True)
        weight_PD, bias_P = _weights(prepared, self.scale_D, leaf)
        # The parts differentiate with respect to the weights; the short way from there to the variables comes last.
        weights = [weight_PD.detach().requires_grad_(True), bias_P.detach().requires_grad_(True)]
        value = torch.zeros((), dtype=torch.float64, device=leaf.device)
        for part in _parts(prepared):
            images_BD, positions_B = prepared.rotated_ND[part], prepared.positions_N[part]
            loss = self.loss(torch.addmm(weights[1], images_BD, weights[0].T), positions_B)
            # A loss is a mean over images, so parts add up by their share of them.
            loss = loss * (len(positions_B) / len(prepared.rotated_ND))
            loss.backward()  # type: ignore[no-untyped-call]
            value += loss.detach()
        norm = 0.5 * self.penalty * weight_PD.square().sum()
        gradients = [tensor.grad for tensor in weights]
        (gradient,) = torch.autograd.grad([weight_PD, bias_P, norm], leaf, [*gradients, torch.ones_like(norm)])
        return float(value + norm.detach()), gradient.cpu().numpy()


def _weights(prepared: Prepared, scale_D: Tensor, variables: Tensor) -> tuple[Tensor, Tensor]:
    weight_PD = variables[: -prepared.num_present].view(prepared.num_present, -1) * scale_D
    if prepared.cosine:
        return normalize(weight_PD, dim=1), 0.0 * variables[-prepared.num_present :]
    return weight_PD, variables[-prepared.num_present :] * prepared.num_present**0.5


def _variables(prepared: Prepared, scale_D: Tensor, start: Solution | None) -> NDArray[np.float64]:
    """The flat vector whose weights are those of `start`."""
    if start is None:
        return _fresh(prepared, scale_D)
    rotated_PD = start.weight_PD @ prepared.rotation_DD
    bias_P = start.bias_P + start.weight_PD @ prepared.centre_D
    flat = torch.cat([(rotated_PD / scale_D).flatten(), bias_P / prepared.num_present**0.5])
    return np.asarray(flat.cpu().numpy())


def _fresh(prepared: Prepared, scale_D: Tensor) -> NDArray[np.float64]:
    """Zero for a linear head; for a cosine head, which has no direction there, the mean of each class."""
    weight_PD = torch.zeros(prepared.num_present, len(scale_D), dtype=torch.float64, device=scale_D.device)
    if prepared.cosine:
        for position in range(prepared.num_present):
            weight_PD[position] = prepared.rotated_ND[prepared.positions_N == position].mean(0)
        weight_PD = normalize(weight_PD, dim=1) / scale_D
    return np.concatenate([weight_PD.flatten().cpu().numpy(), np.zeros(prepared.num_present)])


def _solution(
    prepared: Prepared, scale_D: Tensor, variables: NDArray[np.float64], objective: float, iterations: int
) -> Solution:
    weight_PD, bias_P = _weights(prepared, scale_D, torch.from_numpy(variables).to(scale_D))
    weight_PD = weight_PD @ prepared.rotation_DD.T
    return Solution(weight_PD, bias_P - weight_PD @ prepared.centre_D, objective, iterations)


def _parts(prepared: Prepared) -> list[slice]:
    rows = max(1, LOGITS_PART_BYTES // (8 * prepared.num_present))
    return [slice(start, start + rows) for start in range(0, len(prepared.rotated_ND), rows)]
