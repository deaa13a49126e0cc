"""What the two batch normalisers share: batch normalisation with weights that may be any function of parameters."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasimb.nn.moments import Moments
from nasimb.nn.norms.base import Norm


class AffineBatchNorm(Norm):
    """`y = weight (x - mean) / sqrt(var + eps) + bias` where `weight_and_bias` says what weight and bias are."""

    eps: ClassVar[float] = 1e-5

    @abstractmethod
    def weight_and_bias(self, channels: int) -> tuple[Tensor, Tensor]:
        """The effective vectors of the leading `channels`."""

    def forward(self, x_BCHW: Tensor, moments: Moments | None) -> Tensor:
        """Normalise x_BCHW; without moments through torch's fused kernel for batch statistics."""
        weight_C, bias_C = self.weight_and_bias(x_BCHW.shape[1])
        if moments is None:
            return F.batch_norm(x_BCHW, None, None, weight_C, bias_C, training=True, eps=self.eps)
        if moments.mean_C.requires_grad:  # the kernel takes moments for constants
            scale_C = weight_C * (moments.var_C + self.eps).rsqrt()
            shift_C = bias_C - moments.mean_C * scale_C
            return torch.addcmul(shift_C[:, None, None], x_BCHW, scale_C[:, None, None]).to(x_BCHW.dtype)
        return F.batch_norm(x_BCHW, moments.mean_C, moments.var_C, weight_C, bias_C, training=False, eps=self.eps)

    def extract(self, channels: int, moments: Moments | None) -> nn.BatchNorm2d:
        """An ordinary BatchNorm2d, the effective vectors folded in."""
        with torch.no_grad():
            weight_C, bias_C = self.weight_and_bias(channels)
            norm = nn.BatchNorm2d(channels, eps=self.eps, device=weight_C.device)
            norm.weight.copy_(weight_C)
            norm.bias.copy_(bias_C)
            if moments is not None and norm.running_mean is not None and norm.running_var is not None:
                norm.running_mean.copy_(moments.mean_C)
                norm.running_var.copy_(moments.var_C)
        return norm
