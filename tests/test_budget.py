"""Budgets and the ledger, on a clock that tests drive."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasimb.budget import Budget, Ledger, read_account
from nasimb.errors import BudgetError, ResumeError


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("text", "kind", "amount"),
    [
        ("8gpu-h", "gpu_seconds", 8 * 3600),
        ("0.5gpu-h", "gpu_seconds", 1800),
        ("2cpu-h", "cpu_seconds", 7200),
        ("90cpu-min", "cpu_seconds", 5400),
        ("2h", "wall_seconds", 7200),
        ("3min", "wall_seconds", 180),
        ("45 s", "wall_seconds", 45),
        ("200trials", "trials", 200),
        ("1trial", "trials", 1),
        ("8GPU-H", "gpu_seconds", 8 * 3600),
    ],
)
def test_every_unit(text: str, kind: str, amount: float) -> None:
    budget = Budget.parse(text.replace(" ", ""))
    assert getattr(budget, kind) == amount
    others = {"gpu_seconds", "cpu_seconds", "wall_seconds", "trials"} - {kind}
    assert all(getattr(budget, other) is None for other in others)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("8", "must have a unit"),
        ("8parsecs", "must be one of"),
        ("-3min", "number with a unit"),
        ("0h", "positive"),
        ("", "number with a unit"),
        ("1h,2min", "each kind once"),
        ("2.5trials", "whole number"),
    ],
)
def test_what_cannot_be_read_is_refused_with_an_example(text: str, said: str) -> None:
    with pytest.raises(BudgetError, match=said):
        Budget.parse(text)


def test_several_limits_the_first_reached_stops() -> None:
    budget = Budget.parse("2h,3gpu-h,200trials")
    assert budget.trials == 200
    assert budget.limit_seconds(gpus=1, threads=2) == 7200
    assert budget.limit_seconds(gpus=2, threads=2) == 5400


def test_cpu_time_is_divided_by_the_threads_in_use() -> None:
    assert Budget.parse("1cpu-h").limit_seconds(gpus=0, threads=4) == 900


def test_trials_alone_set_no_time_limit() -> None:
    assert Budget.parse("40trials").limit_seconds(gpus=0, threads=2) is None


def test_gpu_time_without_a_gpu_says_what_to_type_instead() -> None:
    with pytest.raises(BudgetError, match="--budget 16cpu-h or 8h"):
        Budget.parse("8gpu-h").limit_seconds(gpus=0, threads=2)


def test_eight_gpu_hours_in_microseconds() -> None:
    clock = FakeClock()
    ledger = Ledger(None, clock, limit_seconds=8 * 3600)
    for phase, hours in (("supernet", 4), ("search", 3), ("head", 1)):
        with ledger.phase(phase):
            for _ in range(60):
                clock.now += hours * 60
                ledger.beat()
    assert ledger.by_phase() == pytest.approx({"supernet": 4 * 3600, "search": 3 * 3600, "head": 3600})
    assert ledger.remaining() == pytest.approx(0.0)


def test_time_between_phases_is_not_charged() -> None:
    clock = FakeClock()
    ledger = Ledger(None, clock, limit_seconds=100)
    with ledger.phase("supernet"):
        clock.now += 5
    clock.now += 1000
    with ledger.phase("search"):
        clock.now += 1
    assert ledger.spent() == pytest.approx(6)


def test_running_time_counts_before_it_is_written() -> None:
    clock = FakeClock()
    ledger = Ledger(None, clock, limit_seconds=10)
    with ledger.phase("search"):
        clock.now += 4
        assert ledger.spent("search") == 4
        assert ledger.spent("head") == 0
        assert ledger.remaining() == 6
        assert ledger.by_phase() == {"search": 4}


def test_a_kill_loses_at_most_one_beat_and_downtime_is_not_charged(tmp_path: Path) -> None:
    path, clock = tmp_path / "ledger.jsonl", FakeClock()
    ledger = Ledger(path, clock, limit_seconds=100, beat_seconds=1.0)
    with suppress(KeyboardInterrupt), ledger.phase("search"):
        for _ in range(30):
            clock.now += 0.25
            ledger.beat()
        on_disk = sum(read_account(path).values())
        assert ledger.spent() - on_disk <= 1.0
        raise KeyboardInterrupt
    clock.now += 10_000
    again = Ledger(path, clock, limit_seconds=100)
    assert again.spent() == pytest.approx(7.5, abs=1e-5)


def test_a_torn_last_line_is_dropped_and_any_other_damage_refused(tmp_path: Path) -> None:
    path, clock = tmp_path / "ledger.jsonl", FakeClock()
    path.write_text('{"phase": "search", "seconds": 2.0}\n{"phase": "sea')
    assert read_account(path) == {"search": 2.0}
    ledger = Ledger(path, clock)
    with ledger.phase("head"):
        clock.now += 3
    assert read_account(path) == {"search": 2.0, "head": 3.0}
    path.write_text('{"phase": "search"}\n{"phase": "search", "seconds": 2.0}\n')
    with pytest.raises(ResumeError, match="line 1"):
        Ledger(path, clock)


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.floats(0, 1e4)), max_size=30))
def test_the_phases_always_add_up_to_the_time_that_passed(charges: list[tuple[str, float]]) -> None:
    clock = FakeClock()
    ledger = Ledger(None, clock)
    for phase, seconds in charges:
        with ledger.phase(phase):
            clock.now += seconds
    assert sum(ledger.by_phase().values()) == pytest.approx(sum(s for _, s in charges), abs=1e-6)
    assert ledger.spent() == pytest.approx(clock.now - 1000.0, abs=1e-6)


def test_every_line_is_one_charge(tmp_path: Path) -> None:
    clock = FakeClock()
    ledger = Ledger(tmp_path / "ledger.jsonl", clock)
    with ledger.phase("search"):
        clock.now += 1.5
        ledger.beat()
        clock.now += 0.5
    lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert lines == [{"phase": "search", "seconds": 1.5}, {"phase": "search", "seconds": 0.5}]


def test_a_thread_beats_through_a_long_unit_of_work(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path, time.monotonic, beat_seconds=0.02)
    with ledger.beating(), ledger.phase("head"):
        time.sleep(0.3)
        on_disk = sum(read_account(path).values())
        assert on_disk >= 0.15
        assert on_disk <= ledger.spent()
    assert sum(read_account(path).values()) == pytest.approx(ledger.spent(), abs=1e-4)
