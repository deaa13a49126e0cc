"""Focal loss in its softmax form: images that are already right count less (Lin et al. 2017)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from nasimb.losses.base import Loss, LossSpec, positive_counts
from nasimb.losses.weights import effective_number_weights, mean_one, weighted_mean


class FocalSpec(LossSpec):
    """w_y (1 - p_y)^gamma CE(z, y), with p_y from the unweighted softmax. Not convex for gamma > 0.

    Attributes:
        gamma: 0 is plain cross entropy.
        class_balanced: weight by the inverse effective number; otherwise w = 1.
        beta: of the effective number.
    """

    name: Literal["focal"] = "focal"
    gamma: float = Field(default=1.0, ge=0.0)
    class_balanced: bool = False
    beta: float = Field(default=0.9999, ge=0.0, lt=1.0)

    @property
    def balances(self) -> bool:
        """Only with class weights: the focal term itself does not know class sizes."""
        return self.class_balanced

    def build(self, class_counts_K: Tensor) -> Loss:
        """See `LossSpec.build`."""
        counts_K = positive_counts(class_counts_K)
        beta = self.beta if self.class_balanced else 0.0
        weights_K = mean_one(effective_number_weights(counts_K, beta), counts_K)

        def loss(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
            entropies_B = cross_entropy(logits_BK, labels_B, reduction="none")
            # 1 - p through expm1, and away from 0, where a power below 1 has an infinite gradient.
            wrong_B = (-torch.expm1(-entropies_B)).clamp_min(torch.finfo(logits_BK.dtype).tiny)
            return weighted_mean(wrong_B**self.gamma * entropies_B, labels_B, weights_K)

        return loss
