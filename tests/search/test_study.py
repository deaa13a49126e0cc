"""The loop around Optuna: order of trials, repeats, limits, resuming."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasimb.errors import InputError
from nasimb.search.limits import Limits, cost_range
from nasimb.search.study import SAMPLERS, STARTUP, Question, Study
from nasimb.search.trial import CACHED, FAILED, FINISHED, INFEASIBLE, Candidate, Trial, best_first, pareto_set
from nasimb.space import SearchSpace, Stage, Subnet


def tiny_space(**changes: object) -> SearchSpace:
    stage = Stage(depths=(1, 2), widths=(8, 16), kernel_sizes=(3, 5), norms=("bn", "nbn"))
    options = {"name": "tiny", "backbone": "resnet", "stem_width": 8, "resolutions": (8, 12), "stages": (stage,)}
    return SearchSpace(**{**options, **changes})


def cost_of(subnet: Subnet) -> tuple[int, int]:
    macs = sum(d * w * k for d, w, k in zip(subnet.depths, subnet.widths, subnet.kernel_sizes, strict=True))
    return macs * subnet.resolution, macs


def question(**changes: object) -> Question:
    options = {"space": tiny_space(), "calibrations": ("source",), "limits": Limits(), "sampler": "tpe", "cost": None}
    return Question(**{**options, "seed": 0, **changes})


def finished(number: int, kind: str, candidate: Candidate, macs: int, params: int) -> Trial:
    score = 0.5 + candidate.subnet.widths[0] / 100 + candidate.subnet.depths[0] / 1000
    return Trial(
        number=number,
        state=FINISHED,
        kind=kind,
        candidate=candidate,
        macs=macs,
        params=params,
        seconds=1.0,
        score=score,
    )


def run(study: Study, max_trials: int | None = None, evaluate=finished, may_start=lambda macs: True) -> list[Trial]:
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


def test_repeats_cost_nothing_are_marked_and_keep_their_score() -> None:
    calls: list[Candidate] = []

    def evaluate(number: int, kind: str, candidate: Candidate, macs: int, params: int) -> Trial:
        calls.append(candidate)
        return finished(number, kind, candidate, macs, params)

    trials = run(Study(question(), cost_of), evaluate=evaluate)
    repeats = [t for t in trials if t.state == CACHED]
    assert repeats
    assert len(calls) == len(set(calls))
    by_number = {t.number: t for t in trials}
    for repeat in repeats:
        assert repeat.seconds == 0.0
        assert repeat.cached_from is not None
        assert by_number[repeat.cached_from].score == repeat.score
        assert by_number[repeat.cached_from].state == FINISHED


def test_a_trial_limit_counts_finished_trials_exactly() -> None:
    trials = run(Study(question(), cost_of), max_trials=20)
    assert sum(t.state == FINISHED for t in trials) == 20


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_limits_hold_for_everything_scored_but_the_two_named_baselines(sampler: str) -> None:
    limits = Limits(max_macs=400, max_params=40)
    scored: list[Trial] = []
    for trial in Study(question(limits=limits, sampler=sampler), cost_of).run(finished, lambda macs: True, None):
        scored.append(trial)
    within = [t for t in scored if t.state == FINISHED and t.kind not in ("smallest", "largest")]
    assert within
    assert all(t.macs <= 400 and t.params <= 40 for t in within)
    assert all("exceed" in str(t.reason) and t.seconds == 0 for t in scored if t.state == INFEASIBLE)


def test_limits_that_nothing_can_meet_are_refused_with_the_smallest_cost() -> None:
    space = tiny_space()
    with pytest.raises(InputError, match="exceed the limit of 10"):
        cost_range(space, cost_of, Limits(max_macs=10))
    rows = cost_range(space, cost_of, Limits(max_macs=cost_of(space.smallest())[0]))
    assert [row.name for row in rows] == ["smallest", "median", "largest"]
    assert [row.within for row in rows] == [True, False, False]
    assert rows[0].macs < rows[1].macs < rows[2].macs


def test_no_trial_starts_that_the_budget_does_not_admit() -> None:
    admitted: list[int] = []

    def may_start(macs: int) -> bool:
        admitted.append(macs)
        return len(admitted) <= 3

    assert len(run(Study(question(), cost_of), may_start=may_start)) == 3


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("killed_at", [1, 2, 7, 15, 22])
@pytest.mark.parametrize("row_written", [True, False])
def test_a_search_killed_anywhere_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, sampler: str, killed_at: int, row_written: bool
) -> None:
    space = tiny_space(resolutions=(8, 10, 12, 14))
    asked = question(space=space, sampler=sampler)
    undisturbed = run(Study(asked, cost_of, journal=tmp_path / "a.journal"), max_trials=26)

    rows: list[Trial] = []
    journal = tmp_path / "b.journal"
    for number, trial in enumerate(Study(asked, cost_of, journal=journal).run(finished, lambda macs: True, 26)):
        if number == killed_at and not row_written:
            break  # killed before the row was written
        rows.append(trial)
        if number == killed_at:
            break  # killed between the row and telling Optuna
    rows += run(Study(asked, cost_of, journal=journal, trials=rows), max_trials=26)
    assert rows == undisturbed


def test_a_failed_candidate_is_kept_as_failed_and_the_search_goes_on() -> None:
    def evaluate(number: int, kind: str, candidate: Candidate, macs: int, params: int) -> Trial:
        if number == 3:
            return Trial(
                number=number, state=FAILED, kind=kind, candidate=candidate, macs=macs, params=params, reason="NaN"
            )
        return finished(number, kind, candidate, macs, params)

    trials = run(Study(question(), cost_of), max_trials=10, evaluate=evaluate)
    assert [t.state for t in trials].count(FAILED) == 1
    assert sum(t.state == FINISHED for t in trials) == 10


def test_calibrations_become_a_choice_only_where_there_are_several() -> None:
    trials = run(Study(question(calibrations=("source", "target-natural")), cost_of), max_trials=30)
    assert {t.candidate.calibration for t in trials} == {"source", "target-natural"}


def test_rows_survive_the_trip_through_text() -> None:
    trial = finished(4, "random", Candidate(tiny_space().largest(), "source"), 10, 20)
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
