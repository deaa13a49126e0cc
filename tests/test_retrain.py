"""Only the head changes: other classes, other counts, the old network to the bit, and no model overwritten."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from nasimb.data import parse_dataset
from nasimb.data.base import LoadRequest
from nasimb.errors import DataError, InputError
from nasimb.export import load
from nasimb.retrain import head_table, retrain_head

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def few_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the work; what is tested here does not depend on it."""
    monkeypatch.setattr("nasimb.retrain.PENALTIES", (0.1, 0.01))
    monkeypatch.setattr("nasimb.retrain.FOLDS", 2)


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "run")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_other_classes_get_a_head_of_their_own(run: Path) -> None:
    before = contents(run)
    result = retrain_head(run, "digits:5-9", "ridge", device=CPU)
    assert {name: data for name, data in contents(run).items() if not name.startswith("heads/")} == before
    assert result["known_before"] == []
    assert result["before"]["balanced_accuracy"] == 0.0, "it cannot name a class it has never seen"
    assert result["after"]["balanced_accuracy"] > 0.5
    assert result["saved"] == str(run / "heads" / "001")

    old, new = load(run / "best"), load(run / "heads" / "001")
    assert new.classes == ("5", "6", "7", "8", "9")
    for name, tensor in old.backbone.state_dict().items():
        assert torch.equal(tensor, new.backbone.state_dict()[name]), name
    params = sum(parameter.numel() for parameter in new.parameters())
    assert new.description.metrics["cost"]["params"] == params
    assert new.description.head["name"] == "ridge"
    assert new.description.metrics["test"] == result["after"]

    test = parse_dataset("digits:5-9").load(LoadRequest(size=old.description.size)).test
    assert test is not None
    images = next(test.batches(len(test), CPU))[0]
    labels = np.array([test.classes[k] for k in test.labels_N.tolist()])
    assert np.mean(new.predict(images) == labels) == pytest.approx(result["after"]["accuracy"])


def test_known_classes_are_recognised_under_their_new_numbers(run: Path) -> None:
    result = retrain_head(run, "digits:3-5", "ridge", device=CPU, out=run.parent / "new")
    assert result["known_before"] == ["3", "4"]
    recall = dict(zip(result["classes"], result["before"]["recalls"], strict=True))
    assert recall["3"] > 0.3
    assert recall["4"] > 0.3
    assert recall["5"] == 0.0
    assert result["notes"][-1] == "The old head knows 2 of the 3 classes."


def test_versions_are_never_overwritten(run: Path) -> None:
    first = retrain_head(run, "digits:5,6", "ridge", device=CPU)
    kept = contents(Path(first["saved"]))
    second = retrain_head(run, "digits:7,8", "ridge", device=CPU)
    assert Path(second["saved"]).name == "002"
    assert contents(Path(first["saved"])) == kept
    with pytest.raises(InputError, match="which exists"):
        retrain_head(run, "digits:7,8", "ridge", device=CPU, out=Path(first["saved"]))
    assert contents(Path(first["saved"])) == kept


def test_it_repeats_to_the_bit(run: Path) -> None:
    results = [retrain_head(run, "digits:5-7", "gda", device=CPU, seed=3) for _ in range(2)]
    assert load(results[0]["saved"]).state_dict().keys() == load(results[1]["saved"]).state_dict().keys()
    for name, tensor in load(results[0]["saved"]).state_dict().items():
        assert torch.equal(tensor, load(results[1]["saved"]).state_dict()[name])


def test_the_long_tail_asked_for_is_made_and_kept(run: Path) -> None:
    result = retrain_head(run, "digits:5-9", "ridge", device=CPU, imbalance_factor=10.0, profile="step")
    assert sorted(set(result["class_counts"])) == [6, 60]
    assert result["class_counts"] == sorted(result["class_counts"], reverse=True)
    assert load(result["saved"]).description.class_counts_K == tuple(result["class_counts"])


def test_a_head_can_be_retrained_from_a_retrained_model(run: Path) -> None:
    first = retrain_head(run, "digits:5,6", "ridge", device=CPU)
    again = retrain_head(Path(first["saved"]), "digits:6,7", "ridge", device=CPU)
    assert again["known_before"] == ["6"]
    assert Path(again["saved"]) == Path(first["saved"]) / "heads" / "001"


@pytest.mark.parametrize(
    ("data", "loss", "error", "told"),
    [
        ("digits", "focall", InputError, "'focal'"),
        ("digits", "nowhere.losses:Mine", InputError, "importable"),
        ("folder:nowhere", "ridge", DataError, "must exist"),
        ("digits:5", "ridge", InputError, "digits"),
    ],
)
def test_what_cannot_be_leaves_nothing(run: Path, data: str, loss: str, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        retrain_head(run, data, loss, device=CPU)
    assert not (run / "heads").exists()


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.safetensors"):
        retrain_head(tmp_path, "digits", "ridge", device=CPU)


def test_the_table_shows_points_and_leaves_empty_groups_out() -> None:
    tested = {"balanced_accuracy": 0.5, "many": None, "medium": None, "few": 0.25}
    intervals = {"balanced_accuracy": [0.4, 0.6], "few": [0.2, 0.3]}
    entry = {**tested, "ci95": intervals}
    table = head_table({"before": entry, "plain_head": entry, "after": entry, "loss": "ldam"})
    assert table.columns.tolist() == ["head", "balanced accuracy", "few"]
    assert table.iloc[2].tolist() == ["new head, ldam", "50.0 [40.0, 60.0]", "25.0 [20.0, 30.0]"]
