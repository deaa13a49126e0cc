"""How well mixed means estimate the target's, with the weight of `nasimb.nn.mixing` and with others.

Made channels: a shift drawn for each, and a batch of independent images. The error of a weighting is the mean squared
distance of the mixed mean from the target's, in units of its variance, over channels and draws.
Shapes: R draws, C channels, N images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from nasimb.bench.base import Conditions, Figure, made_with, spread
from nasimb.bench.provenance import MADE, on_processor
from nasimb.nn.mixing import Sampled, mixing_weight
from nasimb.nn.moments import Moments

CHANNELS, IMAGES, SHIFTS = (16, 64), (4, 16, 64), (0.1, 0.3, 1.0)
DRAWS, QUICK_DRAWS = 4000, 200
SEEDS = 3
FIXED_IMAGES = 16
FIXED = ("source", "batch", "fixed_16")

Errors = Mapping[str, float]
"""Mean squared error by weighting."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Channels of a layer, images of a batch, standard deviation of the shifts in those of the values."""

    channels: int
    images: int
    shift: float

    @property
    def name(self) -> str:
        """In figures' details."""
        return f"C{self.channels}_n{self.images}_d{self.shift:g}"


CELLS = tuple(Cell(*one) for one in product(CHANNELS, IMAGES, SHIFTS))


@dataclass(frozen=True, eq=False, slots=True)
class Drawn:
    """Batches of one cell; the target's mean is 0, the source's variance 1 and its mean exact.

    Attributes:
        noise_RC: variance of `batch_RC` as the weightings know it, the true one or estimated.
    """

    source_RC: Tensor
    batch_RC: Tensor
    noise_RC: Tensor
    images: int


def mixing(conditions: Conditions) -> Iterator[Figure]:
    """mixing_*: mean squared errors of mixed means, of exponential and Gaussian data, with noise known or estimated."""
    draws = QUICK_DRAWS if conditions.quick else DRAWS
    made: list[Figure] = []
    for kind, known in product(("exponential", "gaussian"), (True, False)):
        errors_S = []
        for seed in range(SEEDS):
            conditions.tick("mixing", len(made) / 8 + seed / SEEDS / 4, f"{kind} data")
            errors_S.append({cell: errors(drawn(cell, kind, known, draws, seed)) for cell in CELLS})
        made += figures(errors_S, kind, known, draws)
    yield from made_with(made, seed=f"0..{SEEDS - 1}", **on_processor(MADE, "none"))


def figures(errors_S: list[dict[Cell, Errors]], kind: str, known: bool, draws: int) -> list[Figure]:
    """The worst cell against the best fixed weighting there, and the mean over cells against the oracle.

    Values and quartiles are of the seeds; the details of the worst are all errors, averaged over them.
    """
    cells = list(errors_S[0])
    mean = {cell: {name: float(np.mean([e[cell][name] for e in errors_S])) for name in errors_S[0][cell]}
            for cell in cells}  # fmt: skip
    against = f"{kind} data, noise {'known' if known else 'estimated'}; {len(cells)} cells of {draws} draws a seed"
    against += "; median of seeds"
    target = known and kind == "exponential"
    tag = "" if target else f"_{kind}_{'known' if known else 'estimated'}"
    detail = {f"{cell.name}_{name}": error for cell in cells for name, error in mean[cell].items()}
    worst, ratio = spread([_worst(e) for e in errors_S]), spread([_to_oracle(e) for e in errors_S])
    return [
        Figure(
            f"mixing_worst{tag}", worst.median,
            f"error of the mixed mean / the least of source, batch and fixed N = {FIXED_IMAGES}; worst cell; {against}",
            at_most=1.15 if target else None, low=worst.low, high=worst.high, repetitions=len(errors_S), detail=detail,
        ),
        Figure(
            f"mixing_oracle{tag}", ratio.median,
            f"error of the mixed mean / that with the best weight of each channel; mean over cells; {against}",
            at_most=1.6 if target else None, low=ratio.low, high=ratio.high, repetitions=len(errors_S),
            detail={f"{name}_to_oracle": _to_oracle(mean, name) for name in mean[cells[0]]},
        ),
    ]  # fmt: skip


def drawn(cell: Cell, kind: str, known: bool, draws: int, seed: int) -> Drawn:
    """Batches of a cell; the same for the same seed, whether their noise is known or not."""
    generator = torch.Generator().manual_seed(seed * len(CELLS) + CELLS.index(cell))
    shape = (draws, cell.channels)
    source_RC = cell.shift * torch.randn(shape, generator=generator)
    x_RCN = torch.empty((*shape, cell.images))
    x_RCN = x_RCN.exponential_(generator=generator) - 1 if kind == "exponential" else x_RCN.normal_(generator=generator)
    noise_RC = torch.full(shape, 1 / cell.images) if known else x_RCN.var(-1) / cell.images
    return Drawn(source_RC, x_RCN.mean(-1), noise_RC, cell.images)


def errors(batches: Drawn) -> Errors:
    """Of every weighting, on the same batches."""
    source_RC, batch_RC = batches.source_RC.double(), batches.batch_RC.double()
    found: dict[str, float] = {}
    for name, weighting in WEIGHTINGS.items():
        weight_RC = weighting(batches).double()
        found[name] = float(torch.lerp(source_RC, batch_RC, weight_RC.expand_as(source_RC)).square().mean())
    return found


def posterior_weight(batches: Drawn) -> Tensor:
    """That of nasimb: [R, 1]."""
    source = Moments(batches.source_RC, torch.ones_like(batches.source_RC))
    target = Sampled(Moments(batches.batch_RC, source.var_C), batches.noise_RC, batches.noise_RC, batches.images)
    return mixing_weight(source, target, None)[:, None]


def pooled_weight(batches: Drawn) -> Tensor:
    """Plug-in of the layer's mean square shift, less the noise: [R, 1]."""
    noise_R1, square_R1 = batches.noise_RC.mean(1, keepdim=True), _square(batches)
    shift_R1 = (square_R1 - noise_R1).clamp(min=0)
    return shift_R1 / (shift_R1 + noise_R1)


def james_stein_weight(batches: Drawn) -> Tensor:
    """Positive part of James and Stein's (1961), towards the source: [R, 1]."""
    channels = batches.source_RC.shape[1]
    return (1 - (channels - 2) / channels * batches.noise_RC.mean(1, keepdim=True) / _square(batches)).clamp(min=0)


def oracle_weight(batches: Drawn) -> Tensor:
    """The best of each channel, from its true shift and noise: [R, C]."""
    return batches.source_RC**2 / (batches.source_RC**2 + 1 / batches.images)


WEIGHTINGS: dict[str, Callable[[Drawn], Tensor]] = {
    "source": lambda batches: torch.zeros(1, 1),
    "batch": lambda batches: torch.ones(1, 1),
    "fixed_16": lambda batches: torch.full((1, 1), batches.images / (batches.images + FIXED_IMAGES)),
    "oracle": oracle_weight,
    "pooled": pooled_weight,
    "james_stein": james_stein_weight,
    "nasimb": posterior_weight,
}
"""Weights of the target, by name; they broadcast to [R, C]."""


def _square(batches: Drawn) -> Tensor:
    return (batches.source_RC - batches.batch_RC).square().mean(1, keepdim=True)


def _worst(cells: Mapping[Cell, Errors]) -> float:
    return max(found["nasimb"] / min(found[name] for name in FIXED) for found in cells.values())


def _to_oracle(cells: Mapping[Cell, Errors], name: str = "nasimb") -> float:
    return float(np.mean([found[name] / found["oracle"] for found in cells.values()]))
