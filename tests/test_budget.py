"""What a budget says, and what it lasts."""

from __future__ import annotations

import pytest

from nasimb.budget import Budget, Holding
from nasimb.errors import BudgetError


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
    assert budget.limit_seconds(Holding(1, 2)) == 7200
    assert budget.limit_seconds(Holding(2, 2)) == 5400


def test_cpu_time_is_divided_by_the_threads_in_use() -> None:
    assert Budget.parse("1cpu-h").limit_seconds(Holding(0, 4)) == 900


def test_trials_alone_set_no_time_limit() -> None:
    assert Budget.parse("40trials").limit_seconds(Holding(0, 2)) is None


def test_gpu_time_without_a_gpu_says_what_to_type_instead() -> None:
    with pytest.raises(BudgetError, match="--budget 16cpu-h or 8h"):
        Budget.parse("8gpu-h").limit_seconds(Holding(0, 2))
