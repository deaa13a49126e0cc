"""Layers whose size is an argument of `forward`: they use the leading channels and the centre of the kernel.

`extract(...)` gives a plain torch layer with copies of the weights in use, bit-equal in eval mode.
Shapes: B images, C channels, D features, K classes, H and W pixels, O output and I input channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasimb.nn.estimators import NewEstimator
from nasimb.nn.moments import Moments, MomentsFor, OverRanks
from nasimb.nn.norms.base import Norm, NormSpec


@final
class ElasticConv2d(nn.Module):
    """A convolution without bias, padded so that stride alone changes the resolution."""

    def __init__(self, max_in: int, max_out: int, max_kernel: int, stride: int, generator: torch.Generator) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(max_out, max_in, max_kernel, max_kernel))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu", generator=generator)

    def forward(self, x_BCHW: Tensor, width: int, kernel_size: int) -> Tensor:
        """To `width` channels, with the centre `kernel_size` pixels of the kernel."""
        weight_OIHW = self._slice(x_BCHW.shape[1], width, kernel_size)
        return _convolved(x_BCHW, weight_OIHW, self.stride)

    def extract(self, in_width: int, width: int, kernel_size: int) -> nn.Conv2d:
        """The same convolution from `in_width` to `width` channels as a plain layer."""
        # Made on the meta device: torch's own initialisation would draw from the global random state.
        conv = nn.Conv2d(in_width, width, kernel_size, self.stride, kernel_size // 2, bias=False, device="meta")
        weight_OIHW = self._slice(in_width, width, kernel_size).detach()
        conv.weight = nn.Parameter(weight_OIHW.clone(memory_format=torch.contiguous_format))
        return conv

    def _slice(self, in_width: int, width: int, kernel_size: int) -> Tensor:
        border = (self.weight.shape[-1] - kernel_size) // 2
        inside = slice(border, border + kernel_size)
        return self.weight[:width, :in_width, inside, inside]


@final
class ElasticLinear(nn.Module):
    """A linear layer over however many leading features it gets."""

    def __init__(self, max_in: int, out: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out, max_in).normal_(std=0.01, generator=generator))
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, x_BD: Tensor) -> Tensor:
        """Outputs for the leading features `x_BD`."""
        return F.linear(x_BD, self.weight[:, : x_BD.shape[1]], self.bias)


@final
class ElasticNorm(nn.Module):
    """A normaliser at any leading width, out of several; each choice keeps its own parameters.

    Args:
        key: name of this layer in `Statistics`, unique within the network.
        max_channels: most channels it is used with.
        choices: options of each choice by name.
        generator: source of random starting values.
    """

    def __init__(
        self, key: str, max_channels: int, choices: Mapping[str, NormSpec], generator: torch.Generator
    ) -> None:
        super().__init__()
        self.key, self._reach = key, {name: spec.reach for name, spec in choices.items()}
        self.choices = nn.ModuleDict(
            {as_module_name(name): spec.build(max_channels, generator) for name, spec in choices.items()}
        )

    def forward(self, x_BCHW: Tensor, choice: str, moments_for: MomentsFor) -> Tensor:
        """Normalise with the norm named `choice`."""
        norm = self.named(choice)
        if isinstance(moments_for, OverRanks):
            moments_for = moments_for.reaching(self._reach[choice])
        return cast(Tensor, norm(x_BCHW, moments_for(self.key, x_BCHW) if norm.needs_calibration else None))

    @property
    def needs_calibration(self) -> bool:
        """Whether one of the choices does."""
        return any(cast(Norm, norm).needs_calibration for norm in self.choices.values())

    def activates(self, choice: str) -> bool:
        """Whether the norm named `choice` has a nonlinearity of its own."""
        return self.named(choice).activates

    def named(self, choice: str) -> Norm:
        """The layer of that name."""
        return cast(Norm, self.choices[as_module_name(choice)])

    def settle(
        self, parts: Iterable[Tensor], choice: str, into: MutableMapping[str, Moments], new_estimator: NewEstimator
    ) -> Iterator[Tensor]:
        """Normalise parts of the calibration images (each x_BCHW) as their estimator says; write statistics `into`.

        The first result comes when every part is there; each part is freed once its result is out.
        """
        norm = self.named(choice)
        if not norm.needs_calibration:
            yield from (norm(part, None) for part in parts)
            return
        kept, estimator = [], new_estimator(self.key)
        for part in parts:
            kept.append(part)
            estimator.see(part)
        into[self.key], of_parts = estimator.settled()
        kept.reverse()
        for moments in of_parts:
            yield norm(kept.pop(), moments)

    def extract(self, channels: int, choice: str, statistics: Mapping[str, Moments] | None) -> nn.Module:
        """The chosen norm as a plain layer; fresh statistics where none are given."""
        norm = self.named(choice)
        return norm.extract(
            channels, statistics[self.key] if statistics is not None and norm.needs_calibration else None
        )


def as_module_name(choice: str) -> str:
    """A user's own norm is called `package.module:Class`; torch forbids dots in the names of modules."""
    return choice.replace(".", "_")


def _convolved(x_BCHW: Tensor, weight_OIHW: Tensor, stride: int) -> Tensor:
    """A convolution padded so that stride alone changes the resolution."""
    if weight_OIHW.shape[-1] == 1 and stride > 1 and torch.is_grad_enabled():
        # Only the pixels that it sees: the gradient of a strided 1x1 convolution of fewer than 8 channels writes past
        # a buffer on processors with AVX2 but not AVX-512 (oneDNN 3.12 of torch 2.14; its issue 6035).
        x_BCHW, stride = x_BCHW[:, :, ::stride, ::stride], 1
    return F.conv2d(x_BCHW, weight_OIHW, stride=stride, padding=weight_OIHW.shape[-1] // 2)
