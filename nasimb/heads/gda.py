"""Gaussian discriminant with one shared covariance and a uniform prior.

    S = W / (N - P),  W = sum_i v_k (x_i - mu_k)(x_i - mu_k)^T    pooled within classes, over standardised features x
    S_s = (1 - s) S + s I                                     shrinkage 0 < s <= 1
    class = argmin_k (x - mu_k)^T S_s^-1 (x - mu_k)

The target of the shrinkage, I, is the diagonal of the total covariance: standardised features have variance 1.
(Friedman 1989 takes the mean within-class variance times I. That is the same family of classifiers, at other values of
s; but I does not change with the image that is left out, so one decomposition serves all images.)

The image weights v have mean 1. By default they are proportional to n_k^-1/2: half-way between natural pooling (v = 1),
which only the head classes shape, and equal classes (1 / n_k), which a few tail images make noisy. Test balanced
accuracy against natural pooling over 15 draws, at every shrinkage: digits (imbalance factor 20) +0.5 to +0.6 points,
CIFAR-10-LT subsets (20; 100) +0.1 to +0.2; 0.0 to +0.1. Equal classes: +0.5; -0.2 to 0.0; -0.8 to -0.1.

Leave-one-out, the weights v fixed. Without image i of class k, with d = x_i - mu_k and c = n_k / (n_k - 1):

    mu_k^-i = mu_k - d / (n_k - 1),    W^-i = W - v_k c d d^T,    S^-i = W^-i / (N - 1 - P)

so with beta = (1 - s) v_k c / (N - 1 - P) and A = (1 - s) W / (N - 1 - P) + s I, which all images share, the shrunk
covariance without i is A - beta d d^T, one Sherman-Morrison term away. With q = d^T A^-1 d and, for another class j,
p_j = d^T A^-1 (x_i - mu_j), the distance to mu_j is

    (x_i - mu_j)^T A^-1 (x_i - mu_j) + beta p_j^2 / (1 - beta q)

and to the own class, for x_i - mu_k^-i = c d, it is c^2 q / (1 - beta q). Because x_i - mu_j = d + mu_k - mu_j, all of
it follows from one product, e_j = d^T A^-1 mu_j, and the distances between class means: p_j = q + e_k - e_j and
(x_i - mu_j)^T A^-1 (x_i - mu_j) = 2 p_j - q + (mu_k - mu_j)^T A^-1 (mu_k - mu_j).

In a class-capped part of n_k of N_k images, v follows from the N_k, an image counts N_k / n_k times in W, and N is the
sum of the N_k. Left out is the image of the part, with all it counts for; N - 1 - P stays.

Shapes: B images of one part, D features, P classes with images, U of them in the part, S settings, T taus.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from nasimb.heads.base import MomentSpec, Solved
from nasimb.heads.grid import Grid, products
from nasimb.heads.moments import FEWEST_ROWS, Moments, gather_moments, row_parts
from nasimb.heads.standardise import classes_of
from nasimb.heads.weights import WeightingName


class GdaSpec(MomentSpec):
    """Options of the Gaussian discriminant; a setting is the shrinkage.

    The loss is the negative log posterior of the own class.
    """

    name: Literal["gda"] = "gda"
    grid: Annotated[tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...], Field(min_length=1)] = (
        1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.2, 0.4, 0.7, 1.0,
    )  # fmt: skip
    class_weighting: WeightingName = "inverse_sqrt"

    def posteriors(self, features_ND: Tensor, labels_N: Tensor, num_classes: int, setting: float) -> Tensor:
        """posteriors_NK: what each image's class would be thought to be by the head fitted to all others, float64.

        Exact, as `score`. A class without images has probability 0. The only image of a class cannot be left out: its
        row is NaN.

        Args:
            setting: the shrinkage.

        Raises:
            WorkError: a feature is not finite.
            DataError: fewer than two classes have images, or a label is out of range.
        """
        labels_N = labels_N.to(features_ND.device)
        classes = classes_of(labels_N, num_classes)
        moments = gather_moments(lambda: [(features_ND, labels_N)], classes, [self.weighting])
        solved = self.solve(moments)
        grid = Grid((setting,), (0.0,), solved.diagonals((setting,)))
        positions_N = classes.positions(labels_N)
        found_NK = features_ND.new_zeros((len(features_ND), num_classes), dtype=torch.float64)
        for part in row_parts(len(features_ND), features_ND.shape[1], features_ND.device, FEWEST_ROWS):
            standardised_BD = (features_ND[part] - moments.mean_D) / moments.std_D
            (halves_1PB,) = solved.left_out_halves(grid, standardised_BD, positions_N[part])
            found_NK[part, classes.present_P] = (-halves_1PB[0]).softmax(0).T
        found_NK[classes.counts_P[positions_N] == 1] = torch.nan
        return found_NK

    def solve(self, moments: Moments) -> _Discriminant:
        """See `MomentSpec.solve`."""
        classes = moments.classes
        shares_P, total = self.weighting.shares(classes.images_P), float(classes.images_P.sum())
        second_DD = moments.seconds[self.weighting]
        within_DD = second_DD - (moments.means_PD.T * shares_P) @ moments.means_PD
        eigenvalues_D, rotation_DD = torch.linalg.eigh(within_DD)
        log_prior_P = (classes.images_P / total).log()
        return _Discriminant(
            adjustment_P=log_prior_P - log_prior_P.mean(),
            counts_P=classes.counts_P,
            weights_P=total * classes.weights(self.weighting),
            total=total,
            eigenvalues_D=total * eigenvalues_D.clamp_min(0.0),
            rotation_DD=rotation_DD,
            means_PD=moments.means_PD @ rotation_DD,
        )


@dataclass(frozen=True, eq=False)
class _Discriminant(Solved):
    """W = Q diag(eigenvalues) Q^T, and the class means rotated by Q.

    Attributes:
        weights_P: what an image counts in W.
        total: N.
    """

    adjustment_P: Tensor
    counts_P: Tensor
    weights_P: Tensor
    total: float
    eigenvalues_D: Tensor
    rotation_DD: Tensor
    means_PD: Tensor

    def weights(self, setting: float) -> tuple[Tensor, Tensor]:
        """W_k = S_s^-1 mu_k, b_k = -mu_k^T S_s^-1 mu_k / 2."""
        freedom = max(self.total - len(self.means_PD), 1.0)
        shrunk_D = (1.0 - setting) / freedom * self.eigenvalues_D + setting
        weight_PD = (self.means_PD / shrunk_D) @ self.rotation_DD.T
        return weight_PD, -0.5 * (self.means_PD**2 / shrunk_D).sum(1)

    def diagonals(self, settings: Sequence[float]) -> Tensor:
        """Of A^-1."""
        kept_S1, shrinkages_S1 = self._kept(settings), self.eigenvalues_D.new_tensor(settings)[:, None]
        return 1.0 / (kept_S1 * self.eigenvalues_D + shrinkages_S1)

    def _kept(self, settings: Sequence[float]) -> Tensor:
        """(1 - s) / (N - 1 - P) in a column."""
        freedom = max(self.total - 1.0 - len(self.means_PD), 1.0)
        return (1.0 - self.eigenvalues_D.new_tensor(settings)[:, None]) / freedom

    def leave_out(self, grid: Grid, standardised_BD: Tensor, positions_B: Tensor) -> tuple[Tensor, Tensor]:
        own_S1B = positions_B.expand(1, 1, -1)
        predicted, losses = [], []
        for halves_SPB in self.left_out_halves(grid, standardised_BD, positions_B):
            found = self._decide(halves_SPB, own_S1B.expand(len(halves_SPB), -1, -1), grid.taus)
            predicted.append(found[0])
            losses.append(found[1])
        return torch.cat(predicted), torch.cat(losses)

    def left_out_halves(self, grid: Grid, standardised_BD: Tensor, positions_B: Tensor) -> Iterator[Tensor]:
        """Half the distances of every image to every class mean, the image left out: halves_SPB, settings in turn."""
        deviations_DB = torch.addmm(self.means_PD[positions_B].T, self.rotation_DD.T, standardised_BD.T, beta=-1)
        lengths_SB = grid.diagonals_SD @ deviations_DB.square()  # q
        counts_B = self.counts_P[positions_B]
        factors_B = counts_B / (counts_B - 1.0).clamp_min(1.0)
        beta_SB = self._kept(grid.settings) * (self.weights_P[positions_B] * factors_B)
        remaining_SB = (1.0 - beta_SB * lengths_SB).clamp_min(1e-12)
        slopes_SB, own_SB = beta_SB / remaining_SB, factors_B**2 * lengths_SB / remaining_SB
        present_U, place_B = self._classes_of(positions_B)
        for group, pulls_SPB in grid.products(self.means_PD, deviations_DB):
            own_S1B = positions_B.expand(len(pulls_SPB), 1, -1)
            torch.sub(lengths_SB[group, None] + pulls_SPB.gather(1, own_S1B), pulls_SPB, out=pulls_SPB)  # p
            # Half the distance and q: p + slope p^2 / 2 + the distance between the class means / 2.
            halves_SPB = torch.mul(pulls_SPB, 0.5 * slopes_SB[group, None]).add_(1.0).mul_(pulls_SPB)
            halves_SPB += self._between(grid.diagonals_SD[group], present_U).gather(2, place_B.expand_as(halves_SPB))
            halves_SPB.scatter_(1, own_S1B, 0.5 * (own_SB + lengths_SB)[group, None])
            yield halves_SPB

    def _classes_of(self, positions_B: Tensor) -> tuple[Tensor, Tensor]:
        """present_U and each image's place in it: all classes, or where images are fewer those they are of."""
        if len(self.means_PD) <= len(positions_B):
            return torch.arange(len(self.means_PD), device=positions_B.device), positions_B
        present_U, place_B = torch.unique(positions_B, return_inverse=True)
        return present_U, place_B

    def _between(self, diagonals_SD: Tensor, present_U: Tensor) -> Tensor:
        """Half the distances_SPU between class means."""
        norms_SP = diagonals_SD @ self.means_PD.T.square()
        products_SPU = products(diagonals_SD, self.means_PD, self.means_PD[present_U].T)
        return 0.5 * (norms_SP[:, :, None] + norms_SP[:, None, present_U]) - products_SPU

    def _decide(self, halves_SPB: Tensor, own_S1B: Tensor, taus: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Predictions and negative log posteriors of the own class, from half the distances."""
        predicted, losses = [], []
        for tau in taus:
            adjusted_SPB = halves_SPB + tau * self.adjustment_P[:, None] if tau else halves_SPB
            nearest = adjusted_SPB.min(1)
            sums_SB = (nearest.values[:, None] - adjusted_SPB).exp_().sum(1)
            predicted.append(nearest.indices)
            losses.append(sums_SB.log_() - nearest.values + adjusted_SPB.gather(1, own_S1B)[:, 0])
        return torch.stack(predicted, 1).flatten(0, 1), torch.stack(losses, 1).flatten(0, 1)
