"""Class-weighted ridge regression to one-hot targets.

    minimise (1/N) sum_i w_i ||y_i - W x_i - b||^2 + penalty ||W||^2,     w_i = N / (P n_k) for an image of class k

over standardised features x. Their weighted mean is 0, so the unpenalised bias is the weighted mean of the targets,
1/P. With X^T V X / N = Q diag(l) Q^T every penalty costs one product: W^T = Q (l + penalty)^-1 Q^T X^T V Y / N.

Leave-one-out: the hat matrix of weighted least squares has h_i = (w_i / N) (1 + x_i^T Q (l + penalty)^-1 Q^T x_i), and
the residual of image i without image i is its residual divided by 1 - h_i. The weights w of the other images stay
those of the full counts. (Textbook; e.g. Hastie, Tibshirani, Friedman, equation 7.64.)

Shapes: N images, B images of one part, D features, K classes, P classes with images, G grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from nasimb.heads.base import ClosedFormSpec, LeaveOneOut, Tally
from nasimb.heads.head import Head
from nasimb.heads.standardise import Standardised, standardise


class RidgeSpec(ClosedFormSpec):
    """Options of the ridge head; a setting is the penalty."""

    name: Literal["ridge"] = "ridge"
    grid: Annotated[tuple[Annotated[float, Field(gt=0.0)], ...], Field(min_length=1)] = (
        1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 10.0,
    )  # fmt: skip

    def score(self, features_ND: Tensor, labels_N: Tensor, num_classes: int) -> list[LeaveOneOut]:
        """See `ClosedFormSpec.score`. The loss is the squared error to the one-hot target."""
        problem = standardise(features_ND, labels_N, num_classes)
        solved = _decompose(problem)
        penalties_G = torch.tensor(self.grid, dtype=torch.float64, device=features_ND.device)
        inverse_DG = 1.0 / (solved.eigenvalues_D[:, None] + penalties_G)
        tally = Tally(problem, len(self.grid))
        for part, standardised_BD in problem.parts():
            rotated_BD = standardised_BD @ solved.rotation_DD
            positions_B = problem.positions_N[part, None]
            shares_B = problem.weights_P[positions_B[:, 0]] / len(features_ND)
            leverage_BG = shares_B[:, None] * (1.0 + rotated_BD**2 @ inverse_DG)
            for index in range(len(self.grid)):
                fitted_BP = rotated_BD @ (inverse_DG[:, index, None] * solved.targets_DP) + solved.bias
                tally.put(index, part, *_without_itself(fitted_BP, positions_B, leverage_BG[:, index]))
        return tally.results(self.name, self.grid)

    def fit(self, features_ND: Tensor, labels_N: Tensor, num_classes: int, setting: float) -> Head:
        """See `ClosedFormSpec.fit`."""
        problem = standardise(features_ND, labels_N, num_classes)
        solved = _decompose(problem)
        weight_PD = (solved.rotation_DD @ (solved.targets_DP / (solved.eigenvalues_D[:, None] + setting))).T
        bias_P = torch.full_like(problem.counts_P, solved.bias)
        return Head.from_standardised(weight_PD, bias_P, problem, name=self.name, setting=setting)


@dataclass(frozen=True, eq=False)
class _Decomposition:
    """X^T V X / N = Q diag(eigenvalues) Q^T, and targets = Q^T X^T V Y / N."""

    eigenvalues_D: Tensor
    rotation_DD: Tensor
    targets_DP: Tensor
    bias: float


def _decompose(problem: Standardised) -> _Decomposition:
    dimension, present = problem.features_ND.shape[1], len(problem.present_P)
    moment_DD = problem.mean_D.new_zeros(dimension, dimension)
    for part, standardised_BD in problem.parts():
        shares_B = problem.weights_P[problem.positions_N[part]] / len(problem.features_ND)
        moment_DD += standardised_BD.T @ (shares_B[:, None] * standardised_BD)
    eigenvalues_D, rotation_DD = torch.linalg.eigh(moment_DD)
    # (1/N) sum_i w_i x_i over a class is its mean over P, because its images weigh N/P together.
    targets_DP = rotation_DD.T @ problem.means_PD.T / present
    return _Decomposition(eigenvalues_D.clamp_min(0.0), rotation_DD, targets_DP, 1.0 / present)


def _without_itself(fitted_BP: Tensor, positions_B1: Tensor, leverage_B: Tensor) -> tuple[Tensor, Tensor]:
    """Leave-one-out scores (up to a positive factor an image) and squared errors, from the fit to all images."""
    own_B = fitted_BP.gather(1, positions_B1)[:, 0]
    squares_B = (fitted_BP**2).sum(1) - own_B**2 + (1.0 - own_B) ** 2
    # The prediction without i is (fitted - h y) / (1 - h): only the own class changes, then all share one factor.
    scores_BP = fitted_BP.scatter_add(1, positions_B1, -leverage_B[:, None])
    return scores_BP, squares_B / (1.0 - leverage_B).clamp_min(1e-12) ** 2
