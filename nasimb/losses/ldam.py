"""Label-distribution-aware margins on cosine logits (Cao et al. 2019)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from nasimb.losses.base import Loss, LossSpec, positive_counts
from nasimb.losses.weights import effective_number_weights, mean_one, weighted_mean


class LdamSpec(LossSpec):
    """w_y CE(s (cos - m_y e_y), y) with m_k = max_margin (n_min / n_k)^(1/4).

    Attributes:
        max_margin: of the rarest class.
        scale: s.
        class_balanced: weight by the inverse effective number (the second half of LDAM-DRW); otherwise w = 1.
        beta: of the effective number.
    """

    name: Literal["ldam"] = "ldam"
    max_margin: float = Field(default=0.5, gt=0.0)
    scale: float = Field(default=30.0, gt=0.0)
    class_balanced: bool = False
    beta: float = Field(default=0.9999, ge=0.0, lt=1.0)

    @property
    def cosine_scale(self) -> float:
        """s: margins mean nothing on logits of any length."""
        return self.scale

    def margins(self, class_counts_K: Tensor) -> Tensor:
        """m_k, in cosine."""
        counts_K = positive_counts(class_counts_K)
        return self.max_margin * (counts_K.min() / counts_K) ** 0.25

    def build(self, class_counts_K: Tensor) -> Loss:
        """See `LossSpec.build`."""
        margins_K = self.margins(class_counts_K)
        counts_K = positive_counts(class_counts_K)
        beta = self.beta if self.class_balanced else 0.0
        weights_K = mean_one(effective_number_weights(counts_K, beta), counts_K)

        def loss(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
            margins_B = margins_K.to(logits_BK)[labels_B]
            shifted_BK = logits_BK - margins_B[:, None] * one_hot(labels_B, logits_BK.shape[1]).to(logits_BK)
            return weighted_mean(
                cross_entropy(self.scale * shifted_BK, labels_B, reduction="none"), labels_B, weights_K
            )

        return loss
