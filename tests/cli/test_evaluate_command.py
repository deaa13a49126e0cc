"""`nasimb evaluate` as a user meets it; figures are scikit-learn's, and those that the run itself told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from answers import Answer, Command
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, precision_recall_fscore_support
from tiny_run import DATA

from nasimb.data.store import content_hash
from nasimb.deliver.evaluation import _seen_notes, evaluate
from nasimb.export import Model, load, save
from nasimb.learned import Learned, keep_learned
from nasimb.metrics import expected_calibration_error
from nasimb.onsite.images import Site
from nasimb.onsite.profiles import images_of_run

TEST = {**DATA, "digits": [0, 1, 2, 3, 4]}


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture
def photos(write_digits: Callable[..., Path], tmp_path: Path) -> Path:
    """Digits 0 to 3 that the run did not test on, and one folder of strangers."""
    classes = {str(digit): (digit, 15 + 5 * digit) for digit in range(4)}
    return write_digits(tmp_path / "photos", {**classes, "stranger": (9, 7)}, skip=60)


def other(run: Path, change: Callable[[Model], Model], folder: str = "other") -> str:
    Path(folder).mkdir()
    save(change(load(run / "best")), Path(folder))
    return folder


def swapped(model: Model) -> Model:
    """The same model with its classes in another order."""
    order = [2, 0, 4, 1, 3]
    model.head.load_state_dict({name: tensor[order] for name, tensor in model.head.state_dict().items()})
    d = model.description
    names, counts = (tuple(values[k] for k in order) for values in (d.classes, d.class_counts_K))
    model.description = replace(d, classes=names, class_counts_K=counts)
    return model


def blunted(model: Model) -> Model:
    """One that always says the first class."""
    model.head.bias += 1e6 * torch.nn.functional.one_hot(torch.tensor(0), len(model.classes))
    return model


def test_figures_are_scikit_learns(command: Command, run: Path, photos: Path) -> None:
    found = command("evaluate", "run", "--data", "folder:photos", "--json")
    assert found.code == 0, found.err
    told = json.loads(found.out)
    assert told["images"] == 15 + 20 + 25 + 30
    assert any("7 of 97 images count as unlabelled" in note for note in told["notes"])
    files = [file for file in sorted(photos.rglob("*.png")) if file.parent.name != "stranger"]
    model, labels = load(run / "best"), [file.parent.name for file in files]
    predicted, p_NK = model.predict(files), model.predict_proba(files)
    present = ["0", "1", "2", "3"]
    assert told["model"]["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    recalls = precision_recall_fscore_support(labels, predicted, labels=[*present, "4"], zero_division=0)
    assert told["model"]["balanced_accuracy"] == pytest.approx(recalls[1][:4].mean())
    for average in ("macro", "weighted"):
        expected = f1_score(labels, predicted, labels=present, average=average)
        assert told["model"][f"{average}_f1"] == pytest.approx(expected)
    number_N = np.array([int(label) for label in labels])
    assert told["model"]["expected_calibration_error"] == pytest.approx(expected_calibration_error(p_NK, number_N))
    for k, row in enumerate(told["classes"][:4]):
        assert row["recall"] == pytest.approx(recalls[1][k])
        assert row["precision"] == pytest.approx(recalls[0][k])
        assert row["f1"] == pytest.approx(recalls[2][k])
        assert row["images"] == recalls[3][k]
    empty = told["classes"][4]
    assert (empty["images"], empty["recall"], empty["interval"], empty["f1"]) == (0, None, None, None)
    for name, (low, high) in told["model"]["ci95"].items():
        assert low <= high, name
    told_names = {name for name, value in told["model"].items() if isinstance(value, float)}
    assert told["model"]["ci95"].keys() == told_names


def test_the_test_split_of_the_run_gives_what_the_run_told(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())["winner"]["test"]
    found = evaluate(run, TEST, device=torch.device("cpu"))
    assert any("test images of the run" in note for note in found.notes)
    for name in ("balanced_accuracy", "accuracy", "macro_f1", "worst_recall", "many", "medium", "few"):
        assert found.model.values[name] == pytest.approx(result[name]), name
    for name, ends in result["ci95"].items():
        assert found.model.intervals[name] == pytest.approx(ends), name


def notes(answer: Answer) -> list[str]:
    assert answer.code == 0, answer.err
    return json.loads(answer.out)["notes"]


def test_images_that_a_model_learned_from_are_counted(command: Command, run: Path, write_digits: Any) -> None:
    """Of a folder without a test split a part is held out, so that a head is fitted to the rest of it."""
    write_digits(Path("new"), {str(digit): (digit, 10) for digit in range(4)}, skip=60)
    assert command("head", "--from", "run", "--data", "folder:new", "--loss", "ridge", "--out", "x").code == 0
    fitted = sum(load("x").description.class_counts_K)
    assert 0 < fitted < 40
    told = notes(command("evaluate", "x", "--data", "folder:new", "--json"))
    assert f"The head of x was fitted to {fitted} of these 40 images: figures flatter it." in told
    assert not any("not known" in note for note in told)
    (Path("x") / "learned.json").unlink()
    assert any("Which images the head and the backbone of x learned from is not known" in note
               for note in notes(command("evaluate", "x", "--data", "folder:new", "--json")))  # fmt: skip


def test_a_new_head_was_not_fitted_to_what_the_old_one_was(command: Command, run: Path) -> None:
    """Without a record of images, by what the descriptions say."""
    assert command("head", "--from", "run", "--data", "digits:5-9", "--loss", "ridge").code == 0
    target = images_of_run(run / "best", "target", torch.device("cpu"))
    told = {}
    for folder in (run / "best", run / "heads" / "001"):
        (folder / "learned.json").unlink()
        told[folder.name] = _seen_notes(folder, load(folder), Site(target, target.labels_N, ()))
    assert any("head of" in note and "was fitted to these images" in note for note in told["best"])
    assert not any("was fitted to" in note for note in told["001"])


def test_notes_on_both_models_are_each_at_its_own_size(command: Command, run: Path, photos: Path) -> None:
    """The second model has another size, at which it knows the very same files."""
    model = load(run / "best")
    model.description = replace(model.description, size=16)
    Path("other").mkdir()
    save(model, Path("other"))
    files = [file for file in sorted(photos.rglob("*.png")) if file.parent.name == "2"]
    hashes = frozenset(content_hash(pixels.tobytes()) for pixels in model.pixels(files).numpy())
    keep_learned(Path("other"), Learned(frozenset(), hashes))
    told = notes(command("evaluate", "run", "--data", "photos", "--against", "other", "--json"))
    assert "The head of other was fitted to 25 of these 90 images: figures flatter it." in told
    assert not any("The head of run" in note for note in told)


def test_costs_weigh_mistakes(command: Command, run: Path, photos: Path) -> None:
    other(run, blunted)
    Path("costs.csv").write_text("class,cost\n0,1\n1,2\n2,3\n3,4\n4,5\n")
    told = json.loads(
        command("evaluate", "other", "--data", "photos", "--class-costs", "costs.csv", "--json").out
    )["model"]  # fmt: skip
    paid, most = 20 * 2 + 25 * 3 + 30 * 4, 15 + 20 * 2 + 25 * 3 + 30 * 4
    assert told["mean_cost"] == pytest.approx(paid / 90)
    assert told["cost_weighted_accuracy"] == pytest.approx(1 - paid / most)
    assert told["ci95"]["cost_weighted_accuracy"] == pytest.approx([1 - paid / most] * 2), "it never varies"


def test_costs_that_no_image_can_have_are_refused_before_any_is_looked_at(
    command: Command, run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("costs.csv").write_text("class,cost\n0,0\n1,0\n2,0\n3,0\n4,5\n")
    monkeypatch.setattr(Model, "forward", lambda *_: pytest.fail("an image was looked at"))
    found = command("evaluate", "run", "--data", "photos", "--class-costs", "costs.csv")
    assert found.code == 2
    assert "some mistake with these images must cost something" in found.error


def test_two_models_are_compared_by_names_of_classes(command: Command, run: Path, photos: Path) -> None:
    other(run, swapped)
    found = command("evaluate", "run", "--data", "photos", "--against", "other")
    assert found.code == 0, found.err
    assert "do not differ significantly" in found.out
    assert "p = 1:" in found.out
    told = json.loads(command("evaluate", "run", "--data", "photos", "--against", "other", "--json").out)
    assert told["against"]["accuracy"] == told["model"]["accuracy"]
    for name, ends in told["model"]["ci95"].items():
        assert told["against"]["ci95"][name] == pytest.approx(ends, abs=1e-5), name
    assert told["paired"]["only_first"] == told["paired"]["only_second"] == 0


def test_a_model_of_another_size_sees_the_same_images(command: Command, run: Path, photos: Path) -> None:
    def larger(model: Model) -> Model:
        swapped(model)
        model.description = replace(model.description, size=16)
        return model

    other(run, larger)
    told = json.loads(command("evaluate", "run", "--data", "photos", "--against", "other", "--json").out)
    files = [file for file in sorted(photos.rglob("*.png")) if file.parent.name != "stranger"]
    right_N = load("other").predict(files) == [file.parent.name for file in files]
    assert told["against"]["accuracy"] == pytest.approx(right_N.mean())


def test_the_better_one_is_named_and_tables_show_both(command: Command, run: Path, photos: Path) -> None:
    other(run, blunted)
    found = command("evaluate", "other", "--data", "photos", "--against", "run")
    assert found.code == 0, found.err
    assert "The other is more accurate" in found.out
    assert "The other has the higher balanced accuracy" in found.out
    turned = command("evaluate", "run", "--data", "photos", "--against", "other")
    assert "The model is more accurate" in turned.out
    # Which one is better, by scikit-learn: one class of four is a quarter, and the run's model knows more.
    files = sorted(photos.glob("[0-3]/*.png"))
    labels = [file.parent.name for file in files]
    assert balanced_accuracy_score(labels, load("other").predict(files)) == pytest.approx(0.25)
    assert balanced_accuracy_score(labels, load(run / "best").predict(files)) > 0.45
    for shown in (
        "cost" not in found.out,
        "expected calibration error" in found.out,
        "most often taken for" in found.out,
    ):
        assert shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "--data", "folder:strangers"), "must have labels that the model knows"),
        (("run", "--data", "folder:photos", "--against", "other"), "both models must have the same classes"),
        (("run", "--data", "folder:photos", "--against", "photos"), "a model folder must hold"),
        (("run", "--data", "folder:photos", "--class-costs", "none.csv"), "the file of costs must exist"),
        (("run", "--data", "folder:damaged"), "every image must be readable"),
    ],
)
def test_what_is_asked_wrongly_is_said(
    command: Command, run: Path, photos: Path, words: tuple[str, ...], said: str
) -> None:
    def renamed(model: Model) -> Model:
        model.description = replace(model.description, classes=("0", "1", "2", "3", "five"))
        return model

    other(run, renamed)
    shutil.copytree(photos / "stranger", "strangers/x")
    shutil.copytree(photos, "damaged")
    next(Path("damaged").rglob("*.png")).write_bytes(b"")
    found = command("evaluate", *words)
    assert found.code == 2
    assert said in found.error
    assert found.out == ""


def test_names_are_data(command: Command, run: Path, photos: Path) -> None:
    def renamed(model: Model) -> Model:
        model.description = replace(model.description, classes=("0", "1", "2", "[red]x[/red]", "\x1b[2J"))
        return model

    other(run, renamed)
    found = command("evaluate", "other", "--data", "photos")
    assert found.code == 0
    assert "[red]x[/red]" in found.out
    assert "\x1b" not in found.out
