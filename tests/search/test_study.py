"""The loop around Optuna: order of trials, repeats, limits, resuming."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasimb.errors import InputError
from nasimb.search.limits import Limits, cost_range
from nasimb.search.study import SAMPLERS, STARTUP, Proposal, Question, Study
from nasimb.search.trial import (
    CACHED,
    FAILED,
    FINISHED,
    INFEASIBLE,
    SCREENED,
    Candidate,
    Trial,
    best_first,
    pareto_set,
    scored_as,
)
from nasimb.space import SearchSpace, Stage, Subnet


def tiny_space(**changes: object) -> SearchSpace:
    stage = Stage(depths=(1, 2), widths=(8, 16), kernel_sizes=(3, 5), norms=("bn", "nbn"))
    options = {"name": "tiny", "backbone": "resnet", "stem_width": 8, "resolutions": (8, 12), "stages": (stage,)}
    return SearchSpace(**{**options, **changes})


LARGE = tiny_space(resolutions=tuple(range(8, 40)))


def cost_of(subnet: Subnet) -> tuple[int, int]:
    macs = sum(d * w * k for d, w, k in zip(subnet.depths, subnet.widths, subnet.kernel_sizes, strict=True))
    return macs * subnet.resolution, macs


def question(**changes: object) -> Question:
    options = {"space": tiny_space(), "calibrations": ("source",), "limits": Limits(), "sampler": "tpe", "cost": None}
    return Question(**{**options, "seed": 0, **changes})


def finished(proposal: Proposal, **changes: object) -> Trial:
    subnet = proposal.candidate.subnet
    score = 0.5 + subnet.widths[0] / 100 + subnet.depths[0] / 1000
    values = {"state": FINISHED, "seconds": 1.0, "score": score, **changes}
    return Trial(
        number=proposal.number, kind=proposal.kind, candidate=proposal.candidate, macs=proposal.macs,
        params=proposal.params, **values,
    )  # fmt: skip


def free(proposals: Sequence[Proposal]) -> list[Trial]:
    return [finished(proposal) for proposal in proposals]


def run(study: Study, max_trials: int | None = None, evaluate=free, may_start=len) -> list[Trial]:
    return list(study.run(evaluate, may_start, max_trials))


def test_smallest_and_largest_come_first_then_plain_random_trials() -> None:
    trials = run(Study(question(), cost_of), max_trials=14)
    assert [t.kind for t in trials[:2]] == ["smallest", "largest"]
    assert trials[0].candidate.subnet == tiny_space().smallest()
    assert trials[1].candidate.subnet == tiny_space().largest()
    assert {t.kind for t in trials[2 : 2 + STARTUP]} == {"random"}
    assert "sampler" in {t.kind for t in trials[2 + STARTUP :]}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("cost", [None, "macs"])
def test_the_whole_of_a_small_space_is_scored_once_each_then_the_search_ends(sampler: str, cost: str | None) -> None:
    trials = run(Study(question(sampler=sampler, cost=cost), cost_of))
    scored = [t.candidate for t in trials if t.state == FINISHED]
    assert len(scored) == len(set(scored)) == tiny_space().size() == 32


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_space_of_norms_alone_has_one_named_subnet_and_an_end(sampler: str) -> None:
    stage = Stage(depths=(1,), widths=(8,), norms=("bn", "nbn", "gn"))
    space = tiny_space(resolutions=(8,), stages=(stage, stage))
    assert space.smallest() == space.largest()
    study = Study(question(space=space, sampler=sampler), cost_of)
    trials = run(study)
    assert [t.kind for t in trials[:2]] == ["smallest", "largest"]
    assert trials[1].cached_from == 0
    scored = [t.candidate for t in trials if t.state == FINISHED]
    assert len(scored) == len(set(scored)) == space.size() == 9
    assert study.exhausted
    ranked = best_first(trials)
    assert trials[1] not in ranked
    assert scored_as("largest", trials, ranked) == scored_as("smallest", trials, ranked) == trials[0]
    assert scored_as("largest", trials, ranked[:0]) is None


def some(*options: object) -> st.SearchStrategy[tuple[object, ...]]:
    """Some of the options, in their order."""
    chosen = st.sets(st.sampled_from(options), min_size=1)
    return chosen.map(lambda found: tuple(option for option in options if option in found))


STAGES = st.builds(Stage, depths=some(1, 2), widths=some(8, 16), kernel_sizes=some(3, 5), norms=some("bn", "gn"))


@settings(max_examples=20, deadline=None)
@given(
    sampler=st.sampled_from(sorted(SAMPLERS)), resolutions=some(8, 12), stages=st.lists(STAGES, min_size=1, max_size=2),
    calibrations=some("source", "target-natural"), cost=st.sampled_from([None, "macs"]),
)  # fmt: skip
def test_every_search_ends_with_every_candidate_scored_once(
    sampler: str, resolutions: tuple[int, ...], stages: list[Stage], calibrations: tuple[str, ...], cost: str | None
) -> None:
    space = tiny_space(resolutions=resolutions, stages=tuple(stages))
    study = Study(question(space=space, sampler=sampler, calibrations=calibrations, cost=cost), cost_of)
    trials = run(study, max_trials=60)
    scored = [trial.candidate for trial in trials if trial.state == FINISHED]
    assert len(scored) == len(set(scored)) == min(space.size() * len(calibrations), 60)
    assert study.exhausted or len(scored) == 60


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("alone", ["resolutions", "norms", "kernel_sizes"])
def test_choices_without_alternative_are_no_trouble_to_samplers(sampler: str, alone: str) -> None:
    changes = {"resolutions": (8,)} if alone == "resolutions" else {}
    stage = tiny_space().stages[0].model_copy(update={} if changes else {alone: getattr(LARGE.stages[0], alone)[:1]})
    space = tiny_space(**changes, stages=(stage, stage))
    trials = run(Study(question(space=space, sampler=sampler), cost_of), max_trials=40)
    assert "sampler" in {trial.kind for trial in trials if trial.state == FINISHED}
    assert len({trial.candidate for trial in trials if trial.state == FINISHED}) == 40


def test_repeats_cost_nothing_are_marked_and_keep_their_score() -> None:
    asked: list[Candidate] = []

    def evaluate(proposals: Sequence[Proposal]) -> list[Trial]:
        asked.extend(proposal.candidate for proposal in proposals)
        return free(proposals)

    trials = run(Study(question(), cost_of), evaluate=evaluate)
    repeats = [t for t in trials if t.state == CACHED]
    assert len(asked) == len(set(asked))
    assert any(t.number // 16 == t.cached_from // 16 for t in repeats)  # of one batch too
    for repeat in repeats:
        assert repeat.seconds == 0.0
        assert trials[repeat.cached_from].score == repeat.score
        assert trials[repeat.cached_from].state == FINISHED


def test_a_trial_limit_counts_finished_trials_exactly() -> None:
    trials = run(Study(question(), cost_of), max_trials=20)
    assert sum(t.state == FINISHED for t in trials) == 20


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_limits_hold_for_everything_scored_but_the_two_named_baselines(sampler: str) -> None:
    limits = Limits(max_macs=400, max_params=40)
    trials = run(Study(question(limits=limits, sampler=sampler), cost_of))
    within = [t for t in trials if t.state == FINISHED and t.kind not in ("smallest", "largest")]
    assert within
    assert all(t.macs <= 400 and t.params <= 40 for t in within)
    assert all("exceed" in str(t.reason) and t.seconds == 0 for t in trials if t.state == INFEASIBLE)


def test_limits_that_nothing_can_meet_are_refused_with_the_smallest_cost() -> None:
    space = tiny_space()
    with pytest.raises(InputError, match="exceed the limit of 10"):
        cost_range(space, cost_of, Limits(max_macs=10))
    rows = cost_range(space, cost_of, Limits(max_macs=cost_of(space.smallest())[0]))
    assert [row.name for row in rows] == ["smallest", "median", "largest"]
    assert [row.within for row in rows] == [True, False, False]
    assert rows[0].macs < rows[1].macs < rows[2].macs


def test_no_trial_starts_that_the_budget_does_not_admit() -> None:
    left = [7]  # affords the first two, and five of the next ten in two helpings

    def may_start(macs: Sequence[int]) -> int:
        admitted = min(left[0], 3, len(macs))
        left[0] -= admitted
        return admitted

    trials = run(Study(question(), cost_of), may_start=may_start)
    assert [t.number for t in trials] == list(range(7))
    assert left == [0]


def test_batches_are_the_named_two_the_random_start_and_then_a_fixed_grid() -> None:
    asked: list[list[int]] = []

    def evaluate(proposals: Sequence[Proposal]) -> list[Trial]:
        asked.append([proposal.number for proposal in proposals])
        return free(proposals)

    run(Study(question(space=LARGE, batch_size=8), cost_of), max_trials=40, evaluate=evaluate)
    assert asked[:2] == [[0, 1], list(range(2, 10))]
    assert asked[2] == [10, 11]
    assert all(len({(number - 12) // 8 for number in batch}) == 1 for batch in asked[3:])


def test_every_fourth_candidate_stays_random() -> None:
    trials = run(Study(question(space=LARGE, sampler="evolution"), cost_of), max_trials=60)
    scored = [t for t in trials if t.state == FINISHED]
    assert [t.kind == "random" for t in scored[12:]] == [n % 4 == 0 for n in range(12, 60)]


def test_a_failed_candidate_is_kept_as_failed_and_the_search_goes_on() -> None:
    def evaluate(proposals: Sequence[Proposal]) -> list[Trial]:
        wrong = {"state": FAILED, "score": None, "reason": "NaN"}
        return [finished(p, **wrong) if p.number == 3 else finished(p) for p in proposals]

    trials = run(Study(question(), cost_of), max_trials=10, evaluate=evaluate)
    assert [t.state for t in trials].count(FAILED) == 1
    assert sum(t.state == FINISHED for t in trials) == 10


def test_screened_trials_count_and_samplers_are_told_what_they_screened_at(monkeypatch: pytest.MonkeyPatch) -> None:
    study, told = Study(question(cost="macs"), cost_of), {}
    tell = study._optuna.tell
    monkeypatch.setattr(
        study._optuna, "tell", lambda number, values: told.update({number: values}) or tell(number, values)
    )

    def evaluate(proposals: Sequence[Proposal]) -> list[Trial]:
        part = {"state": SCREENED, "score": None, "screen_score": 0.25}
        return [finished(p, **part) if p.number % 2 else finished(p, screen_score=0.5) for p in proposals]

    trials = run(study, 12, evaluate)
    assert [t.state for t in trials] == [FINISHED, SCREENED] * 6
    assert study.scored == 12
    assert told == {t.number: [0.25 if t.number % 2 else 0.5, float(t.macs)] for t in trials}


def test_a_repeat_of_a_screened_trial_keeps_its_screen_score() -> None:
    def evaluate(proposals: Sequence[Proposal]) -> list[Trial]:
        return [finished(p, state=SCREENED, score=None, screen_score=p.macs / 1000) for p in proposals]

    trials = run(Study(question(), cost_of), evaluate=evaluate)
    repeats = [t for t in trials if t.state == CACHED]
    assert repeats
    assert all((t.score, t.screen_score) == (None, t.macs / 1000) for t in repeats)
    assert best_first(trials) == []


@pytest.mark.parametrize("cost", [None, "macs"])
def test_optuna_is_told_no_value_of_a_failure_whatever_it_screened_at(
    monkeypatch: pytest.MonkeyPatch, cost: str | None
) -> None:
    def evaluate(proposals: Sequence[Proposal]) -> list[Trial]:
        wrong = {"state": FAILED, "score": None, "screen_score": 0.9, "reason": "NaN"}
        return [finished(p, **wrong) if p.number % 3 == 0 else finished(p) for p in proposals]

    study = Study(question(cost=cost), cost_of)
    trials = run(study, evaluate=evaluate)
    values = [trial.values for trial in study._optuna.get_trials(deepcopy=False)][: len(trials)]
    failures = {trial.number for trial in trials if trial.state == FAILED}
    repeats = {trial.number for trial in trials if trial.state == CACHED and trial.cached_from in failures}
    assert failures
    assert repeats
    assert {number for number, value in enumerate(values) if value is None} == failures | repeats
    assert study.scored == sum(trial.state == FINISHED for trial in trials)
    assert not {trial.number for trial in best_first(trials)} & (failures | repeats)


def test_calibrations_become_a_choice_only_where_there_are_several() -> None:
    trials = run(Study(question(calibrations=("source", "target-natural")), cost_of), max_trials=30)
    assert {t.candidate.calibration for t in trials} == {"source", "target-natural"}


def test_rows_survive_the_trip_through_text() -> None:
    trial = finished(Proposal(4, "random", Candidate(tiny_space().largest(), "source"), 10, 20), screen_score=0.125)
    text = {key: "" if value is None else "-".join(map(str, value)) if isinstance(value, list) else str(value)
            for key, value in trial.to_row().items()}  # fmt: skip
    assert Trial.from_row(text) == trial


def test_ties_go_to_the_smaller_loss_then_to_fewer_macs() -> None:
    subnet = tiny_space().smallest()

    def trial(number: int, score: float, loss: float, macs: int) -> Trial:
        return Trial(
            number=number, state=FINISHED, kind="random", candidate=Candidate(subnet, "source"), macs=macs, params=1,
            score=score, balanced_loss=loss,
        )  # fmt: skip

    trials = [trial(0, 0.9, 0.5, 9), trial(1, 0.9, 0.4, 9), trial(2, 0.9, 0.4, 5), trial(3, 0.8, 0.1, 1)]
    assert [t.number for t in best_first(trials)] == [2, 1, 0, 3]
    assert [t.number for t in pareto_set(trials, "macs")] == [3, 2]
