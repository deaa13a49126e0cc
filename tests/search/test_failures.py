"""What can go wrong with a candidate: its kind, what is done about it, what its row says and what it cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_engine import Ticks, make_scoring, promoted, proposals, run, screened, without_seconds
from torch.linalg import LinAlgError

from nasimb.errors import ImageLostError, MemoryLimitError, NotFiniteError, OverdueError, WorkError
from nasimb.search import engine, failures
from nasimb.search.candidate import Scoring
from nasimb.search.deadline import overdue_check
from nasimb.search.engine import Kept
from nasimb.search.failures import Problem, memory_sentences
from nasimb.search.trial import FAILED, FINISHED, SCREENED, Failure, Trial

OUT_OF_MEMORY = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")
OVERDUE = OverdueError("a", got="b", do="C.")


@pytest.mark.parametrize(
    ("error", "kind", "again"),
    [
        (MemoryError("x"), Failure.OOM, True),
        (torch.cuda.OutOfMemoryError("x"), Failure.OOM, True),
        (MemoryLimitError("a", got="b", do="C."), Failure.OOM, False),
        (NotFiniteError("a", got="b", do="C."), Failure.NAN, False),
        (LinAlgError("singular"), Failure.NAN, False),
        (OVERDUE, Failure.TIMEOUT, False),
        (WorkError("a", got="b", do="C."), Failure.OTHER, False),
    ],
)
def test_every_exception_has_its_kind(error: Exception, kind: Failure, again: bool) -> None:
    assert isinstance(error, failures.FAILURES)
    problem = Problem.of(error)
    assert (problem.kind, problem.again) == (kind, again)
    assert problem.reason == str(error)


def test_every_kind_has_its_policy_in_the_table() -> None:
    lines = [line for line in str(failures.__doc__).splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert all(len(row) == 4 and all(row) for row in rows)
    assert {kind for kind, _, _, record in rows[1:] if not record.startswith("no row")} == set(Failure)


def test_no_failure_of_a_candidate_is_a_lost_image() -> None:
    error = ImageLostError("a", got="b", do="C.")
    assert not isinstance(error, failures.FAILURES)
    assert error.exit_code == 1


# --------------------------------------------------------------------------------------------------------------- oom


def failing_sweep(
    monkeypatch: pytest.MonkeyPatch, fails: Callable[[Scoring, int], bool], error: Exception = OUT_OF_MEMORY
) -> list[tuple[int, int]]:
    """`engine.sweep` that fails as `fails` says of the scoring and the members; notes (images a pass, members)."""
    asked, original = [], engine.sweep

    def sweep(scoring: Scoring, tree: Any, images: Any, members: Any, **options: Any) -> Any:
        asked.append((scoring.batch_size, len(members)))
        if fails(scoring, len(members)):
            raise error
        return original(scoring, tree, images, members, **options)

    monkeypatch.setattr(engine, "sweep", sweep)
    return asked


def test_a_candidate_that_needs_too_much_memory_gets_a_second_attempt_with_half_the_images_a_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scoring = make_scoring()
    (expected,) = run(scoring, proposals(scoring, 1))
    asked = failing_sweep(monkeypatch, lambda scoring, members: scoring.batch_size == 64)
    clock = Ticks()
    start = clock()
    (trial,) = run(scoring, proposals(scoring, 1), clock=clock)
    assert asked == [(64, 1), (32, 1)]
    assert (trial.state, trial.failure, trial.reason) == (FINISHED, Failure.OOM, None)
    assert trial.score == pytest.approx(expected.score, abs=1e-9)
    assert expected.failure is None
    assert expected.seconds < trial.seconds <= clock() - start


def test_only_those_that_need_it_are_scored_with_fewer_images_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    scoring = make_scoring()
    batch = proposals(scoring, 4)
    expected = run(scoring, batch)
    alone = iter([False, True, False, False, False])  # the second of those that are tried alone, once
    asked = failing_sweep(monkeypatch, lambda scoring, members: members > 1 or next(alone))
    trials = run(scoring, batch)
    assert asked == [(64, 4), (64, 1), (64, 1), (64, 1), (64, 1), (32, 1)]
    assert [trial.failure for trial in trials] == [None, Failure.OOM, None, None]
    assert without_seconds([replace(trial, failure=None) for trial in trials]) == without_seconds(expected)


def test_after_two_attempts_it_has_failed_with_what_both_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    scoring, clock = make_scoring(), Ticks()
    asked = failing_sweep(monkeypatch, lambda scoring, members: True)
    start = clock()
    (trial,) = run(scoring, proposals(scoring, 1), clock=clock)
    assert asked == [(64, 1), (32, 1)]
    assert (trial.state, trial.failure, trial.score) == (FAILED, Failure.OOM, None)
    assert "can't allocate memory" in str(trial.reason)
    assert 0.5 * (clock() - start) < trial.seconds <= clock() - start


def test_calibration_takes_half_the_images_a_pass_too(monkeypatch: pytest.MonkeyPatch) -> None:
    scoring = replace(make_scoring(), calibration_batch=32)
    (expected,) = run(scoring, proposals(scoring, 1))
    sizes, original = [], engine.SubnetTree

    def tree(*args: Any, **options: Any) -> Any:
        sizes.append(options["calibration_batch"])
        if options["calibration_batch"] > 16:
            raise MemoryError
        return original(*args, **options)

    monkeypatch.setattr(engine, "SubnetTree", tree)
    (trial,) = run(scoring, proposals(scoring, 1))
    assert sizes == [32, 16]
    assert (trial.state, trial.failure) == (FINISHED, Failure.OOM)
    assert trial.score == pytest.approx(expected.score, abs=0.05)


def test_a_limit_that_is_set_is_not_tried_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    trees, original = [], engine.SubnetTree
    monkeypatch.setattr(engine, "SubnetTree", lambda *args, **more: trees.append(1) or original(*args, **more))
    scoring = replace(make_scoring(), memory_mib=1e-3)
    (trial,) = run(scoring, proposals(scoring, 1))
    assert (trial.state, trial.failure, len(trees)) == (FAILED, Failure.OOM, 1)


def test_a_promotion_gets_a_second_attempt_too(monkeypatch: pytest.MonkeyPatch) -> None:
    scoring = screened(make_scoring())
    first = run(scoring, proposals(scoring, 1))
    (plain,) = promoted(scoring, first)
    failing_sweep(monkeypatch, lambda scoring, members: scoring.batch_size == 64)
    (trial,) = promoted(scoring, first)
    assert (trial.state, trial.failure, trial.reason) == (FINISHED, Failure.OOM, None)
    assert trial.score == pytest.approx(plain.score, abs=1e-9)
    assert trial.seconds > plain.seconds
    failing_sweep(monkeypatch, lambda scoring, members: True)
    (trial,) = promoted(scoring, first)
    assert (trial.state, trial.failure, trial.score) == (SCREENED, Failure.OOM, None)
    assert "can't allocate memory" in str(trial.reason)


def test_want_of_memory_elsewhere_ends_in_a_sentence() -> None:
    for error in (OUT_OF_MEMORY, MemoryError(), torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried")):
        with (
            pytest.raises(WorkError, match=r"memory must suffice; got .*the same command") as refused,
            memory_sentences(),
        ):
            raise error
        assert "\n" not in str(refused.value)
    with pytest.raises(RuntimeError, match=r"^other$"), memory_sentences():
        raise RuntimeError("other")


# --------------------------------------------------------------------------------------------------------------- nan


def test_nan_fails_its_candidate_with_what_it_cost() -> None:
    scoring = make_scoring()
    with torch.no_grad():
        scoring.supernet.stages[1][1].conv2.weight.fill_(float("nan"))
    trials = run(scoring, proposals(scoring, 12))
    broken = [trial for trial in trials if trial.state == FAILED]
    assert broken
    assert {trial.failure for trial in broken} == {Failure.NAN}
    assert all(trial.seconds > 0 for trial in broken)
    assert {trial.failure for trial in trials if trial.state == FINISHED} == {None}


# ----------------------------------------------------------------------------------------------------------- timeout


def stopping_after(calls: int) -> Callable[[], None]:
    left = [calls]

    def between() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OVERDUE

    return between


@pytest.mark.parametrize("screening", [False, True])
def test_when_time_runs_out_what_is_scored_stays_and_the_rest_has_failed(screening: bool) -> None:
    scoring = screened(make_scoring()) if screening else make_scoring()
    batch = proposals(scoring, 6)
    expected = run(scoring, batch)
    calls = [0]
    run(scoring, batch, between=lambda: calls.__setitem__(0, calls[0] + 1))
    seen = set()
    for until in range(calls[0]):
        clock = Ticks()
        start = clock()
        trials = run(scoring, batch, clock=clock, between=stopping_after(until))
        for trial, wanted in zip(without_seconds(trials), without_seconds(expected), strict=True):
            late = (trial.state, trial.failure, trial.reason) == (FAILED, Failure.TIMEOUT, str(OVERDUE))
            assert late or trial == wanted
            seen.add(late)
        assert 0 < sum(trial.seconds for trial in trials) <= clock() - start
    assert seen == {True, False}


def test_a_promotion_that_time_runs_out_for_stays_screened() -> None:
    scoring = screened(make_scoring())
    kept: Kept = {}
    first = run(scoring, proposals(scoring, 5), kept=kept)
    states = set()
    for until in range(30):
        trials = promoted(scoring, first, kept=dict(kept), between=stopping_after(until))
        for trial, before in zip(trials, first, strict=True):
            states.add(trial.state)
            if trial.state == SCREENED:
                assert (trial.failure, trial.score) == (Failure.TIMEOUT, None)
                assert trial.seconds > before.seconds
            else:
                assert trial.failure is None
    assert states == {SCREENED, FINISHED}


class Now:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("predicted", "taken", "spare", "late"),
    [
        (10.0, 19.0, -5.0, False),  # late, but not as late as something stuck
        (10.0, 21.0, 5.0, False),  # very late, and nobody else needs the time
        (10.0, 21.0, -0.1, True),
        (0.0, 1e6, -1e6, False),  # nothing is known
        (10.0, 1e6, float("inf"), False),  # no limit of time
    ],
)
def test_work_is_given_up_where_it_is_stuck_and_uses_what_others_need(
    predicted: float, taken: float, spare: float, late: bool
) -> None:
    clock = Now()
    clock.now = 100.0
    check = overdue_check(clock, predicted, lambda: spare)
    check()
    clock.now += taken
    if not late:
        check()
        return
    with pytest.raises(OverdueError, match=r"got 21\.0 s where 10\.0 s were predicted"):
        check()


def test_a_repeat_says_what_the_first_failed_with() -> None:
    scoring = make_scoring()
    (trial,) = run(replace(scoring, memory_mib=1e-3), proposals(scoring, 1))
    repeat = trial.repeated_as(7, "sampler")
    assert (repeat.failure, repeat.reason, repeat.seconds) == (trial.failure, trial.reason, 0.0)
    assert Trial.from_row(trial.to_cells()) == trial
