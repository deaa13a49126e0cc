"""Regularised evolution as an Optuna sampler: children of good trials that differ from them in a choice or two.

Tournament selection and mutation of one choice after Real et al. (2019, arXiv 1802.01548, algorithm 1), crossover as
in the evolutionary search of Once-for-All (Cai et al. 2020, arXiv 1908.09791, section 3.4). Trials die of age. Children
come in broods that share their first choices, and with them the activations of the first stages.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

LIFE = 256
"""So many of the last trials are alive."""
PARENTS = 50
"""So many of those, the best, may have children."""
TOURNAMENT = 10
"""Drawn from the parents for every place; the best of them wins it."""
BROOD = 4
"""Children in a row with the same choices before the cut."""
MUTATIONS = 20
"""Further choices changed, at most, while a child is one that was tried before."""


class EvolutionSampler(BaseSampler):
    """Asks for one batch; a new batch needs a new sampler, which sees the trials told until then.

    Args:
        seed: of every draw.
        distributions: the choices in the order in which a network computes them; those of one stage are
            named `stage.choice`.
    """

    def __init__(self, seed: int, distributions: Mapping[str, CategoricalDistribution]) -> None:
        self._rng = np.random.default_rng(seed)
        self._random = RandomSampler(seed=seed)
        self._distributions = distributions
        self._values = {name: distribution.choices for name, distribution in distributions.items()}
        names = list(distributions)
        # Not before the first stage: nothing would be shared.
        starts = [i for i in range(1, len(names)) if "." in names[i] and _stage(names[i]) != _stage(names[i - 1])]
        self._cuts = starts[1:] or [len(names) // 2]
        self._parents: list[FrozenTrial] | None = None
        self._tried: set[tuple[Any, ...]] = set()
        self._born = 0
        self._founder: dict[str, Any] = {}
        self._free: list[str] = []

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Every choice."""
        return dict(self._distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next child; nothing, which leaves it to chance, while there are no two parents."""
        if self._parents is None:
            trials = study.get_trials(deepcopy=False)[-LIFE:]
            self._parents = best_of([t for t in trials if t.state == TrialState.COMPLETE], study.directions, PARENTS)
            # This trial has its choices without alternative already, and no others.
            self._tried = {self._key(t.params) for t in trials if len(t.params) == len(self._distributions)}
        if len(self._parents) < 2:
            return {}
        if self._born % BROOD == 0:
            self._found(self._parents)
        self._born += 1
        child = self._mutated(self._founder, self._free)
        if self._rng.random() < 0.5:
            child = self._mutated(child, self._free)
        for _ in range(MUTATIONS):
            if self._key(child) not in self._tried:
                break
            child = self._mutated(child, list(self._distributions))
        self._tried.add(self._key(child))
        return child

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A uniform draw."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _found(self, parents: Sequence[FrozenTrial]) -> None:
        """What the next brood starts from, and which choices its children are free to change."""
        names = list(self._distributions)
        cut = self._cuts[self._rng.integers(len(self._cuts))]
        mother, father = self._winner(parents).params, self._winner(parents).params
        self._free = names[cut:]
        founder = {name: mother[name] for name in names[:cut]}
        if self._rng.random() < 0.5:
            founder = self._mutated(founder, names[:cut])
        rest = father if self._rng.random() < 0.5 else mother
        self._founder = {**founder, **{name: rest[name] for name in self._free}}

    def _winner(self, parents: Sequence[FrozenTrial]) -> FrozenTrial:
        return parents[int(self._rng.integers(len(parents), size=TOURNAMENT).min())]

    def _mutated(self, values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        """One choice changed among those of `names` that have another value."""
        movable = [name for name in names if len(self._values[name]) > 1]
        if not movable:
            return dict(values)
        name = movable[self._rng.integers(len(movable))]
        others = [value for value in self._values[name] if value != values[name]]
        return {**values, name: others[self._rng.integers(len(others))]}

    def _key(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(values[name] for name in self._distributions)


def best_of(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection], count: int) -> list[FrozenTrial]:
    """The best `count` complete trials, best first, repeats left out.

    By value with one objective; with two by non-dominated rank (fronts peeled off one after another), the later ones
    of a front first.
    """
    different = list({frozenset(trial.params.items()): trial for trial in reversed(trials)}.values())
    losses = {trial.number: tuple(_loss(v, d) for v, d in zip(trial.values, directions, strict=True))
              for trial in different}  # fmt: skip
    if len(directions) > 1:
        ranks = _fronts(losses)
        return sorted(different, key=lambda trial: (ranks[trial.number], -trial.number))[:count]
    return sorted(different, key=lambda trial: (losses[trial.number], -trial.number))[:count]


def _fronts(losses: Mapping[int, tuple[float, ...]]) -> dict[int, int]:
    """Rank of every pair of losses: 0 where no other is at least as small in both, and smaller in one.

    In lexicographic order only earlier pairs can beat a pair, and of a front only its last one need be looked at.
    """
    ranks: dict[int, int] = {}
    last: list[float] = []
    before: tuple[float, ...] | None = None
    for number, (first, second) in sorted(losses.items(), key=lambda item: item[1]):
        if (first, second) != before:  # equal pairs share a front
            rank = bisect_right(last, second)
            last[rank : rank + 1] = [second]
            before = first, second
        ranks[number] = rank
    return ranks


def _loss(value: float, direction: StudyDirection) -> float:
    return -value if direction == StudyDirection.MAXIMIZE else value


def _stage(name: str) -> str:
    return name.split(".")[0]
