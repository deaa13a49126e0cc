"""Samplers: TPE sees the best and the latest, and no more than that."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial

from nasimb.search.samplers import GOOD, SAMPLERS, SHOWN, BoundedTPESampler

CHOICES = {f"stage{n}.width": CategoricalDistribution(tuple(range(8))) for n in range(1, 7)}


def study_of(sampler: optuna.samplers.BaseSampler, count: int, directions: list[str]) -> optuna.Study:
    rng = np.random.default_rng(0)
    study = optuna.create_study(directions=directions, sampler=sampler)
    for _ in range(count):
        values = {name: int(rng.integers(8)) for name in CHOICES}
        scores = [sum(values.values()) + 0.01 * rng.random(), float(values["stage1.width"])]
        trial = create_trial(
            state=TrialState.COMPLETE, params=values, distributions=CHOICES, values=scores[: len(directions)]
        )
        study.add_trial(trial)
    return study


def test_few_trials_are_all_shown_so_that_it_asks_as_optuna_does() -> None:
    bounded = study_of(BoundedTPESampler(3, CHOICES), 60, ["maximize"])
    plain = study_of(optuna.samplers.TPESampler(seed=3, multivariate=True, constant_liar=True), 60, ["maximize"])
    assert [bounded.ask(CHOICES).params for _ in range(8)] == [plain.ask(CHOICES).params for _ in range(8)]


@pytest.mark.parametrize("directions", [["maximize"], ["maximize", "minimize"]])
def test_of_many_trials_the_best_and_the_latest_are_shown(directions: list[str]) -> None:
    sampler = BoundedTPESampler(0, CHOICES)
    study = study_of(sampler, 400, directions)
    study.ask(CHOICES)
    assert sampler._view is not None
    shown = [trial.values for trial in sampler._view.trials if trial.state == TrialState.COMPLETE]
    assert len(shown) == SHOWN
    told = [trial.values for trial in study.trials[:400]]
    assert shown[-100:] == told[-100:]
    if len(directions) == 1:
        assert sorted(told, reverse=True)[:GOOD] == sorted(shown, reverse=True)[:GOOD]


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_seed_asks_the_same(name: str) -> None:
    def asked(seed: int) -> list[dict[str, object]]:
        study = study_of(SAMPLERS[name](seed, CHOICES), 40, ["maximize"])
        return [study.ask(CHOICES).params for _ in range(4)]

    assert asked(5) == asked(5) != asked(6)


@pytest.mark.parametrize("name", ["tpe", "evolution"])
def test_good_choices_are_asked_for_more_often_than_by_chance(name: str) -> None:
    study = study_of(SAMPLERS[name](1, CHOICES), 60, ["maximize"])
    asked = [sum(study.ask(CHOICES).params.values()) for _ in range(12)]
    assert np.mean(asked) > 25  # chance: 21, standard error 1.6
