"""What batch normalisers share: batch normalisation with weights that may be any function of parameters."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasimb.nn.moments import Moments
from nasimb.nn.norms.base import Norm


class AffineBatchNorm(Norm):
    """`y = weight (x - mean) / sqrt(var + eps) + bias` where `weight_and_bias` says what weight and bias are."""

    def __init__(self, eps: float, momentum: float) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum

    @abstractmethod
    def weight_and_bias(self, channels: int) -> tuple[Tensor, Tensor]:
        """The effective vectors of the leading `channels`."""

    def forward(self, x_BCHW: Tensor, moments: Moments | None) -> Tensor:
        """Normalise x_BCHW; without moments through torch's fused kernel for batch statistics."""
        weight_C, bias_C = self.weight_and_bias(x_BCHW.shape[1])
        if moments is None:
            return self.over_batch(x_BCHW, weight_C, bias_C)
        if moments.mean_C.requires_grad:  # the kernel takes moments for constants
            scale_C = weight_C * (moments.var_C + self.eps).rsqrt()
            shift_C = bias_C - moments.mean_C * scale_C
            return torch.addcmul(shift_C[:, None, None], x_BCHW, scale_C[:, None, None]).to(x_BCHW.dtype)
        return F.batch_norm(x_BCHW, moments.mean_C, moments.var_C, weight_C, bias_C, training=False, eps=self.eps)

    def over_batch(self, x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor) -> Tensor:
        """Normalise with the moments of the batch itself; torch's kernel takes them in float32."""
        return F.batch_norm(x_BCHW, None, None, weight_C, bias_C, training=True, eps=self.eps)

    def extract(self, channels: int, moments: Moments | None) -> nn.BatchNorm2d:
        """An ordinary BatchNorm2d, the effective vectors folded in."""
        with torch.no_grad():
            weight_C, bias_C = self.weight_and_bias(channels)
            norm = nn.BatchNorm2d(channels, eps=self.eps, momentum=self.momentum, device=weight_C.device)
            norm.weight.copy_(weight_C)
            norm.bias.copy_(bias_C)
            if moments is not None and norm.running_mean is not None and norm.running_var is not None:
                norm.running_mean.copy_(moments.mean_C)
                norm.running_var.copy_(moments.var_C)
        return norm


class OwnAffineBatchNorm(AffineBatchNorm):
    """The weights themselves: `weight = gamma`, `bias = beta`."""

    def __init__(self, max_channels: int, eps: float, momentum: float) -> None:
        super().__init__(eps, momentum)
        self.weight = nn.Parameter(torch.ones(max_channels))
        self.bias = nn.Parameter(torch.zeros(max_channels))

    def weight_and_bias(self, channels: int) -> tuple[Tensor, Tensor]:
        """The leading entries."""
        return self.weight[:channels], self.bias[:channels]
