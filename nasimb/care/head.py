"""Whether a head on frozen features does for the target: measured, where a super-network lends its features.

The closed-form head that ranks candidates is fitted to the target's training images twice: on the frozen features, and
on simple ones that nobody trained (`nasimb.care.features`). Both are asked about every image left out of them. Features
that serve the target clearly worse than eight by eight pixels and edges do were made for other images: what a trained
network would find, they do not hold. Clearly: more than `MOST_BEHIND` behind, with more than `MOST_MISTAKES` times the
mistakes (hard data lose points to chance alone).

The limits were chosen on the 16 pairs of `nasimb.care.gap`, on which it was measured what a head costs; all of these
they tell (the nearest: 1.3 and 5.8 points behind; 1.12 and 1.54 times the mistakes). Of nine further pairs of digits
they tell all too: coloured ones, 43 points behind, lost 34; inverted or turned ones and other classes lost at most 1.2,
and were at most 0.7 behind. All were of one small network, two seeds: `tests/care/head_table.py` measures them again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nasimb.data.base import ImageSet
from nasimb.heads.gda import GdaSpec
from nasimb.metrics import measure

MOST_BEHIND, MOST_MISTAKES = 0.035, 1.3
"""How far, in balanced accuracy, and with how many times the mistakes frozen features may stand behind simple ones."""


@dataclass(frozen=True)
class HeadCheck:
    """Balanced accuracy of the closed-form head on the target's training images, each left out of it.

    Attributes:
        frozen: on the super-network's features.
        simple: on features that need no training.
    """

    frozen: float
    simple: float

    @property
    def suffices(self) -> bool:
        """Whether a head alone is likely to do."""
        behind, mistakes = self.simple - self.frozen, (1 - self.frozen) / max(1 - self.simple, 1e-9)
        return behind <= MOST_BEHIND or mistakes <= MOST_MISTAKES

    @property
    def sentence(self) -> str:
        """The verdict in plain words."""
        found = (
            f"a head on the frozen features recognises {100 * self.frozen:.1f} % of the training images, each left out "
            f"of it, classes counted alike; on simple features {100 * self.simple:.1f} %"
        )
        if self.suffices:
            return f"Retraining the head alone is likely to suffice: {found}."
        return (
            f"Retraining the head alone is not likely to suffice: {found}. Train the super-network on the target "
            "itself (--source target), or on images more like it."
        )


def head_check(target: ImageSet, frozen_ND: Tensor, simple_ND: Tensor) -> HeadCheck | None:
    """Both heads on the images of classes that have two; None where fewer than two classes do.

    Args:
        frozen_ND, simple_ND: features of the target's images.
    """
    kept_M = (target.class_counts_K[target.labels_N] > 1).nonzero().flatten()
    present = torch.unique(target.labels_N[kept_M])
    if len(present) < 2:
        return None
    labels_M = torch.searchsorted(present, target.labels_N[kept_M])
    return HeadCheck(*(_left_out(features_ND[kept_M], labels_M) for features_ND in (frozen_ND, simple_ND)))


def _left_out(features_MD: Tensor, labels_M: Tensor) -> float:
    """Balanced accuracy of the head at the shrinkage of the lowest leave-one-out loss."""
    counts_K = torch.bincount(labels_M)
    best = min(GdaSpec().score(features_MD.float(), labels_M, len(counts_K)), key=lambda one: one.balanced_loss)
    return measure(best.predicted_N.numpy(), labels_M.numpy(), counts_K.numpy()).balanced_accuracy
