"""Class-weighted ridge regression to one-hot targets.

    minimise sum_i a_i ||y_i - W x_i - b||^2 + penalty ||W||^2

over standardised features x, with image weights a that add up to 1: a_i = q_k / n_k for an image of class k, where q_k
is the class's share of the objective (1/P by inverse frequency). The bias is not penalised, so b = q - W m with the
weighted mean m = sum_k q_k mu_k. With M = sum_i a_i (x_i - m)(x_i - m)^T = Q diag(l) Q^T every penalty costs one
product: W^T = Q (l + penalty)^-1 Q^T R, where column k of R is q_k (mu_k - m).

Leave-one-out: the hat matrix of weighted least squares has h_i = a_i (1 + z^T (l + penalty)^-1 z), z = Q^T (x_i - m),
and the residual of image i without image i is its residual divided by 1 - h_i. The weights a of the other images stay.
(Textbook; e.g. Hastie, Tibshirani, Friedman, equation 7.64.)

In a class-capped part of n_k of N_k images, q_k is that of the N_k images, so an image stands for N_k / n_k of them.

Logit adjustment: least squares to one-hot targets estimates posterior probabilities, not logits. Around the uniform
posterior 1/P one unit of logit is 1/P of probability (the softmax's derivative, but for what all classes share), so
the scores lose tau log(pi_k) / P.

Shapes: B images of one part, D features, P classes with images, S settings, T taus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from nasimb.heads.base import MomentSpec, Solved
from nasimb.heads.grid import Grid
from nasimb.heads.moments import Moments
from nasimb.heads.weights import WeightingName

CLASSES_FOR_FLOAT32 = 32
"""From so many classes on, predicting takes most of the time, and single precision halves it. Scores are then off by
1e-6, which the division by 1 - h makes 1e-5 at most:"""
MOST_FOR_FLOAT32 = 0.75
"""images whose leverage h is larger at any penalty are predicted in double precision."""


class RidgeSpec(MomentSpec):
    """Options of the ridge head; a setting is the penalty. The loss is the squared error to the one-hot target."""

    name: Literal["ridge"] = "ridge"
    grid: Annotated[tuple[Annotated[float, Field(gt=0.0)], ...], Field(min_length=1)] = (
        1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 10.0,
    )  # fmt: skip
    class_weighting: WeightingName = "inverse_frequency"

    def solve(self, moments: Moments) -> Solved:
        """See `MomentSpec.solve`."""
        classes = moments.classes
        shares_P = self.weighting.shares(classes.images_P)
        mean_D = shares_P @ moments.means_PD
        second_DD = moments.seconds[self.weighting] - torch.outer(mean_D, mean_D)
        eigenvalues_D, rotation_DD = torch.linalg.eigh(second_DD)
        log_prior_P = (classes.images_P / classes.images_P.sum()).log()
        return _Ridge(
            adjustment_P=(log_prior_P - log_prior_P.mean()) / len(shares_P),
            shares_P=shares_P,
            weights_P=classes.weights(self.weighting),
            eigenvalues_D=eigenvalues_D.clamp_min(0.0),
            rotation_DD=rotation_DD,
            mean_D=mean_D,
            targets_PD=shares_P[:, None] * (moments.means_PD - mean_D) @ rotation_DD,
        )


@dataclass(frozen=True, eq=False)
class _Ridge(Solved):
    """M = Q diag(eigenvalues) Q^T, and targets = R^T Q."""

    adjustment_P: Tensor
    shares_P: Tensor
    weights_P: Tensor
    eigenvalues_D: Tensor
    rotation_DD: Tensor
    mean_D: Tensor
    targets_PD: Tensor

    def weights(self, setting: float) -> tuple[Tensor, Tensor]:
        weight_PD = (self.targets_PD / (self.eigenvalues_D + setting)) @ self.rotation_DD.T
        return weight_PD, self.shares_P - weight_PD @ self.mean_D

    def diagonals(self, settings: Sequence[float]) -> Tensor:
        return 1.0 / (self.eigenvalues_D + self.eigenvalues_D.new_tensor(settings)[:, None])

    def leave_out(self, grid: Grid, standardised_BD: Tensor, positions_B: Tensor) -> tuple[Tensor, Tensor]:
        rotated_DB = torch.addmm(-(self.mean_D @ self.rotation_DD)[:, None], self.rotation_DD.T, standardised_BD.T)
        leverages_SB = (grid.diagonals_SD @ rotated_DB.square()).add_(1.0).mul_(self.weights_P[positions_B])
        if len(self.shares_P) < CLASSES_FOR_FLOAT32:
            return self._without_themselves(grid, rotated_DB, leverages_SB, positions_B)
        predicted_GB, losses_GB = self._without_themselves(grid, rotated_DB.float(), leverages_SB, positions_B)
        careful = (leverages_SB > MOST_FOR_FLOAT32).any(0).nonzero().squeeze(1)
        if len(careful):
            predicted_GB[:, careful], losses_GB[:, careful] = self._without_themselves(
                grid, rotated_DB[:, careful], leverages_SB[:, careful], positions_B[careful]
            )
        return predicted_GB, losses_GB

    def _without_themselves(
        self, grid: Grid, rotated_DB: Tensor, leverages_SB: Tensor, positions_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predictions and squared errors without each image, in the precision of `rotated_DB`."""
        remaining_SB = (1.0 - leverages_SB).clamp_min(1e-12)
        shares_P1, targets_PD = self.shares_P.to(rotated_DB.dtype)[:, None], self.targets_PD.to(rotated_DB.dtype)
        predicted, losses = [], []
        for group, fitted_SPB in grid.products(targets_PD, rotated_DB):
            found = self._leave(fitted_SPB.add_(shares_P1), remaining_SB[group], positions_B, grid.taus)
            predicted.append(found[0])
            losses.append(found[1])
        return torch.cat(predicted), torch.cat(losses)

    def _leave(
        self, fitted_SPB: Tensor, remaining_SB: Tensor, positions_B: Tensor, taus: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        """From the fit to all images; `fitted_SPB` is used up."""
        own_S1B = positions_B.expand(len(fitted_SPB), 1, -1)
        own_SB = fitted_SPB.gather(1, own_S1B)[:, 0].double()
        squares_SB = fitted_SPB.square().sum(1).double() - own_SB**2 + (1.0 - own_SB) ** 2
        squares_SB /= remaining_SB**2
        # The prediction without i is (fitted - h y) / (1 - h). Its order is that of fitted - h y - (1 - h) adjustment.
        adjustment_P1 = self.adjustment_P.to(fitted_SPB.dtype)[:, None]
        scores_SPB = fitted_SPB.scatter_(1, own_S1B, (own_SB - 1.0 + remaining_SB).to(fitted_SPB.dtype)[:, None])
        predicted, losses = [], []
        for tau in taus:
            if tau:
                lowered_SPB = scores_SPB - remaining_SB.to(scores_SPB.dtype)[:, None] * (tau * adjustment_P1)
                predicted.append(lowered_SPB.max(1).indices)
                # ||residual / (1 - h) - tau adjustment||^2, where residual = scores - (1 - h) y
                pulled_SB = (scores_SPB * adjustment_P1).sum(1) / remaining_SB - self.adjustment_P[positions_B]
                losses.append(squares_SB - 2.0 * tau * pulled_SB + tau**2 * self.adjustment_P.square().sum())
            else:
                predicted.append(scores_SPB.max(1).indices)
                losses.append(squares_SB)
        return torch.stack(predicted, 1).flatten(0, 1), torch.stack(losses, 1).flatten(0, 1)
