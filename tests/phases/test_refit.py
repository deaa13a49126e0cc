"""A large refit survives kills: what is continued is what would have been, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import nasimb.phases.evaluate as phase
from nasimb.errors import Interrupted
from nasimb.export import load
from nasimb.phases.evaluate import evaluate_models
from nasimb.phases.heads import HeadWork
from nasimb.phases.refit import FOLDER, Refits
from nasimb.phases.search import search
from nasimb.search.limits import Limits

Workshop = Callable[..., Any]


@pytest.fixture(autouse=True)
def equal_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phase, "latency", lambda model, image: 0.001)


def chosen(shop: Any) -> dict[str, Any]:
    """Every role with a logistic head, so that all take iterations."""
    trials = search(shop.session, shop.scoring, shop.question, max_trials=4, reserve_seconds=lambda finished: 0.0)
    choices = shop.work.choose(trials, Limits())
    return {
        role: choice if role == "largest_plain_head" else replace(choice, head="balanced_softmax", setting=0.01)
        for role, choice in choices.items()
    }


def evaluated(shop: Any, choices: dict[str, Any], **options: Any) -> dict[str, Any]:
    session = options.pop("session", shop.session)
    return evaluate_models(session, shop.scoring, shop.work, choices, shop.ground.task, {}, seed=0, **options)


def model(shop: Any) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load(shop.run.best).state_dict()
    return state


def stopped_while(shop: Any, begins: str, ticks: int = 4) -> tuple[Any, list[Any]]:
    """The session, asked to stop at the fourth step of what the detail names, and its steps; each takes a minute."""
    seen: list[Any] = []

    def show(progress: Any) -> None:
        shop.clock.now += 61.0
        seen.append(progress)

    def stop() -> int:
        return 15 * (sum(progress.detail.startswith(begins) for progress in seen) >= ticks)

    shop.watcher.show = show
    return replace(shop.session, stop=stop), seen


@pytest.mark.parametrize("role", ["winner", "largest_plain_head"])
def test_an_interrupted_refit_goes_on_to_the_same_model(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    shop = workshop()
    choices = chosen(shop)
    expected, weights = evaluated(shop, choices), {**model(shop)}
    predictions = (shop.run.path / "predictions.csv").read_text()

    stopped, done = stopped_while(shop, f"fitting {role},")
    with pytest.raises(Interrupted):
        evaluated(shop, choices, session=stopped, large=0)
    folder = shop.run.path / FOLDER
    assert len(list(folder.glob("*.fitting.safetensors"))) == 1
    before = len(list(folder.glob("*.safetensors"))) - 1
    assert (before > 0) is (role != "winner")

    shown: list[Any] = []
    shop.watcher.show = shown.append
    fitted: list[Any] = []
    fit = shop.work.fit
    monkeypatch.setattr(shop.work, "fit", lambda *args, **options: fitted.append(1) or fit(*args, **options))
    assert evaluated(shop, choices, large=0) == expected
    assert len(fitted) == len({repr(choice) for choice in choices.values()}) - before
    assert (shop.run.path / "predictions.csv").read_text() == predictions
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model(shop).items())
    assert not folder.exists()
    first = next(progress for progress in shown if progress.detail.startswith(f"fitting {role},"))
    assert first.fraction > done[-1].fraction, "it goes on where it was"
    fractions = [progress.fraction for progress in shown]
    assert fractions == sorted(fractions)


def test_what_was_fitted_and_timed_before_a_kill_is_not_again(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = workshop()
    choices = chosen(shop)
    expected = evaluated(shop, choices)
    stopped, _ = stopped_while(shop, "", ticks=2)
    with pytest.raises(Interrupted):
        evaluated(shop, choices, session=stopped)
    folder, subnets = shop.run.path / FOLDER, {choice.candidate.subnet for choice in choices.values()}
    heads, timed = len(list(folder.glob("*.safetensors"))), len(list(folder.glob("*.json")))
    assert heads >= 1
    damaged = next(iter(folder.glob("*.json")))
    damaged.write_text(damaged.read_text().replace("0.001", "0.009"))
    fitted: list[Any] = []
    fit = shop.work.fit
    monkeypatch.setattr(shop.work, "fit", lambda *args, **options: fitted.append(1) or fit(*args, **options))
    measured: list[Any] = []
    monkeypatch.setattr(phase, "latency", lambda model, image: measured.append(1) or 0.001)
    assert evaluated(shop, choices) == expected
    assert len(fitted) == len({repr(choice) for choice in choices.values()}) - heads
    assert len(measured) == len(subnets) - timed + 1
    assert any("is damaged; what it says is measured again" in line for line in shop.watcher.lines)
    assert not folder.exists()


def interrupted(shop: Any, choice: Any) -> tuple[Refits, Any, torch.Tensor]:
    """A refit that ended in its fourth iteration, with its images and their features."""
    target, steps = shop.ground.task.target, []
    features_ND = shop.work.features(choice.candidate, target)
    refits = Refits(shop.session, shop.work, 0)

    def progress(share: float) -> None:
        shop.clock.now += 61.0
        steps.append(share)
        if len(steps) == 4:
            raise Interrupted(15, resume="")

    with pytest.raises(Interrupted):
        refits.fit(choice, target, lambda: features_ND, progress)
    return refits, target, features_ND


def test_another_choice_after_a_kill_is_another_fit(workshop: Workshop) -> None:
    shop = workshop()
    choice = chosen(shop)["winner"]
    refits, target, features_ND = interrupted(shop, choice)
    other = replace(choice, head="cross_entropy")
    found = refits.fit(other, target, lambda: features_ND)
    assert torch.equal(found.weight_KD, shop.work.fit(other, features_ND, target.labels_N).weight_KD)
    again = refits.fit(other, target, lambda: pytest.fail("it is fitted already"))
    assert torch.equal(found.weight_KD, again.weight_KD)
    assert torch.equal(found.bias_K, again.bias_K)
    assert (again.name, again.setting, again.solver) == (found.name, found.setting, "full batch")


@pytest.mark.parametrize("under_way", [False, True])
def test_a_damaged_head_is_fitted_again_and_that_is_said(workshop: Workshop, under_way: bool) -> None:
    shop = workshop()
    choice = chosen(shop)["winner"]
    refits, target, features_ND = interrupted(shop, choice)
    if not under_way:
        refits.fit(choice, target, lambda: features_ND)
    (file,) = (shop.run.path / FOLDER).iterdir()
    data = bytearray(file.read_bytes())
    data[-3] ^= 1  # of the last number
    file.write_bytes(data)
    found = refits.fit(choice, target, lambda: features_ND)
    assert torch.equal(found.weight_KD, shop.work.fit(choice, features_ND, target.labels_N).weight_KD)
    assert any(("is fitted from the start" if under_way else "is fitted again") in line for line in shop.watcher.lines)


def test_features_that_changed_are_fitted_from_the_start(workshop: Workshop) -> None:
    shop = workshop()
    choice = chosen(shop)["winner"]
    refits, target, features_ND = interrupted(shop, choice)
    moved_ND = features_ND * (1 + 1e-6)
    found = refits.fit(choice, target, lambda: moved_ND)
    assert torch.equal(found.weight_KD, shop.work.fit(choice, moved_ND, target.labels_N).weight_KD)
    assert any("is fitted from the start" in line for line in shop.watcher.lines)


def test_another_solver_than_chose_the_penalty_is_said(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = workshop()
    choices = chosen(shop)
    evaluated(shop, choices)
    assert load(shop.run.best).description.head["solver"] == "full batch"
    assert not any("last fit" in line for line in shop.watcher.lines)
    work = HeadWork(shop.session, shop.scoring, replace(shop.work.comparison, crops=3), num_test=10)
    dimension = shop.scoring.supernet.feature_dim(shop.scoring.supernet.space.largest())
    target = shop.ground.task.target
    # As many numbers as the target alone has; three crops of it have more.
    monkeypatch.setattr("nasimb.heads.stacked.FULL_BATCH_NUMBERS", len(target) * dimension * target.num_classes)
    largest = {"winner": choices["largest"]}
    evaluate_models(shop.session, shop.scoring, work, largest, shop.ground.task, {}, seed=0)
    assert load(shop.run.best).description.head["solver"] == "minibatch"
    said = [line for line in shop.watcher.lines if "last fit" in line]
    assert len(said) == 1
    assert said[0].startswith("balanced_softmax: the last fit is by minibatch gradients")
    closed = {"winner": replace(choices["winner"], head="ridge", setting=0.1)}
    evaluate_models(shop.session, shop.scoring, work, closed, shop.ground.task, {}, seed=0)
    assert load(shop.run.best).description.head["solver"] is None
