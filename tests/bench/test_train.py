"""A sandwich step against plain steps of its own subnets."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from nasimb.assemble import new_training
from nasimb.bench import train
from nasimb.bench.base import Conditions
from nasimb.bench.testbed import load_bench_ground


def test_the_subnets_of_a_step_are_those_that_it_trains(quick: Callable[..., Conditions]) -> None:
    conditions = quick()
    ground = load_bench_ground(conditions, conditions.config)
    first, again = (
        train._subnets_of_steps(new_training(conditions.config, ground, 100.0), 3) for _ in range(2)
    )  # fmt: skip
    assert first == again
    recipe = conditions.config.training
    assert [len(step) for step in first] == [2 + recipe.random_subnets] * 3
    widths = [[sum(subnet.widths) for subnet in step] for step in first]
    assert all(max(step) == sum(ground.space.largest().widths) for step in widths)
    assert all(min(step) == sum(ground.space.smallest().widths) for step in widths)


def test_a_plain_step_trains_every_parameter_of_its_network(quick: Callable[..., Conditions]) -> None:
    conditions = quick()
    ground = load_bench_ground(conditions, conditions.config)
    training = new_training(conditions.config, ground, 100.0, "float32")
    plain = train._Plain.of(training, ground.space.largest())
    before = [parameter.detach().clone() for parameter in plain.network.parameters()]
    plain.step(*next(train._plain_batches(training, ground)))
    changed = [not torch.equal(a, b) for a, b in zip(before, plain.network.parameters(), strict=True)]
    assert sum(changed) > 0.9 * len(changed)


def test_eight_norms_are_compared_with_two_of_the_same_space(quick: Callable[..., Conditions]) -> None:
    (figure,) = train.norms_over_two(quick(clock=time.perf_counter))
    assert (figure.figure, figure.repetitions) == ("norms_over_two", 2)
    assert figure.value > 0
    assert len(set(train.EIGHT_NORMS)) == 8


def test_one_ratio_of_sandwich_and_plain_steps(quick: Callable[..., Conditions]) -> None:
    (figure,) = train.sandwich_over_plain(quick(clock=time.perf_counter))
    assert figure.value > 0
    assert figure.target == "<= 1.1"
    assert figure.repetitions == 2
    assert figure.detail["subnets"] == 3
