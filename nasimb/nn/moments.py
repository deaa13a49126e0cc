"""Channel statistics as values, and where a normaliser gets them from.

A super-network holds no running statistics: they would belong to whichever subnet was evaluated last. Every forward
pass is told by a `MomentsFor` which moments each layer normalises with, and calibration returns them as a mapping.
Shapes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Moments:
    """Mean and biased variance of each channel, float32.

    Biased, because that is what batch normalisation divides by; torch stores the unbiased one in `running_var`.
    """

    mean_C: Tensor
    var_C: Tensor


Statistics = Mapping[str, Moments]
"""Moments of every calibrated layer of one subnet, by layer key."""

MomentsFor = Callable[[str, Tensor], Moments | None]
"""(layer key, layer input x_BCHW) -> the moments to normalise with; None means those of the batch itself."""


def moments(x_BCHW: Tensor) -> Moments:
    """Moments over images and pixels, in float32 whatever the type of `x_BCHW`."""
    var_C, mean_C = torch.var_mean(x_BCHW.float(), dim=(0, 2, 3), correction=0)
    return Moments(mean_C, var_C)


def batch_moments(key: str, x_BCHW: Tensor) -> None:
    """The `MomentsFor` of training: every layer uses its batch, through torch's fused kernel."""
    del key, x_BCHW


def given(statistics: Statistics) -> MomentsFor:
    """The `MomentsFor` of evaluation: fixed statistics, whatever the batch.

    The mapping must come from the same subnet; a layer it does not know is a KeyError.
    """
    return lambda key, x_BCHW: statistics[key]


def recording(into: MutableMapping[str, Moments]) -> MomentsFor:
    """The `MomentsFor` of calibration: every layer uses its batch, and writes down what that was."""

    def record(key: str, x_BCHW: Tensor) -> Moments:
        into[key] = moments(x_BCHW)
        return into[key]

    return record
