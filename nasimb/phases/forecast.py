"""What a budget will buy: the run's own ledger and the run's own reserves, on a clock that only these costs move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, inf

from nasimb.budget import NOTHING, Budget, Holding
from nasimb.ledger import Ledger
from nasimb.phases.headcosts import (
    FIRST_TRIALS,
    HeadCosts,
    Most,
    most_for_largest,
)
from nasimb.phases.measure import CandidateCosts, SearchCosts, mean_costs
from nasimb.phases.supernet import SMALLEST_STEPS, training_seconds

PHASES = ("prepare", "supernet", "search", "head", "evaluate")
STEADY = 100
"""So many trials on, what is kept from the search no longer depends on their number."""
LAST = 16
"""Candidates of a batch."""
SLACK = 1.25
"""By how much a machine is slower or faster from one minute to another (measured: see `nasimb plan`)."""


@dataclass(frozen=True, slots=True)
class Training:
    """How the super-network will be trained.

    Attributes:
        step_seconds: of a step.
        share: of a time limit.
        steps: where the budget has none.
    """

    step_seconds: float
    share: float
    steps: int


@dataclass(frozen=True, slots=True)
class Costs:
    """Everything that a forecast rests on.

    Attributes:
        prepare_seconds: to load, check and probe.
        training: None where a ready super-network is searched.
        passed_again: as `HeadCosts.expected` takes it.
    """

    prepare_seconds: float
    training: Training | None
    search: SearchCosts
    heads: HeadCosts
    passed_again: bool = False


@dataclass(frozen=True, slots=True)
class Range:
    """A number of candidates: what is expected, and between what it should lie."""

    low: int
    expected: int
    high: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """What one budget buys with so many devices.

    Attributes:
        devices: that share the search.
        wall_seconds: by phase, on the clock; with a time limit they add up to all of it, unless trials end first.
        device_seconds: by phase: those times the devices that are held meanwhile.
        candidates, promoted: scored in all, and of them those that see all images after a first screening.
        steps: of the super-network's training.
        limit_seconds: what the budget lasts with one device; None where it limits trials alone.
    """

    devices: int
    wall_seconds: Mapping[str, float]
    device_seconds: Mapping[str, float]
    candidates: Range
    promoted: Range
    steps: int
    limit_seconds: float | None

    @property
    def wall(self) -> float:
        """Seconds on the clock in all."""
        return sum(self.wall_seconds.values())

    @property
    def held(self) -> float:
        """Device-seconds in all."""
        return sum(self.device_seconds.values())


class _Account:
    """A ledger in memory on a clock of its own."""

    def __init__(self, budget: Budget, holding: Holding) -> None:
        self.now = 0.0
        self.ledger = Ledger(None, lambda: self.now, budget, holding)
        self.holding = holding
        self.held: dict[str, float] = {}

    def spend(self, phase: str, seconds: float, devices: int = 1) -> None:
        with self.ledger.phase(phase, times(self.holding, devices)):
            self.now += seconds
        self.held[phase] = self.held.get(phase, 0.0) + devices * seconds


def times(holding: Holding, devices: int) -> Holding:
    """What so many devices of a kind are."""
    return Holding(holding.gpus * devices, holding.threads * devices)


def forecast(costs: Costs, budget: Budget, holding: Holding, devices: int = 1) -> Forecast:
    """Walk through the phases of a run.

    Args:
        holding: one device.
        devices: that share the search; super-network, heads and test have one.
    """
    account = _Account(budget, holding)
    ledger, heads = account.ledger, costs.heads
    limit = ledger.limit_seconds
    account.spend("prepare", costs.prepare_seconds)
    steps = _train(account, costs.training)
    account.spend("head", _largest_seconds(heads, limit))
    evaluate_seconds = heads.evaluate_seconds(heads.expected(passed_again=costs.passed_again))
    most = heads.most(
        limit, spent_seconds=ledger.spent("head"), remaining_seconds=ledger.remaining(), searched_seconds=0.0,
        evaluate_seconds=evaluate_seconds,
    )  # fmt: skip
    left_seconds = _left_for_search(account, costs, most, evaluate_seconds, devices)
    candidates, promoted = _bought(costs.search, devices * left_seconds, budget.trials)
    search_seconds = min(left_seconds, _search_seconds(costs.search, candidates.expected) / devices)
    if limit is not None and candidates.expected < min(budget.trials or inf, costs.search.most):
        search_seconds = left_seconds  # whatever it buys, the time is the search's
    account.spend("search", search_seconds, devices)
    calibrations_seconds = min(heads.calibrations_seconds(), most.calibrations)
    kept_seconds = calibrations_seconds + evaluate_seconds
    account.spend("head", _finalists_seconds(heads, ledger.remaining() - kept_seconds, candidates.expected))
    account.spend("search", min(calibrations_seconds, max(ledger.remaining() - evaluate_seconds, 0.0)))
    account.spend("evaluate", evaluate_seconds)
    wall = {phase: ledger.by_phase().get(phase, 0.0) for phase in PHASES}
    held = {phase: account.held.get(phase, 0.0) for phase in PHASES}
    return Forecast(devices, wall, held, candidates, promoted, steps, limit)


def _left_for_search(account: _Account, costs: Costs, most: Most, evaluate_seconds: float, devices: int) -> float:
    """Seconds on the clock that the search has: all but the tail; the first trials may use a part of that."""
    others = NOTHING if devices == 1 else times(account.holding, devices - 1)

    def left_seconds(finished: int) -> float:
        keep = costs.heads.tail_seconds(finished, most=most, evaluate_seconds=evaluate_seconds)
        return max(account.ledger.remaining(others, keep_seconds=keep), 0.0)

    first_seconds = _search_seconds(costs.search, FIRST_TRIALS) / devices
    return max(left_seconds(STEADY), min(left_seconds(0), first_seconds))


def _train(account: _Account, training: Training | None) -> int:
    """Spend the super-network's share; returns its steps."""
    if training is None:
        return 0
    limit = account.ledger.limit_seconds
    if limit is None:
        account.spend("supernet", training.steps * training.step_seconds)
        return training.steps
    seconds = training_seconds(account.ledger, training.share * limit, training.share)
    steps = max(int(seconds / max(training.step_seconds, 1e-9)), SMALLEST_STEPS)
    account.spend("supernet", max(seconds, SMALLEST_STEPS * training.step_seconds))
    return steps


def _largest_seconds(heads: HeadCosts, limit_seconds: float | None) -> float:
    """To measure the largest subnet, and to compare as many heads on it as its share allows."""
    measured = heads.calibrate_seconds + heads.features_seconds() + sum(heads.fit_seconds.values())
    compared = sum(heads.compare_seconds(head) for head in heads.fit_seconds)
    return measured + min(compared, most_for_largest(limit_seconds))


def _finalists_seconds(heads: HeadCosts, left_seconds: float, candidates: int) -> float:
    """To compare heads; where there is a limit, what it leaves goes to the next best candidates."""
    each_seconds = heads.finalists_seconds() / heads.finalists
    if left_seconds == inf:
        return each_seconds * min(heads.finalists, candidates)
    return max(min(left_seconds, each_seconds * candidates), 0.0)


def _bought(search: SearchCosts, seconds: float, trials: int | None) -> tuple[Range, Range]:
    """Candidates that so much time of devices buys, and how many of them are promoted."""
    low, expected, high = (
        min(_count(search, one, seconds), trials or search.most, search.most) for one in _spectrum(search)
    )
    found = Range(low, max(expected, low), max(high, expected, low))
    if not search.images.part:
        return found, Range(0, 0, 0)
    return found, Range(*(ceil(number / search.images.eta) for number in (found.low, found.expected, found.high)))


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of candidate: what it takes in the company of others, and by itself."""

    together: CandidateCosts
    alone: CandidateCosts


def _spectrum(search: SearchCosts) -> tuple[_Kind, _Kind, _Kind]:
    """The dearest, the expected and the cheapest kind of candidate.

    Expected is the middle between size not mattering and large networks winning, which they mostly do.
    """
    by_cost = sorted(search.companies.values(), key=lambda one: one.first_seconds(search.images))
    expected = mean_costs([search.companies["any"], search.companies["large"]])
    return _kind(search, by_cost[-1], SLACK), _kind(search, expected), _kind(search, by_cost[0], 1 / SLACK)


def _kind(search: SearchCosts, one: CandidateCosts, factor: float = 1.0) -> _Kind:
    return _Kind(_scaled(one, factor), _scaled(search.alone(one.macs), factor))


def _count(search: SearchCosts, one: _Kind, seconds: float) -> int:
    """The most candidates like this one that fit into the time; the smallest and the largest come first."""
    low, high = 0, search.most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _seconds_for(search, one, middle, LAST) <= seconds else (low, middle - 1)
    return low


def _search_seconds(search: SearchCosts, candidates: int) -> float:
    return _seconds_for(search, _spectrum(search)[1], candidates)


def _seconds_for(search: SearchCosts, one: _Kind, candidates: int, last: int = 0) -> float:
    """That so many candidates take, the smallest and the largest among them, and the promotions after them.

    Args:
        last: so many of them go alone: where time ends the search, fewer and fewer are scored together.
    """
    images = search.images
    ends = [search.typical[name].seconds(images.whole) for name in ("smallest", "largest")][:candidates]
    others = candidates - len(ends)
    last = min(others, last)
    each_seconds = one.together.first_seconds(images)
    first = (others - last) * each_seconds + last * max(one.alone.first_seconds(images), each_seconds)
    if images.part:
        # For those that are promoted, the features of the part are at hand.
        first += ceil(others / images.eta) * one.together.seconds(images.whole - images.part)
    return sum(ends) + first + others * search.asking_seconds


def _scaled(one: CandidateCosts, factor: float) -> CandidateCosts:
    return replace(
        one, calibrate_seconds=factor * one.calibrate_seconds, image_seconds=factor * one.image_seconds,
        judge_seconds=factor * one.judge_seconds, judge_part_seconds=factor * one.judge_part_seconds,
    )  # fmt: skip
