"""Losses a head may be fitted with, by name: start with `parse_loss`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nasimb.losses.balanced_softmax import BalancedSoftmaxSpec
from nasimb.losses.base import Loss, LossSpec
from nasimb.losses.class_balanced import ClassBalancedSpec
from nasimb.losses.cross_entropy import CrossEntropySpec
from nasimb.losses.deferred import DeferredSpec
from nasimb.losses.focal import FocalSpec
from nasimb.losses.inverse_frequency import InverseFrequencySpec
from nasimb.losses.ldam import LdamSpec
from nasimb.losses.logit_adjusted import LogitAdjustedSpec
from nasimb.spec import from_table

__all__ = ["LOSSES", "BalancedSoftmaxSpec", "Loss", "LossSpec", "parse_loss"]

LOSSES: dict[str, type[LossSpec]] = {
    "cross_entropy": CrossEntropySpec,
    "inverse_frequency": InverseFrequencySpec,
    "class_balanced": ClassBalancedSpec,
    "balanced_softmax": BalancedSoftmaxSpec,
    "logit_adjusted": LogitAdjustedSpec,
    "ldam": LdamSpec,
    "focal": FocalSpec,
    "deferred": DeferredSpec,
}
"""Losses by name. One more is a class here, or `package.module:Class` where the name goes."""


def parse_loss(value: str | Mapping[str, Any]) -> LossSpec:
    """The loss that a configuration value names: `"focal"` or `{name: focal, gamma: 2}`.

    Raises:
        InputError: no such loss, or no such option (with the nearest known).

    Example:
        >>> import torch
        >>> logits_BK, labels_B = torch.tensor([[4.0, 0.0], [4.0, 0.0]]), torch.tensor([0, 1])
        >>> counts_K = torch.tensor([90, 10])
        >>> plain = parse_loss("cross_entropy").build(counts_K)
        >>> weighted = parse_loss({"name": "inverse_frequency"}).build(counts_K)
        >>> round(float(plain(logits_BK, labels_B)), 2), round(float(weighted(logits_BK, labels_B)), 2)
        (2.02, 10.05)
    """
    return from_table(LOSSES, value, what="the loss")
