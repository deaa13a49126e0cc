"""Limits on cost, checked exactly before any work is done on a subnet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nasimb.errors import InputError, WorkError
from nasimb.search.trial import Trial
from nasimb.space import SearchSpace, Subnet

CostOf = Callable[[Subnet], tuple[int, int]]
"""Subnet -> (MACs, parameters), head included."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The most a subnet may cost; None: no limit."""

    max_macs: int | None = None
    max_params: int | None = None

    def exceeded(self, macs: int, params: int) -> str | None:
        """Which limit the cost breaks, as a sentence; None if it keeps them all."""
        if self.max_macs is not None and macs > self.max_macs:
            return f"{macs} MACs exceed the limit of {self.max_macs}"
        if self.max_params is not None and params > self.max_params:
            return f"{params} parameters exceed the limit of {self.max_params}"
        return None

    def kept_by(self, trials: Sequence[Trial]) -> list[Trial]:
        """Those that keep the limits.

        Raises:
            WorkError: none does.
        """
        within = [trial for trial in trials if self.exceeded(trial.macs, trial.params) is None]
        if not within:
            raise WorkError(
                "a candidate within the limits must have a score",
                got=f"none of {len(trials)} trials",
                do="See the reasons in trials.csv; train the super-network longer, or raise the limits.",
            )
        return within


@dataclass(frozen=True, slots=True)
class CostRow:
    """Cost of one representative subnet, and whether it keeps the limits."""

    name: str
    macs: int
    params: int
    within: bool


def cost_range(space: SearchSpace, cost_of: CostOf, limits: Limits, *, samples: int = 501) -> list[CostRow]:
    """Smallest, median (by MACs, of a fixed random sample) and largest subnet, so that limits can be judged at once.

    Raises:
        InputError: not even the smallest subnet keeps the limits.
    """
    rng = np.random.default_rng(0)
    drawn = sorted(cost_of(space.sample(rng)) for _ in range(samples))
    named = {"smallest": cost_of(space.smallest()), "median": drawn[samples // 2], "largest": cost_of(space.largest())}
    rows = [CostRow(name, *cost, limits.exceeded(*cost) is None) for name, cost in named.items()]
    broken = limits.exceeded(rows[0].macs, rows[0].params)
    if broken:
        raise InputError(
            f"the limits must admit the smallest subnet of {space.name}",
            got=broken,
            do="Raise the limit, or search a space of smaller networks.",
        )
    return rows
