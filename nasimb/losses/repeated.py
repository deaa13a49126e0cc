"""A loss over images that come several times, each time another crop.

Not in the table of losses: nobody asks for it by name, the final refit puts it around the loss that was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import PositiveInt, SerializeAsAny, field_validator
from torch import Tensor

from nasimb.losses import parse_loss
from nasimb.losses.base import Loss, LossSpec, Phase


class RepeatedSpec(LossSpec):
    """`loss` with the class counts of the images, where `class_counts_K` counts each of them `times` times.

    Priors, inverse frequencies and LDAM's margins are the same for both. Effective numbers are not: a class of 10
    images does not know more of the world because each is shown four times.

    Attributes:
        loss: by name or mapping, or as a `LossSpec`.
        times: how often every image comes.
    """

    name: str
    loss: SerializeAsAny[LossSpec]
    times: PositiveInt

    @field_validator("loss", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return parse_loss(value) if isinstance(value, str | Mapping) else value

    @property
    def cosine_scale(self) -> float | None:
        """As the loss."""
        return self.loss.cosine_scale

    @property
    def balances(self) -> bool:
        """As the loss."""
        return self.loss.balances

    def build(self, class_counts_K: Tensor) -> Loss:
        """See `LossSpec.build`."""
        return self.loss.build(class_counts_K.double() / self.times)

    def phases(self, class_counts_K: Tensor) -> tuple[Phase, ...]:
        """See `LossSpec.phases`."""
        return self.loss.phases(class_counts_K.double() / self.times)


def repeated(head: str | Mapping[str, Any], times: int) -> dict[str, Any]:
    """Options of a logistic head (a loss, perhaps with a post-hoc correction) whose images come `times` times each."""
    options = {"name": head} if isinstance(head, str) else dict(head)
    # A tau is the correction's where there is one, and otherwise the loss's own.
    correction = {key: options.pop(key) for key in ("tau", "posthoc") if "posthoc" in options}
    return {"name": f"{RepeatedSpec.__module__}:{RepeatedSpec.__name__}", "loss": options, "times": times, **correction}
