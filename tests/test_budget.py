"""What a budget says, and what it lasts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


# More of it


@pytest.mark.parametrize(
    ("before", "added", "after"),
    [
        ("8gpu-h", "+4gpu-h", "12gpu-h"),
        ("200trials", "+50trials", "250trials"),
        ("1trial", "+1trial", "2trials"),
        ("3h", "+30min", "210min"),
        ("0.1h", "+0.2h", "0.3h"),
        ("40s", "+1min", "100s"),
        ("30min,200trials", "+50trials", "30min,250trials"),
        ("30min,200trials", "+50trials,+10min", "40min,250trials"),
        ("8 GPU-H", "+2gpu-min", "482gpu-min"),
        ("100s", "+100s", "200s"),
    ],
)
def test_more_of_the_same(before: str, added: str, after: str) -> None:
    assert Budget.parse(before.replace(" ", "")).plus(added).text == after


@pytest.mark.parametrize(
    ("added", "said", "typed"),
    [
        ("4gpu-h", "plus sign", "+8gpu-h"),
        ("+4h", "own unit", "+8gpu-h"),
        ("+50trials", "own unit", "+8gpu-h"),
        ("+4cpu-h", "own unit", "+8gpu-h"),
        ("+4gpu-h,2gpu-h", "plus sign", "+8gpu-h"),
        ("+4", "must have a unit", "8gpu-h"),
        ("+0gpu-h", "positive", "8gpu-h"),
        ("+-4gpu-h", "number with a unit", "8gpu-h"),
        ("-4gpu-h", "plus sign", "+8gpu-h"),
        ("", "plus sign", "+8gpu-h"),
        ("+4gpu-weeks", "must be one of", "8gpu-h"),
    ],
)
def test_what_cannot_be_added_says_what_to_type(added: str, said: str, typed: str) -> None:
    with pytest.raises(BudgetError, match=said) as refused:
        Budget.parse("8gpu-h").plus(added)
    assert typed in str(refused.value)


AMOUNTS = st.integers(1, 10**6).map(lambda n: f"{n / 1000:.3f}")


@given(AMOUNTS, AMOUNTS, st.sampled_from(["", "gpu-", "cpu-"]), *(2 * [st.sampled_from(["s", "min", "h"])]))
def test_seconds_add_up_whatever_the_units(first: str, second: str, kind: str, one: str, other: str) -> None:
    attribute = {"": "wall_seconds", "gpu-": "gpu_seconds", "cpu-": "cpu_seconds"}[kind]
    before, more = Budget.parse(f"{first}{kind}{one}"), Budget.parse(f"{second}{kind}{other}")
    after = before.plus(f"+{more.text}")
    assert getattr(after, attribute) == pytest.approx(getattr(before, attribute) + getattr(more, attribute), rel=1e-12)
    assert Budget.parse(after.text) == after
    twice = after.plus(f"+{more.text}")
    assert getattr(twice, attribute) > getattr(after, attribute)
