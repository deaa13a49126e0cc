"""Balanced softmax (Ren et al. 2020): the softmax sees the training counts, so the head need not learn them."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import cross_entropy

from nasimb.losses.base import Loss, LossSpec, positive_counts


class BalancedSoftmaxSpec(LossSpec):
    """CE(z + log n, y): logit adjustment with tau = 1, for the constant log N cancels."""

    name: Literal["balanced_softmax"] = "balanced_softmax"

    def build(self, class_counts_K: Tensor) -> Loss:
        """See `LossSpec.build`."""
        log_counts_K = positive_counts(class_counts_K).log()

        def loss(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
            return cross_entropy(logits_BK + log_counts_K.to(logits_BK), labels_B)

        return loss
