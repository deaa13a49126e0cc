"""Cross entropy with weights that give every class the same total weight."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import cross_entropy

from nasimb.losses.base import Loss, LossSpec, positive_counts
from nasimb.losses.weights import inverse_frequency_weights, weighted_mean


class InverseFrequencySpec(LossSpec):
    """w_y CE(z, y) with w_k = N / (K n_k), as scikit-learn's class_weight="balanced"."""

    name: Literal["inverse_frequency"] = "inverse_frequency"

    def build(self, class_counts_K: Tensor) -> Loss:
        """See `LossSpec.build`."""
        weights_K = inverse_frequency_weights(positive_counts(class_counts_K))

        def loss(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
            return weighted_mean(cross_entropy(logits_BK, labels_B, reduction="none"), labels_B, weights_K)

        return loss
