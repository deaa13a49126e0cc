"""EvoNorm-B0 (arXiv 2004.02967, table 2): the larger of a batch's deviation and one that an image has by itself.

Shapes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from nasimb.nn.moments import Moments
from nasimb.nn.norms.base import PlacedSpec, RunningSpec, check_maps, with_leading
from nasimb.nn.norms.evonorm import EvoNorm, EvoParameters
from nasimb.nn.norms.groups import group_variance


def _normalised(x_BCHW: Tensor, var_C: Tensor, parameters: EvoParameters, eps: float) -> Tensor:
    check_maps(x_BCHW)
    channels = x_BCHW.shape[1]
    weight_C11, bias_C11, v_C11 = parameters.leading(channels)
    wide_BCHW = x_BCHW.float()
    over_batch_C11 = (var_C.float() + eps).sqrt()[:, None, None]
    over_map_BC11 = (group_variance(wide_BCHW, channels) + eps).sqrt()
    divided_BCHW = wide_BCHW / torch.maximum(over_batch_C11, torch.addcmul(over_map_BC11, wide_BCHW, v_C11))
    return torch.addcmul(bias_C11, divided_BCHW, weight_C11).to(x_BCHW.dtype)


def _batch_variance(x_BCHW: Tensor) -> Tensor:
    """Biased, over images and pixels, with its gradient: var_C, float32. In two passes, as `nasimb.nn.moments`."""
    check_maps(x_BCHW)
    wide_BCHW = x_BCHW.float()
    return (wide_BCHW - wide_BCHW.mean((0, 2, 3), keepdim=True)).square().mean((0, 2, 3))


@final
class PlainEvoNormB0(EvoParameters):
    """`EvoNormB0` of one width with a running variance (unbiased, as torch's batch norm keeps it; no mean)."""

    running_var: Tensor

    def __init__(self, channels: int, eps: float, momentum: float, device: torch.device | None = None) -> None:
        super().__init__(channels, device)
        self.eps, self.momentum = eps, momentum
        self.register_buffer("running_var", torch.ones(channels, device=device))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Maps in the type of `x_BCHW`; with the variance of the batch in training, the running one otherwise."""
        if not self.training:
            return _normalised(x_BCHW, self.running_var, self, self.eps)
        var_C = _batch_variance(x_BCHW)
        values = x_BCHW.numel() // x_BCHW.shape[1]
        unbiased_C = var_C.detach() * (values / max(values - 1, 1))
        self.running_var.lerp_(unbiased_C.to(self.running_var.dtype), self.momentum)
        return _normalised(x_BCHW, var_C, self, self.eps)


@final
class EvoNormB0(EvoNorm):
    """`y = gamma x / max(sqrt(var_BHW(x) + eps), v x + sqrt(var_HW(x) + eps)) + beta`.

    Of the moments it uses the variance alone.
    """

    def __init__(self, max_channels: int, eps: float, momentum: float) -> None:
        super().__init__(max_channels)
        self.eps, self.momentum = eps, momentum

    def forward(self, x_BCHW: Tensor, moments: Moments | None) -> Tensor:
        """Normalise with the variance of `moments`, or of the batch where None; in float32."""
        var_C = _batch_variance(x_BCHW) if moments is None else moments.var_C
        return _normalised(x_BCHW, var_C, self, self.eps)

    def extract(self, channels: int, moments: Moments | None) -> PlainEvoNormB0:
        """A layer of that width."""
        norm = with_leading(PlainEvoNormB0(channels, self.eps, self.momentum, self.weight.device), self)
        if moments is not None:
            norm.running_var.copy_(moments.var_C)
        return norm


@final
class EvoNormB0Spec(PlacedSpec, RunningSpec):
    """EvoNorm-B0."""

    parameters_per_channel: ClassVar[int] = 3

    name: Literal["evonorm_b0"] = "evonorm_b0"

    def build(self, max_channels: int, generator: torch.Generator) -> EvoNormB0:
        """Weights and v start at 1, biases at 0."""
        del generator
        return EvoNormB0(max_channels, self.eps, self.momentum)
