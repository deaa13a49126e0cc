"""Evolution: who are parents, how children differ from them, what a batch shares."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from test_study import cost_of, free, question

from nasimb.search.evolution import BROOD, EvolutionSampler, best_of
from nasimb.search.study import Study
from nasimb.search.trial import FINISHED
from nasimb.space import SearchSpace, Stage

STAGE = Stage(depths=(1, 2, 3), widths=(8, 12, 16), kernel_sizes=(1, 3, 5), norms=("bn", "nbn"))
SPACE = SearchSpace(
    name="three", backbone="resnet", stem_width=8, resolutions=(16, 24, 32), stages=(STAGE,) * 3, taps=(1, 2, 3)
)
CHOICES = {name: CategoricalDistribution(values) for name, values in SPACE.choices().items()}
BOTH = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]


def told(values: dict[str, object], *scores: float) -> FrozenTrial:
    return create_trial(state=TrialState.COMPLETE, params=values, distributions=CHOICES, values=scores)


def several(count: int, objectives: int = 1) -> list[FrozenTrial]:
    rng = np.random.default_rng(0)
    return [told(SPACE.values(SPACE.sample(rng)), *rng.random(objectives)) for _ in range(count)]


def children(trials: list[FrozenTrial], count: int, seed: int = 0) -> list[dict[str, object]]:
    directions = BOTH[: len(trials[0].values)] if trials else BOTH[:1]
    study = optuna.create_study(directions=directions, sampler=EvolutionSampler(seed, CHOICES))
    study.add_trials(trials)
    return [study.ask(dict(CHOICES)).params for _ in range(count)]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=25))
def test_the_best_come_front_by_front(pairs: list[tuple[int, int]]) -> None:
    rng = np.random.default_rng(1)
    subnets = list({SPACE.sample(rng): None for _ in range(40)})
    trials = [told(SPACE.values(s), *map(float, pair)) for s, pair in zip(subnets, pairs, strict=False)]
    for number, trial in enumerate(trials):
        trial.number = number
    left = {trial.number: (-trial.values[0], trial.values[1]) for trial in trials}
    expected: list[int] = []
    while left:  # peel off by brute force
        front = [n for n, a in left.items() if not any(b[0] <= a[0] and b[1] <= a[1] and b != a for b in left.values())]
        expected += sorted(front, reverse=True)
        left = {number: pair for number, pair in left.items() if number not in front}
    assert [trial.number for trial in best_of(trials, BOTH, 25)] == expected


def test_the_best_are_those_of_the_largest_value_without_repeats() -> None:
    trials = several(30)
    trials += [told(trials[3].params, *trials[3].values)]
    for number, trial in enumerate(trials):
        trial.number = number
    best = best_of(trials, BOTH[:1], 10)
    assert [t.value for t in best] == sorted({t.value for t in trials}, reverse=True)[:10]


@pytest.mark.parametrize("objectives", [1, 2])
def test_children_differ_from_their_parents_in_few_choices(objectives: int) -> None:
    trials = several(30, objectives)
    parents = [trial.params for trial in trials]
    for child in children(trials, 64):
        SPACE.subnet(child)
        assert child not in parents
        names = list(CHOICES)
        # Whatever the mother and the father: all but three choices are those of one or the other.
        fewest = min(
            sum(child[name] != (mother if i < cut else father)[name] for i, name in enumerate(names))
            for mother in parents for father in parents for cut in (5, 9)
        )  # fmt: skip
        assert fewest <= 3


def test_a_brood_shares_its_first_stage_and_a_batch_does_not_repeat_itself() -> None:
    batch = children(several(30), 16)
    first = [name for name in CHOICES if name == "resolution" or name.startswith("stage1")]
    for start in range(0, 16, BROOD):
        assert len({tuple(child[name] for name in first) for child in batch[start : start + BROOD]}) == 1
    assert len({tuple(child.values()) for child in batch}) == 16


def test_good_parents_have_more_children() -> None:
    trials = several(100)
    good = {tuple(t.params.values())[:5] for t in sorted(trials, key=lambda t: t.value)[-20:]}
    batches = [children(trials, 16, seed) for seed in range(8)]
    of_good = sum(tuple(child.values())[:5] in good for batch in batches for child in batch)
    bad = {tuple(t.params.values())[:5] for t in sorted(trials, key=lambda t: t.value)[:50]}
    of_bad = sum(tuple(child.values())[:5] in bad - good for batch in batches for child in batch)
    assert of_good > 8 * 16 / 3
    assert of_bad < of_good / 4


def test_the_same_seed_has_the_same_children() -> None:
    trials = several(30)
    assert children(trials, 16, 3) == children(trials, 16, 3) != children(trials, 16, 4)


def test_without_parents_children_are_random() -> None:
    assert len({tuple(child.values()) for child in children([], 8)}) == 8


def test_it_finds_better_subnets_than_chance_does() -> None:
    def best(sampler: str, seed: int) -> float:
        asked = question(space=SPACE, sampler=sampler, seed=seed)
        weights = np.random.default_rng(seed).random((len(CHOICES), 40))

        def score(values: dict[str, object]) -> float:
            return float(sum(weights[i, hash(v) % 40 if isinstance(v, int) else len(str(v))]
                             for i, v in enumerate(values.values())))  # fmt: skip

        def evaluate(proposals):  # type: ignore[no-untyped-def]
            from dataclasses import replace

            return [replace(t, score=score(SPACE.values(t.candidate.subnet))) for t in free(proposals)]

        trials = Study(asked, cost_of).run(evaluate, len, 120)
        return max(t.score or 0.0 for t in trials if t.state == FINISHED)

    assert np.mean([best("evolution", seed) - best("random", seed) for seed in range(4)]) > 0.3
