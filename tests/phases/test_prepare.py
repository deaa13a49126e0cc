"""What is refused before anything is spent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nasimb.budget import Budget
from nasimb.errors import BudgetError, InputError
from nasimb.phases.prepare import Probe, check_affordable, check_space_fits, choose_device, probe
from nasimb.supernet.ranks import Ranks


@pytest.mark.parametrize(("name", "said"), [("gpu", "auto, cpu or cuda"), ("cuda:99", "must exist")])
def test_devices_that_are_not_there(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        choose_device(name)
    assert choose_device("cpu").type == "cpu"


def test_each_process_of_torchrun_takes_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("auto", "cuda"):
        assert choose_device(name, Ranks(5, 6, local=1)) == torch.device("cuda:1")
        with pytest.raises(InputError, match="got 2 GPUs for process 2"):
            choose_device(name, Ranks(2, 6, local=2))
    assert choose_device("cpu", Ranks(5, 6, local=3)) == torch.device("cpu")
    for name, said in (("cuda:1", "got device cuda:1 for all"), ("gpu", "auto, cpu or cuda")):
        with pytest.raises(InputError, match=said):
            choose_device(name, Ranks(0, 6))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto", Ranks(5, 6, local=3)) == torch.device("cpu")


@given(st.floats(1e-4, 50), st.floats(1e-4, 500), st.floats(0, 500), st.floats(0, 50))
def test_the_budget_that_a_refusal_names_is_accepted(step: float, trial: float, test: float, spent: float) -> None:
    found, share = Probe(step, trial, test), 0.5
    with pytest.raises(BudgetError) as refused:
        check_affordable(found, 0.5, spent, "0.5s", share)
    named = str(refused.value).partition("at least ")[2].partition(" ")[0]
    seconds = Budget.parse(named).wall_seconds
    assert seconds is not None
    check_affordable(found, seconds, spent, named, share)
    check_affordable(found, None, spent, "5trials", share)
    assert seconds <= 1.2 * found.smallest_budget_seconds(spent, share) + 60


@given(*[st.floats(1e-4, 1e3)] * 3, st.floats(0.1, 0.9))
def test_the_smallest_budget_leaves_enough_when_training_has_had_its_share(
    step: float, trial: float, test: float, share: float
) -> None:
    """Training takes 30 steps, or its share of what is left after preparing, whichever is more."""
    left = Probe(step, trial, test).smallest_budget_seconds(7.0, share) - 7.0
    training = max(30 * step, share * left)
    assert left - training >= 2.7 * trial + 3.25 * test
    # Without a training, nothing is left to a share.
    assert Probe(0.0, trial, test).smallest_budget_seconds(0.0, share) < 1.1 * (2.7 * trial + 3.25 * test) + 2


def test_a_space_whose_strides_swallow_the_image_is_refused(workshop: Callable[..., Any]) -> None:
    shop = workshop()
    space = shop.ground.space
    stages = tuple(stage.model_copy(update={"stride": 4}) for stage in space.stages)
    with pytest.raises(InputError, match="outlast its strides"):
        check_space_fits(space.model_copy(update={"stages": stages}), shop.ground.task)


def test_the_probe_measures_on_the_clock_that_it_is_given(workshop: Callable[..., Any]) -> None:
    shop = workshop()
    ticks = iter(range(10_000))
    found = probe(
        shop.training.supernet, shop.training, shop.ground.task, batch_size=16, calibration=32,
        clock=lambda: float(next(ticks)), device=shop.device,
    )  # fmt: skip
    assert found.step_seconds == 1.0
    assert found.test_seconds == pytest.approx(len(shop.ground.task.test) / 16)
    assert found.trial_seconds == pytest.approx((len(shop.ground.task.target) + 64) / 16)
