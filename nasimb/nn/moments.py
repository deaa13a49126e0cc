"""Channel statistics as values, and where a normaliser gets them from.

A super-network holds no running statistics: they would belong to whichever subnet was evaluated last. Every forward
pass is told by a `MomentsFor` which moments each layer normalises with, and calibration returns them as a mapping.
Shapes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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

IMAGES_A_PART = 256

MomentsFor = Callable[[str, Tensor], Moments | None]
"""(layer key, layer input x_BCHW) -> the moments to normalise with; None means those of the batch itself."""


def moments(x_BCHW: Tensor) -> Moments:
    """Moments over images and pixels, in float32 whatever the type of `x_BCHW`.

    Two passes over sums that torch adds up pairwise: right to the last digits, and 5 to 20 times faster than
    torch.var_mean on a CPU. (torch.batch_norm_update_stats is as fast, but off by 5e-4 over a million pixels.)
    """
    x_BCHW = x_BCHW.float()
    mean_C = x_BCHW.mean((0, 2, 3))
    # In parts, so that the centred copies stay small.
    squares = [(part - mean_C[:, None, None]).square_().sum((0, 2, 3)) for part in torch.split(x_BCHW, IMAGES_A_PART)]
    return Moments(mean_C, torch.stack(squares).sum(0) / (x_BCHW.numel() / len(mean_C)))


def merged(parts: Sequence[Moments], sizes: Sequence[int]) -> Moments:
    """Moments of a whole from those of its parts of `sizes` values a channel, added up in float64.

    Exact, since the variance between the means of the parts is part of it (Chan, Golub and LeVeque 1983).
    """
    shares_P = torch.tensor(sizes, dtype=torch.float64, device=parts[0].mean_C.device)
    shares_P = shares_P / shares_P.sum()
    means_PC = torch.stack([part.mean_C for part in parts]).double()
    variances_PC = torch.stack([part.var_C for part in parts]).double()
    mean_C = shares_P @ means_PC
    return Moments(mean_C.float(), (shares_P @ (variances_PC + (means_PC - mean_C) ** 2)).float())


def batch_moments(key: str, x_BCHW: Tensor) -> None:
    """The `MomentsFor` of training: every layer uses its batch, through torch's fused kernel."""
    del key, x_BCHW


def synchronised(summed_: Callable[[Tensor], Tensor]) -> MomentsFor:
    """The `MomentsFor` of training by several processes as one: every layer uses the batches of all of them together.

    The moments depend on the layer's input, so gradients flow through them, to every process.

    Args:
        summed_: adds a tensor up over the processes, in place; called once a layer forward and once backward.
    """

    def moments_for(key: str, x_BCHW: Tensor) -> Moments:
        del key
        return Moments(*_SharedMoments.apply(x_BCHW, summed_))

    return moments_for


Reach = Literal["recipe", "process", "ranks"]
"""Whose batches a norm uses where several processes train: as the recipe says, its own alone, or those of all."""


@dataclass(frozen=True, slots=True)
class OverRanks:
    """The `MomentsFor` of training by several processes in which some norms reach further than others.

    Attributes:
        summed_: as of `synchronised`.
        together: whether norms that leave it to the recipe use the batches of all processes, or their own.
    """

    summed_: Callable[[Tensor], Tensor]
    together: bool

    def __call__(self, key: str, x_BCHW: Tensor) -> Moments | None:
        """What the recipe says."""
        return self.reaching("recipe")(key, x_BCHW)

    def reaching(self, reach: Reach) -> MomentsFor:
        """The moments for a norm of this reach."""
        shared = self.together if reach == "recipe" else reach == "ranks"
        return synchronised(self.summed_) if shared else batch_moments


class _SharedMoments(torch.autograd.Function):
    """(x_BCHW, summed_) -> mean_C, var_C over the inputs of all processes."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, summed_: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        own, channels = moments(x_BCHW), x_BCHW.shape[1]
        mean_C, var_C = own.mean_C.double(), own.var_C.double()
        # Merged in float64, where the square of a mean far from zero does not swallow the variance beside it.
        sums = torch.cat([mean_C, var_C + mean_C**2, mean_C.new_ones(1)]) * (x_BCHW.numel() // channels)
        mean_C, square_C, count_1 = torch.split(summed_(sums), [channels, channels, 1])
        mean_C, square_C = mean_C / count_1, square_C / count_1
        ctx.summed_ = summed_
        ctx.save_for_backward(x_BCHW, mean_C.float(), count_1.float())
        return mean_C.float(), (square_C - mean_C**2).clamp_(min=0.0).float()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        x_BCHW, mean_C, count_1 = ctx.saved_tensors
        # Every process normalises with these moments: the slopes of all of them lead back to every input.
        mean_slope_C, var_slope_C = torch.split(ctx.summed_(torch.cat(slopes)) / count_1, len(mean_C))
        centred_BCHW = x_BCHW - mean_C[:, None, None]
        slope_BCHW = torch.addcmul(mean_slope_C[:, None, None], centred_BCHW, 2 * var_slope_C[:, None, None])
        return slope_BCHW.to(x_BCHW.dtype), None


def given(statistics: Statistics) -> MomentsFor:
    """The `MomentsFor` of evaluation: fixed statistics, whatever the batch.

    The mapping must come from the same subnet; a layer it does not know is a KeyError.
    """
    return lambda key, x_BCHW: statistics[key]
