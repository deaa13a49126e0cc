"""Balanced softmax (Ren et al. 2020): the softmax sees the training counts, so the head need not learn them."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import cross_entropy

from nasimb.losses.base import Loss, LossSpec, positive_counts


class BalancedSoftmaxSpec(LossSpec):
    """CE(z + log n, y): logit adjustment with tau = 1, for the constant log N cancels.

    Example:
        >>> import torch
        >>> loss = BalancedSoftmaxSpec().build(torch.tensor([90, 10]))  # a frequent class, and a rare one
        >>> undecided_1K = torch.zeros(1, 2)
        >>> [round(float(loss(undecided_1K, torch.tensor([label]))), 2) for label in (0, 1)]
        [0.11, 2.3]
    """

    name: Literal["balanced_softmax"] = "balanced_softmax"

    def build(self, class_counts_K: Tensor) -> Loss:
        """See `LossSpec.build`."""
        log_counts_K = positive_counts(class_counts_K).log()

        def loss(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
            return cross_entropy(logits_BK + log_counts_K.to(logits_BK), labels_B)

        return loss
