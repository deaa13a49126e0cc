"""The learning rate schedule, and options that are refused."""

from __future__ import annotations

from math import cos, pi

import pytest

from nasimb.errors import InputError
from nasimb.spec import parse
from nasimb.supernet.recipe import Recipe


def test_the_learning_rate_warms_up_in_a_line_and_falls_as_a_cosine() -> None:
    recipe = Recipe(learning_rate=0.4, warmup=0.2)
    assert recipe.learning_rate_at(0.1) == pytest.approx(0.2)
    assert recipe.learning_rate_at(0.2) == pytest.approx(0.4)
    assert recipe.learning_rate_at(0.4) == pytest.approx(0.2 * (1 + cos(pi / 4)))
    assert recipe.learning_rate_at(0.6) == pytest.approx(0.2)
    assert recipe.learning_rate_at(1.0) == pytest.approx(0.0)


def test_the_first_step_already_learns_and_an_overrun_does_not_start_again() -> None:
    recipe = Recipe()
    assert recipe.learning_rate_at(0.0) > 0
    assert recipe.learning_rate_at(1.2) == pytest.approx(0.0)
    assert Recipe(warmup=0.0).learning_rate_at(0.0) == pytest.approx(recipe.learning_rate)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rat": 0.1}, "Did you mean 'learning_rate'"),
        ({"sampling": "uniform"}, "sampling must be valid; got 'uniform'"),
        ({"momentum": 1.0}, "momentum must be valid; got 1.0"),
        ({"batch_size": 0}, "batch_size must be valid; got 0"),
        ({"accumulation": 0}, "accumulation must be valid; got 0"),
        ({"batch_size": 8, "accumulation": 5}, "two images or batch norm has no variance; got 5 micro-batches of 8"),
    ],
)
def test_wrong_options_get_a_sentence(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(Recipe, values, what="recipe")


def test_what_was_not_given_follows_the_device_and_the_time() -> None:
    short, long = (Recipe().suited(device_type="cpu", seconds=seconds) for seconds in (80.0, 480.0))
    on_gpu = Recipe().suited(device_type="cuda", seconds=3600.0)
    assert short == Recipe() == Recipe().suited(device_type="cpu", seconds=None)
    assert long.weight_decay < short.weight_decay
    assert on_gpu.batch_size > short.batch_size
    assert on_gpu.random_subnets > short.random_subnets


def test_what_was_given_stays() -> None:
    given = Recipe(batch_size=64, weight_decay=2e-3)  # though both are the defaults
    found = given.suited(device_type="cuda", seconds=3600.0)
    assert (found.batch_size, found.weight_decay) == (64, 2e-3)
    assert found.learning_rate != given.learning_rate
