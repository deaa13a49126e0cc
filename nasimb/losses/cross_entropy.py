"""Plain cross entropy: every image counts the same."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import cross_entropy

from nasimb.losses.base import Loss, LossSpec, positive_counts


class CrossEntropySpec(LossSpec):
    """CE(z, y) = -z_y + log sum_j exp z_j."""

    name: Literal["cross_entropy"] = "cross_entropy"

    @property
    def balances(self) -> bool:
        """No: the head favours large classes, and a post-hoc adjustment mends it."""
        return False

    def build(self, class_counts_K: Tensor) -> Loss:
        """See `LossSpec.build`."""
        positive_counts(class_counts_K)
        return cross_entropy
