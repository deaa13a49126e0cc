"""Who proposes subnets: one sampler a batch, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from nasimb.search.evolution import EvolutionSampler, best_of

GOOD, SHOWN = 25, 250
"""Of the trials told, TPE sees the best 25, which are all that it ever models as good, and of the others the latest,
250 in all: from there on it would give older ones ever less weight, and take ever longer."""


class BoundedTPESampler(BaseSampler):
    """Optuna's multivariate TPE on a study of its own that holds no more trials than `SHOWN` and those it asks for.

    The latter count as bad as long as they run (constant liar), so that a batch does not repeat itself.
    Asks for one batch; a new batch needs a new sampler, which sees the trials told until then.
    """

    def __init__(self, seed: int, distributions: Mapping[str, CategoricalDistribution]) -> None:
        self._tpe = TPESampler(seed=seed, multivariate=True, constant_liar=True)
        self._distributions = distributions
        self._random = RandomSampler(seed=seed)
        self._view: optuna.Study | None = None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Every choice."""
        return dict(self._distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Where TPE would look next."""
        if self._view is None:
            self._view = optuna.create_study(directions=study.directions, sampler=self._tpe)
            told = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
            self._view.add_trials(_shown(told, study))
        return self._view.ask(search_space).params

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A uniform draw; there is no choice that the above leaves open."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)


def _shown(told: list[FrozenTrial], study: optuna.Study) -> list[FrozenTrial]:
    """Best and latest of the trials told, in order."""
    if len(told) <= SHOWN:
        return told
    good = best_of([trial for trial in told if trial.state == TrialState.COMPLETE], study.directions, GOOD)
    numbers = {trial.number for trial in good}
    others = [trial for trial in told if trial.number not in numbers]
    return sorted([*good, *others[len(good) - SHOWN :]], key=lambda trial: trial.number)


SAMPLERS: dict[str, Callable[[int, Mapping[str, CategoricalDistribution]], BaseSampler]] = {
    "tpe": BoundedTPESampler,
    "evolution": EvolutionSampler,
    "nsga2": lambda seed, distributions: NSGAIISampler(seed=seed, population_size=20),
    "random": lambda seed, distributions: RandomSampler(seed=seed),
}
"""Seed and choices -> the sampler of one batch."""
