"""Normalised batch normalisation (NBN, arXiv 2501.03122): a unit weight vector times a learned scalar."""

from __future__ import annotations

from math import sqrt
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn

from nasimb.nn.norms.affine import AffineBatchNorm
from nasimb.nn.norms.base import NormSpec


@final
class NormalisedBatchNorm(AffineBatchNorm):
    """Batch normalisation whose weight vector has the learned length `s`, however unbalanced its channels become.

    With long-tailed data the weights of few channels grow at the cost of those that rare classes need. NBN
    (arXiv 2501.03122; formula as in its authors' code) fixes the length of the vector and learns it apart:

        weight = s * gamma / (||gamma||_2 + 1e-6)
        bias   = s * beta  / (||beta||_2  + 1e-6)      or   bias = beta  (`bias="free"`)

    Both norms run over the channels in use, so that an extracted layer sees all that it depends on. Three choices
    differ from the authors' code, which starts at gamma 1, beta 0, s 1:

    - The bias is free by default. Where it is normalised, the map from beta has slope s / 1e-6 at beta = 0: the
      first step throws the vector far out in a direction that one batch chose, and there the gradient has all but
      vanished. `bias="normalised"` therefore starts from a random unit vector, where the slope is about s.
    - s starts at sqrt(max_channels). From 1 the weights start at 1 / sqrt(channels): a residual branch all but
      closed, beside batch normalised branches that share its convolutions. From sqrt(max_channels) they start at
      1, as those of batch normalisation do (a little higher where fewer channels are in use).
    - Each layer learns its own s; the authors' code shares one among all of them.
    """

    floor: ClassVar[float] = 1e-6

    def __init__(self, max_channels: int, bias: Literal["free", "normalised"], generator: torch.Generator) -> None:
        super().__init__()
        self.normalises_bias = bias == "normalised"
        self.scale = nn.Parameter(torch.tensor(sqrt(max_channels)))
        self.weight = nn.Parameter(torch.ones(max_channels))
        start_C = torch.zeros(max_channels)
        if self.normalises_bias:
            start_C = torch.randn(max_channels, generator=generator)
            start_C /= start_C.norm()
        self.bias = nn.Parameter(start_C)

    def weight_and_bias(self, channels: int) -> tuple[Tensor, Tensor]:
        """The leading entries, normalised among themselves."""
        weight_C, bias_C = self.weight[:channels], self.bias[:channels]
        if self.normalises_bias:
            bias_C = bias_C * (self.scale / (torch.linalg.vector_norm(bias_C) + self.floor))
        return weight_C * (self.scale / (torch.linalg.vector_norm(weight_C) + self.floor)), bias_C


@final
class NormalisedBatchNormSpec(NormSpec):
    """NBN; `bias` says whether the bias vector is normalised too (see `NormalisedBatchNorm`)."""

    name: Literal["nbn"] = "nbn"
    bias: Literal["free", "normalised"] = "free"

    def build(self, max_channels: int, generator: torch.Generator) -> NormalisedBatchNorm:
        """Starts with every weight 1 at full width."""
        return NormalisedBatchNorm(max_channels, self.bias, generator)
