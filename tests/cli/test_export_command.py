"""`nasimb export` as a user meets it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from answers import Command

import nasimb
from nasimb.deliver.formats.torch_export import TorchExport
from nasimb.deliver.shipping import export
from nasimb.errors import WorkError
from nasimb.export import load, save

FILES = {"onnx": "model.onnx", "torch-export": "model.pt2", "safetensors": "model.safetensors"}


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture
def photos(write_digits: Callable[..., Path], tmp_path: Path) -> Path:
    return write_digits(tmp_path / "photos", {str(digit): (digit, 6) for digit in range(5)})


@pytest.mark.parametrize("form", FILES)
def test_a_checked_export_of_a_run(command: Command, run: Path, form: str) -> None:
    found = command("export", "run", "--format", form, "--out", "shipped", "--check")
    assert found.code == 0, found.err
    lines = found.out.splitlines()
    assert lines[0].startswith(f"shipped/{FILES[form]}: ")
    assert lines[0].endswith(f"({(run / 'best' / 'model.safetensors').stat().st_size:,} before)")
    assert lines[1].startswith("checked on ")
    assert "have the same class" in lines[1]
    assert " ms before)" in lines[2]
    written = {file.name for file in Path("shipped").iterdir()}
    assert written == {
        FILES[form],
        "preprocessing.json",
        "README.md",
        *(["model.json"] if form == "safetensors" else []),
    }
    card = Path("shipped/README.md").read_text()
    assert f"Exported as {form}." in card
    assert "Checked on" in card
    assert not list(Path().rglob(".*.part"))


def test_onnx_runs_without_nasimb(command: Command, run: Path, photos: Path) -> None:
    assert command("export", "run", "--format", "onnx", "--out", "shipped", "--with-preprocessing").code == 0
    model = nasimb.load(run / "best")
    files = sorted(photos.rglob("*.png"))
    session = onnxruntime.InferenceSession("shipped/model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": model.pixels(files).numpy()})
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == list(model.classes)
    assert json.loads(about["preprocessing"]) == json.loads(Path("shipped/preprocessing.json").read_text())
    assert json.loads(about["description"])["metrics"] == model.description.metrics
    assert np.array(json.loads(about["classes"]))[logits.argmax(1)].tolist() == model.predict(files).tolist()
    onnx.checker.check_model("shipped/model.onnx", full_check=True)
    assert session.get_inputs()[0].shape == ["batch", *json.loads(about["preprocessing"])["input"]["shape"][1:]]


def test_torch_export_holds_its_classes(command: Command, run: Path, photos: Path) -> None:
    assert command("export", "run", "--format", "torch-export", "--out", "shipped", "--with-preprocessing").code == 0
    more = {"classes": "", "preprocessing": ""}
    network = torch.export.load("shipped/model.pt2", extra_files=more).module()
    model = nasimb.load(run / "best")
    assert json.loads(more["classes"]) == list(model.classes)
    files = sorted(photos.rglob("*.png"))
    np.testing.assert_allclose(
        network(model.pixels(files)).softmax(1).detach(), model.predict_proba(files), atol=1e-4
    )  # fmt: skip


def test_safetensors_is_a_model_folder(command: Command, run: Path, photos: Path) -> None:
    assert command("export", "run/best", "--format", "safetensors", "--out", "shipped").code == 0
    files = sorted(photos.rglob("*.png"))
    assert nasimb.load("shipped").predict(files).tolist() == nasimb.load(run / "best").predict(files).tolist()


def test_the_winners_trial_is_the_winner_and_others_are_others(command: Command, run: Path, photos: Path) -> None:
    """A trial is made as the run made its best, to the bit."""
    winner = nasimb.load(run / "best")
    trials = pd.read_csv(run / "trials.csv")
    before = sorted(run.rglob("*"))
    made = {}
    for number in trials[trials["state"] == "finished"]["number"]:
        found = command("export", f"run#{number}", "--format", "safetensors", "--out", f"trial{number}", "--check")
        assert found.code == 0, found.err
        made[number] = nasimb.load(f"trial{number}")
        assert f"Trial: {number}" in Path(f"trial{number}/README.md").read_text()
        assert made[number].description.provenance["trial"] == number
    same = [
        one for one in made.values()
        if (one.description.subnet, one.description.calibration)
        == (winner.description.subnet, winner.description.calibration)
    ]  # fmt: skip
    assert same
    files = sorted(photos.rglob("*.png"))
    for one in same:
        assert one.description.head == winner.description.head
        np.testing.assert_array_equal(one.predict_proba(files), winner.predict_proba(files))
    assert len({str(one.description.subnet) for one in made.values()}) > 1
    assert sorted(run.rglob("*")) == before, "nothing is written into the run"


def test_a_trial_without_a_score_or_a_super_network_is_refused(command: Command, run: Path) -> None:
    trials = pd.read_csv(run / "trials.csv", dtype=str, keep_default_na=False)
    absent = command("export", "run#99", "--format", "safetensors", "--out", "x")
    assert (absent.code, "one of the run's" in absent.error) == (2, True)
    shutil.rmtree(run / "supernet")
    number = trials[trials["state"] == "finished"]["number"].iloc[0]
    cut = command("export", f"run#{number}", "--format", "safetensors", "--out", "x")
    assert cut.code == 2
    assert "cut from the run's super-network" in cut.error
    assert not Path("x").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "--format", "onnx", "--out", "photos"), "an export needs a new folder"),
        (("run", "--format", "onnx", "--out", "no/where"), "an export needs a new folder"),
        (("run#x", "--format", "onnx", "--out", "x"), "the number of a trial"),
        (("photos", "--format", "onnx", "--out", "x"), "a model folder must hold"),
        (("run", "--format", "safetensors", "--with-preprocessing", "--out", "x"), "no preprocessing to put inside"),
        (("copied", "--format", "onnx", "--check", "--out", "x"), "a check needs images"),
        (("run", "--format", "onnx", "--data", "nothing/", "--out", "x"), "the data must exist"),
    ],
)
def test_what_is_asked_wrongly_is_said_and_nothing_written(
    command: Command, run: Path, photos: Path, words: tuple[str, ...], said: str
) -> None:
    shutil.copytree(run / "best", "copied")
    before = sorted(Path().rglob("*"))
    found = command("export", *words)
    assert found.code == 2
    assert said in found.error
    assert sorted(Path().rglob("*")) == before


def test_images_can_be_named(command: Command, run: Path, photos: Path) -> None:
    shutil.copytree(run / "best", "copied")
    found = command("export", "copied", "--format", "torch-export", "--out", "shipped", "--data", "photos/3")
    assert found.code == 0, found.err
    assert "checked on 6 images" in found.out


def test_unreadable_images_of_a_check_can_be_left_out(command: Command, run: Path, photos: Path) -> None:
    (photos / "3" / "broken.png").write_bytes(b"no image")
    words = ("export", "run", "--format", "safetensors", "--out", "shipped", "--data", "photos")
    refused = command(*words)
    assert (refused.code, "--skip-bad-images" in refused.error) == (2, True)
    found = command(*words, "--skip-bad-images")
    assert found.code == 0, found.err
    assert "checked on 30 images" in found.out
    alone = command("export", "run", "--format", "safetensors", "--out", "x", "--check", "--skip-bad-images")
    assert (alone.code, "--skip-bad-images is of --data" in alone.error) == (2, True)


def test_a_run_whose_name_holds_the_mark_is_a_run(command: Command, run: Path) -> None:
    run.rename("run#7")
    assert command("export", "run#7", "--format", "safetensors", "--out", "x").code == 0


def test_onnx_that_is_not_installed_is_said_first(command: Command, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasimb.deliver.formats.onnx.NEEDED", ("onnx", "no_such_runtime"))
    found = command("export", "run", "--format", "onnx", "--out", "x")
    assert found.code == 2
    assert "no no_such_runtime" in found.error
    assert "pip install 'nasimb[onnx]'" in found.error


def test_a_file_that_says_something_else_is_not_kept(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nasimb.deliver.sources import found_model, images_to_check

    def wrong(self: TorchExport, path: Path):  # type: ignore[no-untyped-def]
        right = torch.export.load(path).module()
        return lambda images: right(images) * 1.1

    monkeypatch.setattr(TorchExport, "runner", wrong)
    found = found_model(str(run))
    images = images_to_check(found, str(photos))
    with pytest.raises(WorkError, match="must say what the model says"):
        export(found.model, "torch-export", tmp_path / "x", images=images)
    assert not (tmp_path / "x").exists()
    assert not list(tmp_path.glob(".*.part"))


def test_names_of_classes_are_data(command: Command, run: Path) -> None:
    model = load(run / "best")
    names = ("<b>", "a|b", "x\n# y", '"quoted"', "é")
    model.description = replace(model.description, classes=names)
    Path("odd").mkdir()
    save(model, Path("odd"))
    assert command("export", "odd", "--format", "onnx", "--out", "x").code == 0
    about = onnxruntime.InferenceSession("x/model.onnx").get_modelmeta().custom_metadata_map
    assert tuple(json.loads(about["classes"])) == names
    card = Path("x/README.md").read_text()
    assert "<b>" not in card.replace("\\<b>", "")
    assert "\n# y" not in card
