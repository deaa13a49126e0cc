"""Only the head changes: other classes, other counts, the old network to the bit, and no model overwritten."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_run import DATA

import nasimb.evaluate
import nasimb.retrain
from nasimb.data import parse_dataset
from nasimb.data.base import ImageSet, LoadRequest
from nasimb.errors import DataError, InputError
from nasimb.export import Model, load
from nasimb.learned import Learned, keep_learned, learned_by
from nasimb.retrain import COMPARISON, head_table, retrain_head, verdict
from nasimb.rundir import RunDir

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
    result = retrain_head(run, {**DATA, "digits": (3, 4, 5)}, "ridge", device=CPU, out=run.parent / "new")
    assert result["known_before"] == ["3", "4"]
    recall = dict(zip(result["classes"], result["before"]["recalls"], strict=True))
    assert recall["3"] > 0.3
    assert recall["4"] > 0.3
    assert recall["5"] == 0.0
    assert result["notes"][-1] == "The old head knows 2 of the 3 classes."
    assert not any("not at hand" in note for note in result["notes"])


def test_figures_that_depend_on_which_wrong_class_was_named_are_left_out(run: Path) -> None:
    other = retrain_head(run, "digits:5-9", "ridge", device=CPU)
    assert (other["before"]["macro_f1"], other["before"]["weighted_f1"]) == (None, None)
    assert other["after"]["macro_f1"] > 0.5
    same = retrain_head(run, {**DATA, "digits": (0, 1, 2, 3, 4)}, "ridge", device=CPU)
    told = json.loads((run / "result.json").read_text())["winner"]["test"]
    assert same["before"]["macro_f1"] == pytest.approx(told["macro_f1"])
    assert same["before"]["weighted_f1"] == pytest.approx(told["weighted_f1"])


def test_the_test_images_pass_the_backbone_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes, original = [], nasimb.evaluate.predict_test

    def counting(backbone: Any, heads: Any, test: Any, **options: Any) -> Any:
        passes.append((list(heads), len(test)))
        return original(backbone, heads, test, **options)

    images = []
    monkeypatch.setattr("nasimb.retrain.predict_test", counting)
    monkeypatch.setattr("nasimb.retrain._features", lambda model, images_of, device: _seen(model, images_of, images))
    result = retrain_head(run, "digits:5-9", "ridge", device=CPU)
    assert passes == [(["before", "plain_head", "after"], result["test_images"])]
    assert images == [sum(result["class_counts"])], "features are taken of the training images alone"


def _seen(model: Model, image_set: ImageSet, seen: list[int]) -> torch.Tensor:
    seen.append(len(image_set))
    with torch.no_grad():
        return torch.cat([model.backbone(images) for images, _ in image_set.batches(64, CPU)])


SEEN = {**DATA, "digits": (3, 4, 5), "test_per_class": 20}
"""The run trained its super-network on images 10 to 21 of each of its digits; these test on 0 to 19."""


@pytest.mark.parametrize("part", [".", "best", "best/../best"])
def test_images_the_backbone_was_trained_on_are_no_test(run: Path, part: str) -> None:
    with pytest.raises(DataError, match=r"got 20 of 60, for example digits\[") as refused:
        retrain_head(run / part, SEEN, "ridge", device=CPU, out=run.parent / "new")
    assert "\n" not in str(refused.value)
    assert not (run.parent / "new").exists()


def test_a_retrained_model_knows_what_its_backbone_saw(run: Path) -> None:
    first = retrain_head(run, "digits:5,6", "ridge", device=CPU)
    with pytest.raises(DataError, match="must not have been trained on"):
        retrain_head(Path(first["saved"]), SEEN, "ridge", device=CPU)


def test_a_ready_supernetwork_is_asked_where_it_is(run: Path) -> None:
    (run / "best" / "learned.json").unlink()
    shutil.move(run / "supernet", run.parent / "ready")
    RunDir(run).write_config({**RunDir(run).config(), "supernet": str(run.parent / "ready")})
    with pytest.raises(DataError, match="must not have been trained on"):
        retrain_head(run, SEEN, "ridge", device=CPU)


def test_a_model_alone_knows_what_it_learned_from(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "best", tmp_path / "alone")
    with pytest.raises(DataError, match="must not have been trained on"):
        retrain_head(tmp_path / "alone", SEEN, "ridge", device=CPU)


def test_a_model_without_its_record_cannot_tell_and_says_so(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "best", tmp_path / "alone")
    (tmp_path / "alone" / "learned.json").unlink()
    notes = retrain_head(tmp_path / "alone", SEEN, "ridge", device=CPU)["notes"]
    assert any("not at hand" in note for note in notes)


def test_a_damaged_record_of_the_source_is_named(run: Path) -> None:
    (run / "best" / "learned.json").unlink()
    file = run / "supernet" / "calibration.safetensors"
    save_file({"images": torch.zeros(1)}, file, {"other": "1"})
    with pytest.raises(InputError, match=r"calibration\.safetensors must be whole"):
        retrain_head(run, "digits:5,6", "ridge", device=CPU)


def test_an_old_head_that_knows_test_images_is_told_of(run: Path) -> None:
    """Its head was fitted to images 22 and on of each digit, in a long tail: the backbone saw others."""
    first = retrain_head(run, {**DATA, "digits": (3, 4), "test_per_class": 5}, "ridge", device=CPU)
    learned = learned_by(Path(first["saved"]))
    keep_learned(Path(first["saved"]), Learned(frozenset(), learned.head))
    again = retrain_head(Path(first["saved"]), {**DATA, "digits": (3, 4), "test_per_class": 60}, "ridge", device=CPU)
    known = len(learned.head & images_of({**DATA, "digits": (3, 4), "test_per_class": 60}))
    assert known > 0
    assert f"The old head was fitted to {known} of the test images: its figures flatter it." in again["notes"]


def images_of(data: dict[str, Any]) -> frozenset[str]:
    test = parse_dataset(data).load(LoadRequest(size=8)).test
    assert test is not None
    return frozenset(test.hashes())


def test_versions_are_never_overwritten(run: Path) -> None:
    first = retrain_head(run, "digits:5,6", "ridge", device=CPU)
    kept = contents(Path(first["saved"]))
    second = retrain_head(run, "digits:7,8", "ridge", device=CPU)
    assert Path(second["saved"]).name == "002"
    assert contents(Path(first["saved"])) == kept
    with pytest.raises(InputError, match="which exists"):
        retrain_head(run, "digits:7,8", "ridge", device=CPU, out=Path(first["saved"]))
    assert contents(Path(first["saved"])) == kept


def test_two_at_a_time_do_not_share_a_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one takes the number while this one computes."""
    original = nasimb.retrain._tested

    def meanwhile(*arguments: Any) -> Any:
        monkeypatch.setattr(nasimb.retrain, "_tested", original)
        assert Path(retrain_head(run, "digits:7,8", "ridge", device=CPU)["saved"]).name == "001"
        return original(*arguments)

    monkeypatch.setattr(nasimb.retrain, "_tested", meanwhile)
    assert Path(retrain_head(run, "digits:5,6", "ridge", device=CPU)["saved"]).name == "002"
    assert [load(run / "heads" / name).classes for name in ("001", "002")] == [("7", "8"), ("5", "6")]


@pytest.mark.parametrize("out", [None, "new"])
def test_a_folder_taken_while_it_is_written_stays_the_others(
    run: Path, monkeypatch: pytest.MonkeyPatch, out: str | None
) -> None:
    original, taken = nasimb.retrain.save, run / "heads" / "001" if out is None else run.parent / out

    def meanwhile(model: Model, folder: Path) -> None:
        if not taken.exists():
            taken.mkdir(parents=True)
            (taken / "theirs").touch()
        original(model, folder)

    monkeypatch.setattr(nasimb.retrain, "save", meanwhile)
    if out is None:
        assert Path(retrain_head(run, "digits:5,6", "ridge", device=CPU)["saved"]).name == "002"
    else:
        with pytest.raises(InputError, match="which exists"):
            retrain_head(run, "digits:5,6", "ridge", device=CPU, out=taken)
    assert [file.name for file in taken.iterdir()] == ["theirs"]
    assert not list(run.parent.rglob("*.part"))


def test_a_kill_while_it_is_written_leaves_no_model(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is killed cannot clean up: what is there before the last step is not called like a model."""
    seen_before: list[list[str]] = []
    original = nasimb.retrain.save

    def looking(model: Model, folder: Path) -> None:
        seen_before.append([one.name for one in (run / "heads").iterdir() if not one.name.startswith(".")])
        original(model, folder)

    monkeypatch.setattr(nasimb.retrain, "save", looking)
    retrain_head(run, "digits:5,6", "ridge", device=CPU)
    assert seen_before == [[]]


def test_a_disk_that_fails_leaves_no_half_model(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> None:
        raise OSError("no such device")

    monkeypatch.setattr(nasimb.retrain, "save", failing)
    with pytest.raises(OSError, match="no such device"):
        retrain_head(run, "digits:5,6", "ridge", device=CPU)
    assert list((run / "heads").iterdir()) == []


def test_old_and_new_are_compared_on_the_same_images_and_the_old_stays_in_use(run: Path) -> None:
    best = contents(run / "best")
    result = retrain_head(run, {**DATA, "digits": (4, 5, 6)}, "ridge", device=CPU)
    assert contents(run / "best") == best, "a better head takes nobody's place"
    kept = json.loads((Path(result["saved"]) / COMPARISON).read_text())
    assert {**kept, "saved": result["saved"]} == json.loads(json.dumps(result))
    for other in ("before", "plain_head"):
        difference, low, high = result["gains"][other]["balanced_accuracy"]
        told = result["after"]["balanced_accuracy"] - result[other]["balanced_accuracy"]
        assert difference == pytest.approx(told)
        assert low <= difference <= high
    assert result["gains"]["before"]["balanced_accuracy"][1] > 0, "digits 5 and 6 were unknown"


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ([0.104, 0.05, 0.15], "+10.4 points [+5.0, +15.0]."),
        ([-0.2, -0.3, -0.1], "-20.0 points [-30.0, -10.0]."),
        ([0.01, -0.02, 0.04], "+1.0 points [-2.0, +4.0], which may be chance."),
    ],
)
def test_the_verdict_tells_chance(row: list[float], told: str) -> None:
    assert verdict({"gains": {"before": {"balanced_accuracy": row}}}).endswith(told)


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


def test_crops_are_for_the_last_fit_alone(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen_on = []
    original = nasimb.retrain.by_folds

    def watching(head: Any, features_ND: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        chosen_on.append(len(features_ND))
        return original(head, features_ND, *arguments, **options)

    monkeypatch.setattr(nasimb.retrain, "by_folds", watching)
    alone = retrain_head(run, "digits:5-9", device=CPU)
    result = retrain_head(run, "digits:5-9", crops=3, device=CPU)
    assert chosen_on == [sum(result["class_counts"])] * 4
    assert (alone["crops"], result["crops"], alone["setting"]) == (1, 3, result["setting"])
    heads = [load(Path(one["saved"])).head.state_dict() for one in (alone, result)]
    assert any(not torch.equal(tensor, heads[1][name]) for name, tensor in heads[0].items())
    assert load(Path(result["saved"])).description.head["crops"] == 3


def test_the_solver_is_told_and_so_is_a_change_of_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = retrain_head(run, DATA, "balanced_softmax", device=CPU)
    assert result["solver"] == load(Path(result["saved"])).description.head["solver"] == "full batch"
    assert retrain_head(run, DATA, "ridge", device=CPU)["solver"] is None
    images, classes = sum(result["class_counts"]), len(result["classes"])
    dimension = load(run / "best").head.in_features
    # As many numbers as the images alone have; two crops of them have more.
    monkeypatch.setattr("nasimb.heads.stacked.FULL_BATCH_NUMBERS", images * classes * dimension)
    changed = retrain_head(run, DATA, "balanced_softmax", device=CPU, crops=2)
    assert changed["solver"] == "minibatch"
    assert any(note.startswith("balanced_softmax: the last fit is by minibatch") for note in changed["notes"])
    assert not any("last fit" in note for note in result["notes"])
