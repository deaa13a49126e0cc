"""The contract of a normaliser: options, the elastic layer they build, and the plain layer that one becomes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, TypeVar

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from nasimb.errors import InputError
from nasimb.nn.moments import Moments, Reach
from nasimb.spec import Spec

Module = TypeVar("Module", bound=nn.Module)


class Norm(nn.Module, ABC):
    """A normaliser built for the most channels, usable at every leading width.

    Attributes:
        needs_calibration: whether `forward` takes moments. A norm over single images (group, layer) does not.
        activates: whether a nonlinearity is part of it, so that none must follow where one otherwise would.
    """

    needs_calibration: ClassVar[bool] = True
    activates: ClassVar[bool] = False

    @abstractmethod
    def forward(self, x_BCHW: Tensor, moments: Moments | None) -> Tensor:
        """Normalise with `moments`, or with those of the batch where None. C may be any leading width."""

    @abstractmethod
    def extract(self, channels: int, moments: Moments | None) -> nn.Module:
        """A plain layer for the leading `channels`, bit-equal in eval mode to `forward(x, moments)`.

        Without moments the layer is fresh (mean 0, variance 1), to load a state dict into.
        """


@torch.no_grad()
def with_leading(plain: Module, wide: nn.Module) -> Module:
    """`plain`, each of its parameters filled with the leading entries of that of the same name in `wide`."""
    for name, parameter in plain.named_parameters():
        parameter.copy_(wide.get_parameter(name)[: len(parameter)])
    return plain


def check_maps(x_BCHW: Tensor) -> None:
    """Raise InputError unless these are maps: over other axes a norm would be another one."""
    if x_BCHW.ndim != 4:
        raise InputError(
            "this norm must be given maps [B, C, H, W]", got=list(x_BCHW.shape), do="Use it after 2-d convolutions."
        )


class NormSpec(Spec, ABC):
    """Options of a normaliser.

    Attributes:
        parameters_per_channel: of an extracted layer.
        over_batches: whether its statistics in training are those of a batch.
        reach: whose batches those are where several processes train.

    Example, a norm of one's own, which then goes by `my_lab.norms:Centred`:
        >>> class Centring(nn.Module):
        ...     def forward(self, x_BCHW):
        ...         return x_BCHW - x_BCHW.mean((2, 3), keepdim=True)
        >>> class ElasticCentring(Norm):
        ...     needs_calibration = False
        ...
        ...     def forward(self, x_BCHW, moments):
        ...         return Centring()(x_BCHW)
        ...
        ...     def extract(self, channels, moments):
        ...         return Centring()
        >>> class Centred(NormSpec):
        ...     parameters_per_channel = 0
        ...     name: str = "centred"
        ...
        ...     def build(self, max_channels, generator):
        ...         return ElasticCentring()
        >>> Centred().plain(channels=8)(torch.full((1, 8, 2, 2), 7.0)).abs().max()
        tensor(0.)
    """

    parameters_per_channel: ClassVar[int] = 2
    over_batches: ClassVar[bool] = False
    reach: ClassVar[Reach] = "recipe"

    name: str

    @property
    def everywhere(self) -> bool:
        """Whether it takes every norm of the blocks that choose it, or the last one (and the shortcut's) alone."""
        return False

    @abstractmethod
    def build(self, max_channels: int, generator: torch.Generator) -> Norm:
        """The layer with fresh parameters; random ones, if any, come from `generator`."""

    def plain(self, channels: int, generator: torch.Generator | None = None) -> nn.Module:
        """A fresh plain layer of this kind to be trained by itself, with running statistics where it has any.

        Unlike an extracted layer it keeps whatever makes the kind special in training. `generator` is for those that
        start at random; None: the same start every time.
        """
        return self.build(channels, generator or torch.Generator().manual_seed(0)).extract(channels, None)


class PlacedSpec(NormSpec, ABC):
    """Options of a normaliser that a block may use in its middle too.

    Attributes:
        where: `last` takes the place of the last norm of each block and of the shortcut's; `all` that of every norm
            of the block.
    """

    where: Literal["last", "all"] = "last"

    @property
    def everywhere(self) -> bool:
        """See `NormSpec.everywhere`."""
        return self.where == "all"


class EpsilonSpec(NormSpec, ABC):
    """What nearly all have.

    Attributes:
        eps: added to the variance.
    """

    eps: PositiveFloat = 1e-5


class RunningSpec(EpsilonSpec, ABC):
    """What those over batches have.

    Attributes:
        momentum: weight of the newest batch in the running statistics of a plain layer; a super-network has none.
    """

    over_batches: ClassVar[bool] = True

    momentum: float = Field(default=0.1, gt=0, le=1)
