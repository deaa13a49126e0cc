"""A model card says what the model is and is not; names of classes are never markup."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from nasimb.deliver.card import model_card
from nasimb.export import Model


def test_the_card_of_a_tested_model(make_model: Callable[..., Model]) -> None:
    test = {
        "balanced_accuracy": 0.65, "accuracy": 0.9, "many": 0.9, "medium": None, "few": 0.4,
        "recalls": [0.9, 0.4, None], "ci95": {"balanced_accuracy": [0.6, 0.7], "few": [0.1, 0.8]},
    }  # fmt: skip
    metrics = {
        "test": test,
        "validation": {"balanced_accuracy": 0.7, "estimator": "leave-one-out"},
        "cost": {"macs": 1234567, "params": 4321, "latency_seconds": 0.1},
    }
    about = {"seed": 3, "commit": None, "command": ["nasimb", "search", "--data", "my_*_photos"], "trial": 12,
             "data": {"target": "abc"}, "versions": {"torch": "2.9"}}  # fmt: skip
    card = model_card(replace(make_model().description, metrics=metrics, provenance=about), use=["Use it."])
    for told in (
        "# Image classifier of 3 classes", "4,321 parameters and 1,234,567 multiply-accumulates", "Use it.",
        "127 images, from 120 to 7 a class", "| 120 ", "many-shot", "65.0 % \\[60.0, 70.0]", "70.0 %",
        "few-shot classes", "40.0 % \\[10.0, 80.0]", "Learned from fewer than 20 images each: \\<b>\\|x.",
        "Never predicted, for want of training images: never.",
        "More images missed than found on the test images: \\<b>",
        "held out (leave-one-out)", "Seed: 3", "Trial: 12", "my\\_\\*\\_photos", "target abc",
    ):  # fmt: skip
        assert told in card, told
    assert "Commit" not in card
    assert "medium-shot classes" not in card
    assert "<b>" not in card.replace("\\<b>", "")


def test_the_card_of_a_model_that_was_not_tested(make_model: Callable[..., Model]) -> None:
    description = make_model().description
    assert "It was not tested." in model_card(description, use=[])
    held_out = replace(description, metrics={"validation": {"balanced_accuracy": 0.7, "estimator": "5-fold"}})
    assert "so they are somewhat too good" in model_card(held_out, use=[])


def test_the_card_of_a_model_that_was_trained_fully(make_model: Callable[..., Model]) -> None:
    about = {"retrained": {"learning_rate": None, "momentum": 0.9, "sampling": "natural"}, "from_scratch": True}
    head = {"name": "ldam", "setting": None, "crops": 1, "solver": "sgd"}
    description = replace(make_model().description, head=head, provenance=about, metrics={"test": {"accuracy": 0.5}})
    card = model_card(description, use=[])
    for told in (
        "all of it, a linear head included, trained on", "once more, after the test of the search", "head ldam.",
        "beginning with random ones: momentum 0.9, sampling natural.",
    ):  # fmt: skip
        assert told in card, told
    assert "learning" not in card
    headed = model_card(replace(description, provenance={**about, "head_data": "abc"}), use=[])
    assert "with a linear head fitted to" in headed
    assert "once, at the end" in headed


def test_names_cannot_begin_a_heading_or_a_line(make_model: Callable[..., Model]) -> None:
    names = ("x\n# heading", "[link](http://a)", "`code` **bold** <script>")
    description = replace(make_model().description, classes=names, class_counts_K=(3, 3, 3))
    card = model_card(description, use=[])
    assert "\n# heading" not in card
    assert "\\[link]" in card
    assert "\\<script>" in card
    assert "\\*\\*bold" in card
