"""How a layer gets its statistics from calibration images that pass it in parts.

An estimator belongs to one layer of one subnet: it is shown the layer's inputs on every part in turn, and then says
what the layer's statistics are and what each of these parts normalises with on its way to the next layer. Where parts
of the source and of the target pass side by side, those of the source come first, and no part holds both.

Shapes: B images of a part, N images of all parts, C channels, H and W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from nasimb.errors import InputError
from nasimb.nn.mixing import Sampled, mixed, mixing_weight, repeated, sampled_images, squares_around, variance_weight
from nasimb.nn.moments import Moments, merged, moments

MOMENTUM = 0.1
"""Share of a batch in running statistics: torch's default."""


class Settled(NamedTuple):
    """What an estimator found.

    Attributes:
        statistics: of the layer.
        of_parts: what each part normalises with, in the order in which they were seen.
    """

    statistics: Moments
    of_parts: Sequence[Moments]


class Estimator(ABC):
    """The statistics of one layer, in the making."""

    @abstractmethod
    def see(self, x_BCHW: Tensor) -> None:
        """The layer's input on the next part; it is not changed, and not kept."""

    @abstractmethod
    def settled(self) -> Settled:
        """What came of it, once every part was seen."""


NewEstimator = Callable[[str], Estimator]
"""layer key -> the estimator of that layer"""


class Pooled(Estimator):
    """Moments over all parts together, which all of them normalise with."""

    def __init__(self) -> None:
        self._found: list[Moments] = []
        self._sizes: list[int] = []

    def see(self, x_BCHW: Tensor) -> None:
        """See `Estimator.see`."""
        self._found.append(moments(x_BCHW))
        self._sizes.append(x_BCHW.numel() // x_BCHW.shape[1])

    def settled(self) -> Settled:
        """See `Estimator.settled`."""
        whole = self.moments()
        return Settled(whole, [whole] * len(self._found))

    def moments(self) -> Moments:
        """Of what was seen so far."""
        return merged(self._found, self._sizes)


class Kept(Estimator):
    """Statistics that were there before: the images change nothing.

    Args:
        kept: of a layer at least as wide as this one, whose leading channels count; None: mean 0 and variance 1.
    """

    def __init__(self, kept: Moments | None) -> None:
        self._kept = kept
        self._seen: list[Moments] = []

    def see(self, x_BCHW: Tensor) -> None:
        """See `Estimator.see`."""
        channels, device = x_BCHW.shape[1], x_BCHW.device
        if self._kept is None:
            found = Moments(torch.zeros(channels, device=device), torch.ones(channels, device=device))
        else:
            found = Moments(self._kept.mean_C[:channels].to(device), self._kept.var_C[:channels].to(device))
        self._seen.append(found)

    def settled(self) -> Settled:
        """See `Estimator.settled`."""
        return Settled(self._seen[0], self._seen)


class Mixed(Estimator):
    """Moments of a mixture of source and target, which both normalise with; see `nasimb.nn.mixing`.

    Args:
        source_images: how many of the images, the first, are of the source.
        target_images: how many independent images those of the target are worth; None: they are distinct.
    """

    def __init__(self, source_images: int, target_images: int | None = None) -> None:
        self._source = Pooled()
        self._source_images, self._worth = source_images, target_images
        self._seen = self._parts = 0
        self._means_BC: list[Tensor] = []
        self._squares_BC: list[Tensor] = []

    def see(self, x_BCHW: Tensor) -> None:
        """See `Estimator.see`."""
        if self._seen < self._source_images:
            self._source.see(x_BCHW)
        else:
            self._means_BC.append(x_BCHW.float().mean((2, 3)))
            self._squares_BC.append(squares_around(x_BCHW, self._centre_C))
        self._seen += len(x_BCHW)
        self._parts += 1

    def settled(self) -> Settled:
        """See `Estimator.settled`.

        Raises:
            InputError: the target has a single image.
        """
        source, target = self._source.moments(), self._of_target()
        weight = mixing_weight(source, target, self._source_images)
        mixture = mixed(source, target.moments, weight, variance_weight(source, target, self._source_images))
        return Settled(mixture, [mixture] * self._parts)

    @cached_property
    def _centre_C(self) -> Tensor:
        """Of the source, all of which comes before the first part of the target."""
        return self._source.moments().mean_C

    def _of_target(self) -> Sampled:
        """As `nasimb.nn.mixing.sampled` of all parts together, whatever their sizes."""
        images = sum(map(len, self._means_BC))
        worth = images if self._worth is None else self._worth
        if min(worth, images) < 2:
            raise InputError(
                "moments to be mixed must come from at least 2 images of the target",
                got=worth,
                do="Raise calibration_images, or use another calibration.",
            )
        return repeated(sampled_images(torch.cat(self._means_BC), torch.cat(self._squares_BC), self._centre_C), worth)


class Running(Estimator):
    """What training in batches leaves in a batch norm that starts from the source: every part of the target is a batch.

    It normalises with its own moments, which enter the running ones with a share of `momentum`, whatever its size: all
    are to be of one size (see `nasimb.supernet.calibrate.whole_batches`).

    Args:
        source_images: how many of the images, the first, are of the source.
    """

    def __init__(self, source_images: int, momentum: float = MOMENTUM) -> None:
        self._source, self._source_images, self._momentum = Pooled(), source_images, momentum
        self._seen = 0
        self._batches: list[Moments] = []

    def see(self, x_BCHW: Tensor) -> None:
        """See `Estimator.see`."""
        if self._seen < self._source_images:
            self._source.see(x_BCHW)
        else:
            self._batches.append(moments(x_BCHW))
        self._seen += len(x_BCHW)

    def settled(self) -> Settled:
        """See `Estimator.settled`. Variances are the biased ones, as everywhere here; torch's are larger by n/(n-1)."""
        running, of_source = self._source.moments(), self._source.settled().of_parts
        for batch in self._batches:
            running = Moments(
                torch.lerp(running.mean_C, batch.mean_C, self._momentum),
                torch.lerp(running.var_C, batch.var_C, self._momentum),
            )
        return Settled(running, [*of_source, *self._batches])
