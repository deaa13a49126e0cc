"""Stratified folds over few images a class, and what heads predict for the fold they did not see.

Shapes: N images, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from nasimb.heads.head import Head
from nasimb.metrics import NO_PREDICTION

ROWS = 4096
"""Images whose logits are in memory at a time."""
ALWAYS_TRAINING = -1
"""Fold of the only image of a class: no fold leaves it out."""


def stratified_folds(labels_N: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """fold_N: the fold that leaves each image out.

    A class's images go round the folds one by one in a random order, starting at a random fold, so that its folds
    differ by at most one image and small classes do not all meet in the first. A class with fewer images than folds is
    missing from some folds' held-out part, never from a training part; one image alone is `ALWAYS_TRAINING`.
    """
    rng = np.random.default_rng(seed)
    fold_N = np.full(len(labels_N), ALWAYS_TRAINING, dtype=np.int64)
    for label in np.unique(labels_N):
        positions = rng.permutation(np.flatnonzero(labels_N == label))
        offset = rng.integers(folds)
        if len(positions) > 1:
            fold_N[positions] = (offset + np.arange(len(positions))) % folds
    return fold_N


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """What one setting predicts for every training image, by the head fitted without the image's fold.

    Attributes:
        name, setting: the head, and its penalty (and what a post-hoc adjustment added).
        predicted_N: int64 on the CPU; `NO_PREDICTION` for the only image of a class.
        balanced_loss: mean over classes of their images' mean negative log likelihood.
        fold_N: which head is each image's own.
        heads: one a fold.
    """

    name: str
    setting: float
    predicted_N: Tensor
    balanced_loss: float
    fold_N: Tensor
    heads: tuple[Head, ...]

    def adjusted(self, features_ND: Tensor, labels_N: Tensor, adjust: Callable[[Head], Head]) -> OutOfFold:
        """The same after a post-hoc adjustment of every fold's head; nothing is fitted again."""
        return out_of_fold(features_ND, labels_N, self.fold_N, [adjust(head) for head in self.heads])


def out_of_fold(features_ND: Tensor, labels_N: Tensor, fold_N: Tensor, heads: Sequence[Head]) -> OutOfFold:
    """Every fold's images through the head that has not seen them."""
    labels_N = labels_N.cpu()
    predicted_N = torch.full((len(labels_N),), NO_PREDICTION, dtype=torch.int64)
    losses_N = torch.zeros(len(labels_N), dtype=torch.float64)
    for fold, head in enumerate(heads):
        members = (fold_N == fold).nonzero().squeeze(1)
        for start in range(0, len(members), ROWS):
            held_out = members[start : start + ROWS]
            features_BD = features_ND[held_out.to(features_ND.device)]
            predicted_N[held_out], losses_N[held_out] = _predict(head, features_BD, labels_N[held_out])
    kept_N = predicted_N != NO_PREDICTION
    loss = _class_mean(losses_N[kept_N], labels_N[kept_N])
    return OutOfFold(heads[0].name, heads[0].setting, predicted_N, loss, fold_N, tuple(heads))


def predict_held_out(head: Head, features_MD: Tensor, labels_M: Tensor) -> tuple[Tensor, float]:
    """predicted_M, int64 on the CPU, and the balanced log loss; logits of a part of the images at a time."""
    labels_M = labels_M.cpu()
    parts = [slice(start, start + ROWS) for start in range(0, len(labels_M), ROWS)]
    predicted, losses = zip(*(_predict(head, features_MD[part], labels_M[part]) for part in parts), strict=True)
    return torch.cat(predicted), _class_mean(torch.cat(losses), labels_M)


def _predict(head: Head, features_BD: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
    logits_BK = head.logits(features_BD).cpu()
    return logits_BK.argmax(1), cross_entropy(logits_BK, labels_B, reduction="none")


def balanced_log_loss(logits_NK: Tensor, labels_N: Tensor) -> float:
    """Mean over the classes present of their images' mean negative log likelihood."""
    return _class_mean(cross_entropy(logits_NK.double(), labels_N, reduction="none"), labels_N)


def _class_mean(losses_N: Tensor, labels_N: Tensor) -> float:
    counts_K = torch.bincount(labels_N).double()
    sums_K = torch.bincount(labels_N, weights=losses_N)
    return float((sums_K[counts_K > 0] / counts_K[counts_K > 0]).mean())
