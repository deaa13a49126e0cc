"""Works in turn on a fake clock: what is timed, in which order, and what becomes of it."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasimb.bench.base import Conditions, Figure, alternate, made_with, ratio, ratio_figure, spread
from nasimb.errors import Interrupted


def test_every_work_is_warmed_up_once_and_then_timed_in_turn_in_both_directions(clock) -> None:
    done: list[str] = []

    def work(name: str, seconds: float) -> Callable[[], None]:
        def do() -> None:
            done.append(name)
            clock.now += seconds if done.count(name) > 1 else 100.0

        return do

    seconds = alternate({"a": work("a", 2.0), "b": work("b", 0.5)}, 3, clock)
    assert seconds == {"a": [2.0] * 3, "b": [0.5] * 3}
    assert done == ["b", "a", "a", "b", "b", "a", "a", "b"]


def test_waiting_for_the_device_counts_and_what_happens_between_does_not(clock) -> None:
    pending = [0.0]

    def launch() -> None:
        pending[0] = 3.0

    def wait() -> None:
        clock.now += pending[0]
        pending[0] = 0.0

    def between() -> None:
        clock.now += 50.0

    assert alternate({"kernel": launch}, 2, clock, wait, between) == {"kernel": [3.0, 3.0]}


def test_a_ratio_is_the_median_of_turns_so_a_slow_turn_cancels() -> None:
    seconds = {"a": [2.0, 20.0, 2.0, 9.0, 2.2], "b": [1.0, 10.0, 1.0, 1.0, 1.0]}
    found = ratio(seconds, "a", "b")
    assert found.median == 2.0
    assert (found.low, found.high) == (2.0, 2.2)
    figure = ratio_figure("x", seconds, "a", "b", against="a / b", at_most=1.25, detail={"size": "small"})
    assert (figure.value, figure.low, figure.high, figure.repetitions) == (2.0, 2.0, 2.2, 5)
    assert figure.detail == {"a_seconds": 2.2, "b_seconds": 1.0, "size": "small"}


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=20))
def test_spread_brackets_the_median(values: list[float]) -> None:
    found = spread(values)
    assert min(values) <= found.low <= found.median <= found.high <= max(values)
    assert found.median == pytest.approx(np.median(values))


@pytest.mark.parametrize(
    ("value", "limits", "met", "target"),
    [
        (1.2, {"at_most": 1.25}, True, "<= 1.25"),
        (1.3, {"at_most": 1.25}, False, "<= 1.25"),
        (8.0, {"at_least": 7.0}, True, ">= 7"),
        (6.0, {"at_least": 7.0}, False, ">= 7"),
        (6.0, {}, None, ""),
        (None, {"at_most": 1.0}, None, "<= 1"),
        (float("nan"), {"at_most": 1.0}, None, "<= 1"),
        (float("inf"), {"at_least": 1.0}, None, ">= 1"),
    ],
)
def test_a_figure_knows_whether_it_is_what_it_should_be(value, limits, met, target) -> None:
    figure = Figure("x", value, "a / b", **limits)
    assert figure.met is met
    assert figure.target == target


def test_a_record_is_valid_json_with_everything_beside_the_number() -> None:
    figure = Figure("x", float("inf"), "a / b", low=float("nan"), detail={"a_seconds": float("nan"), "n": 3})
    record = figure.to_record({"device": "cpu", "seed": 0})
    assert json.loads(json.dumps(record, allow_nan=False)) == {
        "figure": "x", "value": None, "against": "a / b", "unit": "ratio", "target": None, "met": None, "low": None,
        "high": None, "repetitions": 1, "reason": "The value is inf.", "detail": {"a_seconds": None, "n": 3},
        "device": "cpu", "seed": 0,
    }  # fmt: skip


def test_a_signal_ends_a_comparison_between_two_works(quick: Callable[..., Conditions]) -> None:
    done: list[str] = []
    conditions = quick(stop=lambda: signal.SIGINT if len(done) == 2 else 0)
    with pytest.raises(Interrupted) as stopped:
        conditions.compare("x", {"a": lambda: done.append("a"), "b": lambda: done.append("b")})
    assert stopped.value.exit_code == 130
    assert len(done) == 2


def test_a_figure_says_itself_what_does_not_hold_of_it() -> None:
    (figure,) = made_with([Figure("x", 1.0, "a / b")], data="made")
    assert figure.to_record({"data": "digits", "seed": 0})["data"] == "made"
    assert figure.to_record({"data": "digits", "seed": 0})["seed"] == 0
    assert Figure("x", 1.0, "a / b").to_record({"data": "digits"})["data"] == "digits"
