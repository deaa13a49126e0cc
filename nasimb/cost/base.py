"""The cost of a subnet as a value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one image through a network.

    Attributes:
        macs: multiply-accumulates of convolutions and linear layers.
        params: trainable numbers of the plain network.
        latency_seconds: median time of one batch; None where it was not measured.

    Example:
        >>> from nasimb.cost import macs_and_params
        >>> from nasimb.space import SearchSpace
        >>> space = SearchSpace.load("digits-resnet")
        >>> Cost(*macs_and_params(space, space.smallest(), in_channels=1))
        Cost(macs=242688, params=20288, latency_seconds=None)
    """

    macs: int
    params: int
    latency_seconds: float | None = None
