"""What a budget buys: it adds up, more of it never buys less, devices divide the search and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import ceil, inf

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nasimb.budget import Budget, Holding
from nasimb.phases.forecast import SLACK, Costs, Forecast, Training, forecast, times
from nasimb.phases.headcosts import HeadCosts, Most
from nasimb.phases.measure import CandidateCosts, Images, SearchCosts

ONE = Holding(gpus=0, threads=2)
GPU = Holding(gpus=1, threads=8)
PLENTY = 10**9
seconds = st.floats(1e-4, 2.0)


@st.composite
def candidates(draw: st.DrawFn, macs: float = 1e6) -> CandidateCosts:
    return CandidateCosts(macs, draw(seconds), draw(st.floats(1e-6, 1e-3)), draw(seconds), draw(seconds))


@st.composite
def costs(draw: st.DrawFn, most: int = PLENTY) -> Costs:
    whole = draw(st.integers(10, 2000))
    part = draw(st.sampled_from([0, max(whole // 10, 1)]))
    search = SearchCosts(
        Images(whole, part, draw(st.integers(2, 10))),
        {name: draw(candidates(macs)) for name, macs in (("smallest", 1e5), ("median", 1e6), ("largest", 1e7))},
        {name: draw(candidates()) for name in ("small", "any", "large")},
        draw(st.floats(1e-4, 1e-2)),
        most,
    )
    fits = {head: draw(seconds) for head in ("'plain'", "'balanced'", "'gda'")}
    heads = HeadCosts(
        heads=("'balanced'", "'gda'"), finalists=7, walks=draw(st.integers(1, 5)), fitted=whole, held_out=0, test=500,
        target=whole, crops=1, typical_share=draw(st.floats(0.05, 1.0)), calibrate_seconds=draw(seconds),
        image_seconds=draw(st.floats(1e-6, 1e-3)), fit_seconds=fits,
    )  # fmt: skip
    training = draw(st.none() | st.builds(Training, st.floats(1e-3, 0.5), st.floats(0.1, 0.7), st.integers(1, 1000)))
    return Costs(draw(st.floats(0.1, 20.0)), training, search, heads)


LIMITS = st.floats(300, 1e5)


def numbers(found: Forecast) -> tuple[int, int, int]:
    return found.candidates.low, found.candidates.expected, found.candidates.high


def with_policies(costs: Costs, policies: int) -> Costs:
    return replace(costs, heads=replace(costs.heads, policies=policies))


POLICIES = st.sampled_from([1, 2, 7])


@given(costs(), LIMITS, POLICIES)
def test_the_phases_of_a_time_limit_add_up_to_it(costs: Costs, limit: float, policies: int) -> None:
    costs = with_policies(costs, policies)
    found = forecast(costs, Budget.parse(f"{limit}s"), ONE)
    assert found.wall == pytest.approx(limit, rel=1e-6) or found.candidates.expected < 9
    assert found.wall <= limit * (1 + 1e-9)
    assert all(value >= 0 for value in found.wall_seconds.values())
    assert found.held == pytest.approx(found.wall)
    low, expected, high = numbers(found)
    assert 0 < low <= expected <= high
    if costs.training is not None:
        left_seconds = limit - costs.prepare_seconds
        assert found.wall_seconds["supernet"] == pytest.approx(costs.training.share * left_seconds)
    else:
        assert (found.wall_seconds["supernet"], found.steps) == (0.0, 0)


@given(costs(), LIMITS, st.floats(1.0, 3.0), st.sampled_from(["s", "cpu-s"]), POLICIES)
def test_more_budget_never_buys_fewer_candidates(
    costs: Costs, limit: float, factor: float, unit: str, policies: int
) -> None:
    costs = with_policies(costs, policies)
    less, more = (forecast(costs, Budget.parse(f"{amount}{unit}"), ONE) for amount in (limit, limit * factor))
    assert all(a <= b for a, b in zip(numbers(less), numbers(more), strict=True))
    assert less.steps <= more.steps


@given(costs(), LIMITS, st.integers(2, 7))
def test_comparing_calibrations_takes_its_share_from_candidates_and_heads(
    costs: Costs, limit: float, policies: int
) -> None:
    """By hand: a subnet of average size under every policy but its own."""
    heads = costs.heads
    images_seconds = heads.fitted * heads.image_seconds
    seconds = 1.5 * (policies - 1) * (heads.calibrate_seconds + images_seconds)
    assert heads.smallest_seconds == 1.0, "every subnet takes as long"
    assert with_policies(costs, policies).heads.calibrations_seconds() == pytest.approx(seconds)
    one, several = (forecast(with_policies(costs, number), Budget.parse(f"{limit}s"), ONE) for number in (1, policies))
    assert several.candidates.expected <= one.candidates.expected
    assert several.wall_seconds["evaluate"] == pytest.approx(one.wall_seconds["evaluate"])
    assert several.wall_seconds["search"] >= 0.9 * one.wall_seconds["search"] * (1 - 1e-9)
    most = Most(3.0, 0.05 * limit)
    first, last = (with_policies(costs, number).heads for number in (1, policies))
    kept_seconds = last.tail_seconds(5, most=most, evaluate_seconds=1.0) - first.tail_seconds(
        5, most=most, evaluate_seconds=1.0
    )
    assert kept_seconds == pytest.approx(min(seconds, 0.05 * limit))
    assert last.tail_seconds(2, most=most, evaluate_seconds=1.0) == 1.0


@given(costs(), st.floats(60, 1e4), st.integers(2, 7), candidates())
def test_several_policies_leave_nine_in_ten_candidates(
    costs: Costs, limit: float, policies: int, alike: CandidateCosts
) -> None:
    """Of the search's time; of candidates too where all cost the same, alone and together."""
    alike = replace(alike, calibrate_seconds=alike.calibrate_seconds + 1.0)
    names, companies = ("smallest", "median", "largest"), ("small", "any", "large")
    search = SearchCosts(Images(100), dict.fromkeys(names, alike), dict.fromkeys(companies, alike), 0.0, PLENTY)
    costs = replace(costs, search=search, training=None)
    one, several = (forecast(with_policies(costs, number), Budget.parse(f"{limit}s"), ONE) for number in (1, policies))
    assert several.candidates.expected >= 0.9 * one.candidates.expected - 1


@given(costs(), LIMITS, st.floats(0.1, 0.9))
def test_what_calibrations_may_keep_is_bounded_by_the_limit_and_by_the_search(
    costs: Costs, limit: float, left: float
) -> None:
    """By hand; and a search that goes on after it was stopped keeps what it kept before."""
    heads, remaining_seconds = costs.heads, left * limit
    before = {"spent_seconds": 0.0, "evaluate_seconds": 1.0}
    most = heads.most(limit, remaining_seconds=remaining_seconds, searched_seconds=0.0, **before)
    tail_seconds = heads.tail_seconds(5, most=replace(most, calibrations=0.0), evaluate_seconds=1.0)
    assert most.calibrations == pytest.approx(min(0.05 * limit, (remaining_seconds - tail_seconds) / 10))
    later = heads.most(limit, remaining_seconds=remaining_seconds / 2, searched_seconds=remaining_seconds / 2, **before)
    assert later.calibrations >= most.calibrations
    assert heads.most(None, remaining_seconds=1.0, searched_seconds=0.0, **before) == Most(inf, inf)


@given(costs(), LIMITS, st.integers(2, 64))
def test_device_time_buys_the_same_on_more_devices_sooner(costs: Costs, limit: float, devices: int) -> None:
    budget = Budget.parse(f"{limit}gpu-s")
    alone, many = forecast(costs, budget, GPU), forecast(costs, budget, GPU, devices)
    assert numbers(many) == pytest.approx(numbers(alone), rel=1e-6, abs=1)
    assert many.wall_seconds["search"] == pytest.approx(alone.wall_seconds["search"] / devices, rel=1e-6, abs=1e-9)
    assert many.device_seconds["search"] == pytest.approx(alone.device_seconds["search"], rel=1e-6)
    for phase in ("prepare", "supernet", "evaluate"):
        assert many.wall_seconds[phase] == pytest.approx(alone.wall_seconds[phase])
    assert many.held <= limit * (1 + 1e-9), "the sum of everybody's time is the budget"


@given(costs(), LIMITS, st.integers(2, 64))
def test_time_on_the_clock_buys_more_on_more_devices(costs: Costs, limit: float, devices: int) -> None:
    budget = Budget.parse(f"{limit}s")
    alone, many = forecast(costs, budget, GPU), forecast(costs, budget, GPU, devices)
    assert many.wall == pytest.approx(alone.wall)
    assert many.device_seconds["search"] == pytest.approx(devices * many.wall_seconds["search"])
    assert all(a <= b for a, b in zip(numbers(alone), numbers(many), strict=True))
    others = {phase: seconds for phase, seconds in many.device_seconds.items() if phase != "search"}
    assert others == pytest.approx({phase: many.wall_seconds[phase] for phase in others})


@given(costs(), st.integers(1, 5000), st.integers(1, 16))
def test_trials_are_counted_exactly_and_take_what_they_take(costs: Costs, trials: int, devices: int) -> None:
    budget = Budget.parse(f"{trials}trials")
    found, alone = forecast(costs, budget, ONE, devices), forecast(costs, budget, ONE)
    assert set(numbers(found)) == {trials}
    assert found.limit_seconds is None
    assert found.wall_seconds["search"] * devices == pytest.approx(alone.wall_seconds["search"])
    double = forecast(costs, Budget.parse(f"{2 * trials}trials"), ONE)
    assert double.wall_seconds["search"] > alone.wall_seconds["search"]
    if costs.training is not None:
        assert alone.wall_seconds["supernet"] == pytest.approx(costs.training.steps * costs.training.step_seconds)


@given(costs(), LIMITS, st.integers(1, 100))
def test_the_first_of_two_limits_stops(costs: Costs, limit: float, trials: int) -> None:
    both = forecast(costs, Budget.parse(f"{limit}s,{trials}trials"), ONE)
    time_alone = forecast(costs, Budget.parse(f"{limit}s"), ONE)
    assert numbers(both) == tuple(min(number, trials) for number in numbers(time_alone))
    assert both.wall <= limit * (1 + 1e-9)


@given(costs(most=40), LIMITS)
def test_a_space_that_is_used_up_leaves_time_over(costs: Costs, limit: float) -> None:
    found = forecast(costs, Budget.parse(f"{100 * limit}s"), ONE)
    assume(found.candidates.low == 40)
    assert numbers(found) == (40, 40, 40)
    assert found.wall < 100 * limit


@given(costs(), LIMITS)
@settings(max_examples=50)
def test_the_search_time_is_that_of_its_candidates(costs: Costs, limit: float) -> None:
    """By hand: smallest and largest, then as many expected ones as fit, the last 16 alone, one in eta promoted."""
    found = forecast(costs, Budget.parse(f"{limit}s"), ONE)
    search, (_, expected, _) = costs.search, numbers(found)
    assume(expected > 20)
    images = search.images

    def whole(one: CandidateCosts, count: int = images.whole) -> float:
        return one.calibrate_seconds + count * one.image_seconds + one.judge_seconds

    def first(one: CandidateCosts) -> float:
        part = one.calibrate_seconds + images.part * one.image_seconds + one.judge_part_seconds
        return part if images.part else whole(one)

    def mean(seconds: Callable[[CandidateCosts], float]) -> float:
        return (seconds(search.companies["any"]) + seconds(search.companies["large"])) / 2

    def needed(number: int) -> float:
        total = whole(search.typical["smallest"]) + whole(search.typical["largest"])
        total += (number - 18) * mean(first) + 16 * max(mean(first), first(search.typical["median"]))
        if images.part:
            total += ceil((number - 2) / images.eta) * mean(lambda one: whole(one, images.whole - images.part))
        return total + (number - 2) * search.asking_seconds

    assert needed(expected) <= found.wall_seconds["search"] * (1 + 1e-6)
    if found.wall == pytest.approx(limit):
        assert needed(expected + 1) > found.wall_seconds["search"] * (1 - 1e-6)


def test_the_range_is_the_dearest_and_the_cheapest_company_and_some_slack() -> None:
    alike = CandidateCosts(1e6, 0.0, 1e-2, 0.0)
    ends = {"smallest": replace(alike, macs=1e5), "median": replace(alike, image_seconds=0.0),
            "largest": replace(alike, macs=1e7)}  # fmt: skip
    search = SearchCosts(Images(100), ends,
                         {"small": replace(alike, image_seconds=5e-3), "any": alike,
                          "large": replace(alike, image_seconds=2e-2)}, 0.0, PLENTY)  # fmt: skip
    heads = HeadCosts(heads=(), finalists=7, walks=1, fitted=100, held_out=0, test=0, target=100, crops=1,
                      typical_share=1.0)  # fmt: skip
    found = forecast(Costs(0.0, None, search, heads), Budget.parse("1000s"), ONE)
    searched = found.wall_seconds["search"] - 2.0
    assert found.candidates.expected - 2 == pytest.approx(searched / 1.5, abs=1)
    assert found.candidates.low - 2 == pytest.approx(searched / (2 * SLACK), abs=1)
    assert found.candidates.high - 2 == pytest.approx(searched / (0.5 / SLACK), abs=1)


def test_devices_of_a_kind() -> None:
    assert times(GPU, 4) == Holding(4, 32)
