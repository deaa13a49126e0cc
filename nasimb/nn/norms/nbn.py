"""Normalised batch normalisation (NBN, arXiv 2501.03122): a unit weight vector times a learned scalar."""

from __future__ import annotations

from math import sqrt
from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasimb.nn.norms.affine import AffineBatchNorm
from nasimb.nn.norms.base import PlacedSpec, RunningSpec

FLOOR = 1e-6
"""Added to the length of a vector before it divides."""


def effective(weight_C: Tensor, bias_C: Tensor, scale: Tensor, *, normalises_bias: bool) -> tuple[Tensor, Tensor]:
    """Weight and bias that NBN normalises with; see `NormalisedBatchNorm`."""
    if normalises_bias:
        bias_C = bias_C * (scale / (torch.linalg.vector_norm(bias_C) + FLOOR))
    return weight_C * (scale / (torch.linalg.vector_norm(weight_C) + FLOOR)), bias_C


@final
class NormalisedBatchNorm(AffineBatchNorm):
    """Batch normalisation whose weight vector has the learned length `s`, however unbalanced its channels become.

    With long-tailed data the weights of few channels grow at the cost of those that rare classes need. NBN
    (arXiv 2501.03122; formula as in its authors' code) fixes the length of the vector and learns it apart:

        weight = s * gamma / (||gamma||_2 + 1e-6)
        bias   = s * beta  / (||beta||_2  + 1e-6)      or   bias = beta  (`bias="free"`)

    Both norms run over the channels in use, so that an extracted layer sees all that it depends on. Three defaults
    differ from the authors' code, which starts at gamma 1, beta 0, s 1 (`NBN_PUBLISHED`):

    - The bias is free by default. Where it is normalised, the map from beta has slope s / 1e-6 at beta = 0: the
      first step throws the vector far out in a direction that one batch chose, and there the gradient has all but
      vanished. `bias="normalised"` therefore starts from a random unit vector, where the slope is about s.
    - s starts at sqrt(max_channels). From 1 the weights start at 1 / sqrt(channels): a residual branch all but
      closed, beside batch normalised branches that share its convolutions. From sqrt(max_channels) they start at
      1, as those of batch normalisation do (a little higher where fewer channels are in use).
    - Each layer learns its own s; the authors' code shares one among all of them.
    """

    def __init__(self, max_channels: int, spec: NormalisedBatchNormSpec, generator: torch.Generator) -> None:
        super().__init__(spec.eps, spec.momentum)
        self.normalises_bias = spec.bias == "normalised"
        self.scale = nn.Parameter(torch.tensor(spec.first_scale(max_channels)))
        self.weight = nn.Parameter(torch.ones(max_channels))
        self.bias = nn.Parameter(spec.first_bias(max_channels, generator))
        self._borrowed: tuple[nn.Parameter, ...] = ()

    def borrow(self, scale: nn.Parameter) -> None:
        """Use a scalar that somebody else owns and saves, shared with other layers; its own is gone.

        It is no parameter of this layer: a state dict that had it once for every layer could not be saved.
        """
        del self.scale
        self._borrowed = (scale,)  # in a tuple, where torch does not register it; a deep copy of both stays shared

    def weight_and_bias(self, channels: int) -> tuple[Tensor, Tensor]:
        """The leading entries, normalised among themselves."""
        (scale,) = self._borrowed or (self.scale,)
        return effective(self.weight[:channels], self.bias[:channels], scale, normalises_bias=self.normalises_bias)


@final
class NormalisedBatchNorm2d(nn.BatchNorm2d):
    """`NormalisedBatchNorm` of one width with running statistics, to be trained by itself.

    Weight and bias are normalised in every forward pass, so that they are in the state dict as they were learned and
    nothing derived is kept. The scalar is its own.
    """

    def __init__(self, channels: int, spec: NormalisedBatchNormSpec, generator: torch.Generator) -> None:
        super().__init__(channels, eps=spec.eps, momentum=spec.momentum)
        self.normalises_bias = spec.bias == "normalised"
        self.scale = nn.Parameter(torch.tensor(spec.first_scale(channels)))
        with torch.no_grad():
            self.bias.copy_(spec.first_bias(channels, generator))

    def forward(self, input: Tensor) -> Tensor:
        """The normalised maps, in the type of `input`."""
        weight_C, bias_C = effective(self.weight, self.bias, self.scale, normalises_bias=self.normalises_bias)
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return F.batch_norm(
            input, self.running_mean, self.running_var, weight_C, bias_C, self.training, self.momentum or 0.0, self.eps
        )  # fmt: skip

    @torch.no_grad()
    def folded(self) -> nn.BatchNorm2d:
        """An ordinary BatchNorm2d that gives the same in eval mode."""
        norm = nn.BatchNorm2d(self.num_features, eps=self.eps, momentum=self.momentum, device=self.weight.device)
        weight_C, bias_C = effective(self.weight, self.bias, self.scale, normalises_bias=self.normalises_bias)
        norm.load_state_dict({**norm.state_dict(), "weight": weight_C, "bias": bias_C, **dict(self.named_buffers())})
        return norm.train(self.training)


@final
class NormalisedBatchNormSpec(PlacedSpec, RunningSpec):
    """NBN (see `NormalisedBatchNorm`).

    Attributes:
        bias: whether the bias vector is normalised too.
        scale: which layers share the learned scalar: each has its `layer`'s own, or all layers of a `stage` that chose
            this norm have one, or all of the network (`shared`). A plain layer has its own.
        start: of the scalar: `width` is sqrt(channels), of the widest among those that share it, so that weights
            start at 1 there; `one` is the published 1.
        bias_start: of a normalised bias: a `random` unit vector, or the published `zero`, where the first step throws
            it far out. A free bias starts at zero in any case.
    """

    name: Literal["nbn"] = "nbn"
    bias: Literal["free", "normalised"] = "free"
    scale: Literal["layer", "stage", "shared"] = "layer"
    start: Literal["width", "one"] = "width"
    bias_start: Literal["random", "zero"] = "random"

    def build(self, max_channels: int, generator: torch.Generator) -> NormalisedBatchNorm:
        """With a scalar of its own; `borrow` replaces it."""
        return NormalisedBatchNorm(max_channels, self, generator)

    def plain(self, channels: int, generator: torch.Generator | None = None) -> NormalisedBatchNorm2d:
        """See `NormSpec.plain`."""
        return NormalisedBatchNorm2d(channels, self, generator or torch.Generator().manual_seed(0))

    def first_scale(self, channels: int) -> float:
        """What the scalar starts at."""
        return sqrt(channels) if self.start == "width" else 1.0

    def first_bias(self, channels: int, generator: torch.Generator) -> Tensor:
        """What the bias starts at: bias_C."""
        if self.bias == "free" or self.bias_start == "zero":
            return torch.zeros(channels)
        start_C = torch.randn(channels, generator=generator)
        length: Tensor = torch.linalg.vector_norm(start_C)
        return start_C / length


NBN_PUBLISHED = NormalisedBatchNormSpec(bias="normalised", scale="shared", start="one", bias_start="zero")
"""The layer of the authors' code, trap at beta = 0 included."""
