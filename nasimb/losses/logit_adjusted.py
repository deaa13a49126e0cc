"""Logit adjustment within the loss (Menon et al. 2021, equation 10)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from nasimb.losses.base import Loss, LossSpec, positive_counts


class LogitAdjustedSpec(LossSpec):
    """CE(z + tau log pi, y) with pi_k = n_k / N.

    Attributes:
        tau: 0 is plain cross entropy, 1 is balanced softmax.
    """

    name: Literal["logit_adjusted"] = "logit_adjusted"
    tau: float = Field(default=1.0, ge=0.0)

    def build(self, class_counts_K: Tensor) -> Loss:
        """See `LossSpec.build`."""
        counts_K = positive_counts(class_counts_K)
        shift_K = self.tau * (counts_K / counts_K.sum()).log()

        def loss(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
            return cross_entropy(logits_BK + shift_K.to(logits_BK), labels_B)

        return loss
