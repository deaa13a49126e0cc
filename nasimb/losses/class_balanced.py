"""Cross entropy weighted by the inverse effective number of images (Cui et al. 2019)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from nasimb.losses.base import Loss, LossSpec, positive_counts
from nasimb.losses.weights import effective_number_weights, mean_one, weighted_mean


class ClassBalancedSpec(LossSpec):
    """w_y CE(z, y) with w_k proportional to (1 - beta) / (1 - beta^n_k).

    Attributes:
        beta: 0 is plain cross entropy; towards 1 it becomes inverse frequency.
    """

    name: Literal["class_balanced"] = "class_balanced"
    beta: float = Field(default=0.9999, ge=0.0, lt=1.0)

    def build(self, class_counts_K: Tensor) -> Loss:
        """See `LossSpec.build`."""
        counts_K = positive_counts(class_counts_K)
        weights_K = mean_one(effective_number_weights(counts_K, self.beta), counts_K)

        def loss(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
            return weighted_mean(cross_entropy(logits_BK, labels_B, reduction="none"), labels_B, weights_K)

        return loss
