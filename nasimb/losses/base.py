"""The contract of a loss: options, and the function of logits and labels that they build.

Shapes: B images of a batch, K classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nasimb.errors import InputError
from nasimb.spec import Spec

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits_BK, labels_B) -> scalar: the mean over the batch of a term that depends on its own image alone.

A weighted loss is the mean of w_y * CE_i over the batch, with the weights scaled to mean 1 over the training images.
Over all training images that is sum w CE / sum w, and over a batch an unbiased estimate of it. (Dividing by the
weights within each batch, as torch's `weight=` does, agrees on all training images only.) So a loss of a large set
may be added up from any parts of it.
"""


class Phase(NamedTuple):
    """A loss, and the share of the iterations that minimise it."""

    share: float
    loss: Loss


class LossSpec(Spec, ABC):
    """Options of a loss.

    Example, a loss of one's own, which then goes by `my_lab.losses:Margin`:
        >>> from nasimb.losses import LossSpec
        >>> class Margin(LossSpec):
        ...     name: str = "margin"
        ...     margin: float = 1.0
        ...
        ...     def build(self, class_counts_K):
        ...         return lambda logits_BK, labels_B: torch.nn.functional.multi_margin_loss(
        ...             logits_BK, labels_B, margin=self.margin
        ...         )
        >>> loss = Margin(margin=2.0).build(torch.tensor([90, 10]))
        >>> float(loss(torch.tensor([[1.0, 0.0]]), torch.tensor([0])))
        0.5
    """

    name: str

    @property
    def cosine_scale(self) -> float | None:
        """Of a loss that expects cosines for logits: what it multiplies them by itself. None: any logits."""
        return None

    @property
    def cosine(self) -> bool:
        """Whether the loss expects cosines (between -1 and 1) for logits."""
        return self.cosine_scale is not None

    @property
    def balances(self) -> bool:
        """Whether minimising it corrects for class sizes: then no post-hoc adjustment and no balanced sampling."""
        return True

    @abstractmethod
    def build(self, class_counts_K: Tensor) -> Loss:
        """The loss for training data with these counts.

        Raises:
            InputError: a class has no images. (A head is fitted over the classes that have some.)
        """

    def phases(self, class_counts_K: Tensor) -> tuple[Phase, ...]:
        """The losses to minimise one after the other; most are one phase."""
        return (Phase(1.0, self.build(class_counts_K)),)


def loss_at(phases: tuple[Phase, ...], progress: float) -> Loss:
    """The loss that this share of the steps minimises."""
    over = 0.0
    for share, loss in phases:
        over += share
        if progress < over:
            return loss
    return phases[-1].loss


def positive_counts(class_counts_K: Tensor) -> Tensor:
    """The counts as float64.

    Raises:
        InputError: names the first class without images.
    """
    counts_K = torch.as_tensor(class_counts_K).to(torch.float64)
    if (counts_K < 1).any():
        raise InputError(
            "a loss needs at least one training image in every class",
            got=f"class {int((counts_K < 1).nonzero()[0])} with {int(counts_K.min())}",
            do="Leave classes without training images out.",
        )
    return counts_K
