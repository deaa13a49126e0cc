"""What a norm normalises with, given what it has seen of the target: one table of estimators.

A strategy is a value: it takes a layer's source moments, the maps of the newest images and what was known before, and
gives moments, the weight of the target in them, and what is known now. It holds no state of its own.

Shapes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, final

import torch
from torch import Tensor

from nasimb.adapt.estimates import huber_step
from nasimb.errors import InputError, unknown_name
from nasimb.nn.mixing import Sampled, fading, mixed, mixing_weight, pooled_samples, sampled, variance_weight
from nasimb.nn.moments import Moments, moments

Known = Sampled | Moments | None
"""What a strategy carries from batch to batch for one layer; None at the start."""


Correct = Callable[[Moments], Moments]
"""Moments of the target as they would be if only what shall be adapted to were different."""


def unchanged(moments: Moments) -> Moments:
    """Nothing is taken out."""
    return moments


class Estimate(NamedTuple):
    """What a strategy makes of the newest maps.

    Attributes:
        moments: to normalise with.
        weight: of the target in them, 0-d, in [0, 1].
        known: for the next batch.
        newest: what the newest maps say by themselves, where the strategy asked.
    """

    moments: Moments
    weight: Tensor
    known: Known
    newest: Sampled | None = None


class Strategy(ABC):
    """An estimator of the target's moments.

    Attributes:
        adapts: False for the one that never does.
        learns: whether it knows more after a batch than before: then it may look at fewer of them.
    """

    adapts: ClassVar[bool] = True
    learns: ClassVar[bool] = False

    @abstractmethod
    def estimate(self, source: Moments, x_BCHW: Tensor, known: Known, correct: Correct = unchanged) -> Estimate:
        """Moments for maps like `x_BCHW`.

        Args:
            correct: takes what is not to be adapted to out of the target's moments, before they are mixed.
        """


@final
class Source(Strategy):
    """The statistics of training, whatever comes."""

    adapts = False

    def estimate(self, source: Moments, x_BCHW: Tensor, known: Known, correct: Correct = unchanged) -> Estimate:
        """See `Strategy.estimate`."""
        return Estimate(source, torch.zeros(()), None)


@final
class Batch(Strategy):
    """The statistics of each batch alone (arXiv 2006.10963)."""

    def estimate(self, source: Moments, x_BCHW: Tensor, known: Known, correct: Correct = unchanged) -> Estimate:
        """See `Strategy.estimate`."""
        return Estimate(correct(moments(x_BCHW)), torch.ones(()), None)


@final
@dataclass(frozen=True)
class Prior(Strategy):
    """A batch of B images weighs B / (B + images) (Schneider et al. 2020, arXiv 2006.16971).

    The variance is that of the mixture, with the part between the means that published layers leave out.
    """

    images: float

    def estimate(self, source: Moments, x_BCHW: Tensor, known: Known, correct: Correct = unchanged) -> Estimate:
        """See `Strategy.estimate`."""
        weight = torch.tensor(len(x_BCHW) / (len(x_BCHW) + self.images), device=x_BCHW.device)
        return Estimate(mixed(source, correct(moments(x_BCHW)), weight), weight, None)


@final
@dataclass(frozen=True)
class RunningAverage(Strategy):
    """An exponential average over batches that starts at the source: each new batch weighs `momentum`."""

    momentum: float
    learns = True

    def estimate(self, source: Moments, x_BCHW: Tensor, known: Known, correct: Correct = unchanged) -> Estimate:
        """See `Strategy.estimate`."""
        before = known if isinstance(known, Moments) else source
        now = mixed(before, correct(moments(x_BCHW)), self.momentum)
        return Estimate(now, torch.tensor(self.momentum), now)


@final
@dataclass(frozen=True)
class Mixed(Strategy):
    """Source and stream, means and variances each with the layer's weight of least expected error.

    The stream is all images so far (`nasimb.nn.mixing`); once they are more than `memory`, older ones fade.
    """

    memory: int
    learns = True

    def estimate(self, source: Moments, x_BCHW: Tensor, known: Known, correct: Correct = unchanged) -> Estimate:
        """See `Strategy.estimate`. After a single image nothing but the source is known."""
        stream = newest = sampled(x_BCHW)
        if isinstance(known, Sampled):
            stream = pooled_samples(fading(known, max(2, self.memory - stream.images)), stream)
        if stream.images < 2:
            return Estimate(source, torch.zeros(()), stream, newest)
        target = replace(stream, moments=correct(stream.moments))
        weight = mixing_weight(source, target, None)
        moments = mixed(source, target.moments, weight, variance_weight(source, target, None))
        return Estimate(moments, weight, stream, newest)


@final
@dataclass(frozen=True)
class MeanStep(Strategy):
    """A damped one-step M-estimate for the squared loss: from the source, `length` of the way to each batch.

    With one length for all layers it is alpha-BN (arXiv 2110.04065), but for the variance between the means.
    """

    length: float

    def estimate(self, source: Moments, x_BCHW: Tensor, known: Known, correct: Correct = unchanged) -> Estimate:
        """See `Strategy.estimate`."""
        weight = torch.tensor(self.length, device=x_BCHW.device)
        return Estimate(mixed(source, correct(moments(x_BCHW)), weight), weight, None)


@final
@dataclass(frozen=True)
class HuberStep(Strategy):
    """One step of an M-estimate for Huber's loss, for the mean and for the mean square around it.

    Single images far from the others, broken or of another kind, pull no more than those at `clip` deviations. Both
    steps start at the batch's median over images: from the source, a large shift would leave no image within `clip`.
    """

    clip: float

    def estimate(self, source: Moments, x_BCHW: Tensor, known: Known, correct: Correct = unchanged) -> Estimate:
        """See `Strategy.estimate`. A single image has no deviation, and counts as it is."""
        x_BCHW = x_BCHW.float()
        mean_C = self._step(x_BCHW.mean((2, 3)))
        var_C = self._step((x_BCHW - mean_C[:, None, None]).square().mean((2, 3)))
        return Estimate(correct(Moments(mean_C, var_C)), torch.ones(()), None)

    def _step(self, values_BC: Tensor) -> Tensor:
        median_C = values_BC.quantile(0.5, dim=0)
        # The deviation itself would grow with the images that are to be clipped; half of them may be equal, though.
        scale_C = MEDIAN_DEVIATION * (values_BC - median_C).abs().quantile(0.5, dim=0)
        var_C = torch.where(scale_C > 0, scale_C**2, values_BC.var(0, correction=0))
        return huber_step(values_BC, median_C, var_C, self.clip)


MEDIAN_DEVIATION = 1.4826
"""Standard deviation of a normal variable, in medians of its absolute deviation from the median."""


class _Named(NamedTuple):
    build: Callable[[float], Strategy]
    default: float | None
    least: float
    most: float
    whole: bool = False


MEMORY = 8192
"""Images of the stream that `mixed` remembers unless told otherwise."""

STRATEGIES: dict[str, _Named | Strategy] = {
    "source": Source(),
    "batch": Batch(),
    "prior": _Named(Prior, 16, 0, float("inf")),
    "ema": _Named(RunningAverage, 0.1, 0, 1),
    "mixed": _Named(lambda memory: Mixed(int(memory)), MEMORY, 4, 1e9, whole=True),
    "mean-step": _Named(MeanStep, 0.5, 0, 1),
    "huber-step": _Named(HuberStep, 1.5, 1e-3, float("inf")),
}
"""By name; those with a number take it behind a colon: `prior:16` images, `ema:0.1`, `mixed:8192` images of memory,
`mean-step:0.5`, `huber-step:1.5` deviations."""


def named(text: str) -> Strategy:
    """The strategy that a name, with a number where it takes one, stands for.

    Raises:
        InputError: no such name, or a number out of range.
    """
    name, colon, number = text.partition(":")
    if name not in STRATEGIES:
        raise unknown_name("a strategy", name, STRATEGIES)
    found = STRATEGIES[name]
    if isinstance(found, Strategy):
        if colon:
            raise InputError(f"the strategy {name} takes no number", got=text, do=f"Write {name}.")
        return found
    try:
        value = float(number) if colon else found.default
    except ValueError:
        value = None
    if value is None or not found.least <= value <= found.most or (found.whole and value % 1):
        raise InputError(
            f"the {'whole ' if found.whole else ''}number of {name} must be from {found.least:g} to {found.most:g}",
            got=text,
            do=f"Write {name}:{found.default:g}, for example.",
        )
    return found.build(value)
