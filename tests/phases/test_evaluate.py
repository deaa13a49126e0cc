"""The last phase: what is tested is what was saved, once, with every baseline."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import nasimb.phases.evaluate as phase
from nasimb.errors import Interrupted
from nasimb.export import load
from nasimb.phases.evaluate import build, evaluate_models, predictions_text
from nasimb.phases.heads import HeadWork
from nasimb.phases.refit import Refits
from nasimb.phases.search import search
from nasimb.search.limits import Limits
from nasimb.session import Session

# UTF-8 can hold it: names are seen to that when data are read.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
Workshop = Callable[..., Any]


def chosen(shop: Any) -> dict[str, Any]:
    trials = search(shop.session, shop.scoring, shop.question, max_trials=4, reserve_seconds=lambda finished: 0.0)
    found: dict[str, Any] = shop.work.choose(trials, Limits())
    return found


def outcome(shop: Any, choices: dict[str, Any]) -> dict[str, Any]:
    return evaluate_models(shop.session, shop.scoring, shop.work, choices, shop.ground.task, {"seed": 0}, seed=0)


def test_the_saved_winner_says_what_the_result_says(workshop: Workshop) -> None:
    shop = workshop()
    choices = chosen(shop)
    result = outcome(shop, choices)
    test, model = shop.ground.task.test, load(shop.run.best)
    images_NCHW = test.store.read(test.indices_N, torch.device("cpu"))
    right_N = model(images_NCHW).argmax(1) == test.labels_N
    recalls = [float(right_N[test.labels_N == label].float().mean()) for label in range(test.num_classes)]
    assert result["winner"]["test"]["balanced_accuracy"] == pytest.approx(sum(recalls) / len(recalls))
    assert result["winner"]["test"]["recalls"] == pytest.approx(recalls)
    assert model.description.metrics["test"] == result["winner"]["test"]
    assert model.description.provenance == {"seed": 0}
    assert set(result["baselines"]) == set(choices) - {"winner"}


def test_the_test_split_is_read_once_for_each_subnet(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop, passes = workshop(), []
    choices = chosen(shop)
    original = phase.predict_test

    def counting(backbone: Any, heads: Any, test: Any, **options: Any) -> Any:
        passes.append(sorted(heads))
        return original(backbone, heads, test, **options)

    monkeypatch.setattr(phase, "predict_test", counting)
    outcome(shop, choices)
    assert sorted(role for roles in passes for role in roles) == sorted(choices)
    assert len(passes) == len({choice.candidate for choice in choices.values()})


def test_roles_of_one_subnet_have_one_latency(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop, measured = workshop(), iter(range(1, 100))
    choices = chosen(shop)
    choices["twin"] = replace(choices["winner"], head=choices["largest_plain_head"].head)
    monkeypatch.setattr(phase, "latency", lambda model, image: float(next(measured)))
    result = outcome(shop, choices)
    entries = {"winner": result["winner"], **result["baselines"]}
    subnets = list(dict.fromkeys(choice.candidate.subnet for choice in choices.values()))
    expected = {role: 1.0 + subnets.index(choice.candidate.subnet) for role, choice in choices.items()}
    assert {role: entries[role]["cost"]["latency_seconds"] for role in choices} == expected
    assert next(measured) == len(subnets) + 1


def test_the_final_head_is_fitted_to_every_target_image(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = workshop(source="target")
    choice, seen = chosen(shop)["winner"], []
    original = shop.work.fit

    def watching(choice: Any, features_ND: Any, labels_N: Any) -> Any:
        seen.append(len(features_ND))
        return original(choice, features_ND, labels_N)

    monkeypatch.setattr(shop.work, "fit", watching)
    build(shop.scoring, Refits(shop.session, shop.work), choice, shop.ground.task.target, {})
    assert seen == [len(shop.ground.task.target)]
    assert seen[0] > len(shop.scoring.fitted)


def test_an_interrupted_test_is_done_again(workshop: Workshop) -> None:
    shop = workshop()
    choices = chosen(shop)
    stopped = Session(shop.run, shop.session.ledger, shop.clock, shop.watcher, lambda: 15)
    with pytest.raises(Interrupted):
        evaluate_models(stopped, shop.scoring, shop.work, choices, shop.ground.task, {}, seed=0)
    assert load(shop.run.best).description.subnet == choices["winner"].candidate.subnet
    assert outcome(shop, choices)["winner"]["test"]["balanced_accuracy"] >= 0


def test_every_model_is_refitted_to_every_crop(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = workshop()
    choices = chosen(shop)
    work = HeadWork(shop.session, shop.scoring, replace(shop.work.comparison, crops=3), num_test=10, flip=True)
    made, seen = [], []
    original, fit = work.crops.features, work.fit

    def making(features_of: Any, images: Any) -> Any:
        made.append(len(images))
        return original(features_of, images)

    def watching(choice: Any, features_ND: Any, labels_N: Any) -> Any:
        seen.append((len(features_ND), len(labels_N)))
        return fit(choice, features_ND, labels_N)

    monkeypatch.setattr(type(work.crops), "features", lambda crops, *arguments: making(*arguments))
    monkeypatch.setattr(work, "fit", watching)
    task = shop.ground.task
    result = evaluate_models(shop.session, shop.scoring, work, choices, task, {}, seed=0)
    images = len(task.target)
    distinct = {repr(replace(choice, value=0.0, metrics={})) for choice in choices.values()}
    assert seen == [(3 * images, images)] * len(distinct)  # two roles of one choice have one head
    assert len(made) == len({choice.candidate for choice in choices.values()})
    assert load(shop.run.best).description.head["crops"] == 3
    assert list(result["baselines"]) == [role for role in choices if role != "winner"]


@example(["car\rret", "b\n"], ["a.png", "\r"])
@given(st.lists(TEXT, min_size=1, max_size=4, unique=True), st.lists(TEXT, min_size=1, max_size=4))
def test_predictions_are_read_as_they_were_written_whatever_the_names(classes: list[str], names: list[str]) -> None:
    label_N = np.arange(len(names)) % len(classes)
    said = {"label": label_N, "winner": label_N[::-1].copy()}
    text = predictions_text(names, tuple(classes), said, np.full(len(names), 2 / 3, dtype=np.float32))
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["image"] for row in rows] == names
    for column, said_N in said.items():
        assert [row[column] for row in rows] == [classes[k] for k in said_N]
    assert {row["winner_probability"] for row in rows} == {"0.6667"}
