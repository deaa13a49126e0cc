"""Deferred reweighting (Cao et al. 2019): learn without weights first, balance at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

from pydantic import Field, SerializeAsAny, field_validator
from torch import Tensor

from nasimb.losses.balanced_softmax import BalancedSoftmaxSpec
from nasimb.losses.base import Loss, LossSpec, Phase
from nasimb.losses.class_balanced import ClassBalancedSpec
from nasimb.losses.cross_entropy import CrossEntropySpec
from nasimb.losses.focal import FocalSpec
from nasimb.losses.inverse_frequency import InverseFrequencySpec
from nasimb.losses.ldam import LdamSpec
from nasimb.losses.logit_adjusted import LogitAdjustedSpec
from nasimb.spec import from_table

DEFERRABLE: dict[str, type[LossSpec]] = {
    "class_balanced": ClassBalancedSpec,
    "inverse_frequency": InverseFrequencySpec,
    "balanced_softmax": BalancedSoftmaxSpec,
    "logit_adjusted": LogitAdjustedSpec,
    "ldam": LdamSpec,
    "focal": FocalSpec,
}


class DeferredSpec(LossSpec):
    """The first `share` of the iterations without class weights, the rest with `base`.

    LDAM and focal keep their form in the first part and lose only their weights (LDAM-DRW is `base: {name: ldam,
    class_balanced: true}`); before any other base comes plain cross entropy. A convex loss minimised to the end forgets
    where it started, so this is for limited iterations.

    Attributes:
        base: the loss of the last part.
        share: 0.8 is 160 of 200 epochs.
    """

    name: Literal["deferred"] = "deferred"
    base: SerializeAsAny[LossSpec] = ClassBalancedSpec()
    share: float = Field(default=0.8, gt=0.0, lt=1.0)

    @field_validator("base", mode="before")
    @classmethod
    def _named(cls, value: Any) -> LossSpec:
        base = from_table(DEFERRABLE, value, what="the deferred loss") if isinstance(value, str | Mapping) else value
        if isinstance(base, LdamSpec | FocalSpec):
            # Without their weights both parts would be the same.
            return base.model_copy(update={"class_balanced": True})
        if isinstance(base, tuple(DEFERRABLE.values())):
            return cast("LossSpec", base)
        raise ValueError(f"the deferred loss must be one of {', '.join(DEFERRABLE)}")

    @property
    def cosine_scale(self) -> float | None:
        """As the base."""
        return self.base.cosine_scale

    def build(self, class_counts_K: Tensor) -> Loss:
        """The loss of the last part; `phases` has both."""
        return self.base.build(class_counts_K)

    def phases(self, class_counts_K: Tensor) -> tuple[Phase, ...]:
        """Both parts, each with its share of the iterations."""
        first = self._without_weights().build(class_counts_K)
        return Phase(self.share, first), Phase(1.0 - self.share, self.build(class_counts_K))

    def _without_weights(self) -> LossSpec:
        if isinstance(self.base, LdamSpec | FocalSpec):
            return self.base.model_copy(update={"class_balanced": False})
        return CrossEntropySpec()
