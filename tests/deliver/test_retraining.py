"""The network of a run trained fully: within its budget, resumable, tested beside the winner, shown by the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nasimb import assemble
from nasimb.deliver import retraining
from nasimb.deliver.retraining import retrain
from nasimb.errors import BudgetError, InputError, Interrupted, ResumeError
from nasimb.export import load
from nasimb.heads.head import CosineHead
from nasimb.learned import Learned, learned_by
from nasimb.ledger import clock_seconds, read_account
from nasimb.report.live import Look, live_view
from nasimb.report.run import Run
from nasimb.report.status import status_lines
from nasimb.report.tables import models, numbers
from nasimb.rundir import RunDir
from nasimb.search.trial import FINISHED, trials_of
from nasimb.supernet.subnet_training import SubnetTraining
from nasimb.supernet.train import STATE_FILE

CPU = torch.device("cpu")


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "run")


class FakeTime:
    """A clock that only steps of the training and the pass over the test images move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: float = 1.0) -> None:
        self.now = 100.0
        original, test = SubnetTraining.step, retraining.predict_test

        def slow_step(training: SubnetTraining, progress: float) -> torch.Tensor:
            self.now += step
            return original(training, progress)

        def slow_test(*arguments: Any, **options: Any) -> Any:
            self.now += 1.0
            return test(*arguments, **options)

        monkeypatch.setattr(SubnetTraining, "step", slow_step)
        monkeypatch.setattr(retraining, "predict_test", slow_test)

    def __call__(self) -> float:
        return self.now


class StopAfter:
    def __init__(self, questions: int) -> None:
        self.left = questions

    def __call__(self) -> int:
        self.left -= 1
        return 15 if self.left < 0 else 0


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_winner_is_trained_within_its_budget_and_the_run_stays(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(run)
    result = retrain(str(run), "60s", device=CPU, clock=FakeTime(monkeypatch))
    assert {name: data for name, data in contents(run).items() if not name.startswith("retrained/")} == before
    folder = run / "retrained" / "winner-balanced_softmax-60s-seed0"
    assert result == json.loads((folder / "result.json").read_text())
    assert result["steps"] == 51, "nine tenths of a minute less the four steps that were timed, a step a second"
    assert result["spend"]["by_phase"] == {"prepare": 4.0, "retrain": 51.0, "evaluate": 2.0}
    assert sum(clock_seconds(read_account(folder / "ledger.jsonl")).values()) == pytest.approx(57.0)
    assert result["spend"]["spent_seconds"] <= result["spend"]["limit_seconds"] == 60.0
    assert not (folder / STATE_FILE).exists()
    entry, winner = result["retrained"], json.loads((run / "result.json").read_text())["winner"]
    assert entry["subnet"] == winner["subnet"]
    assert entry["cost"]["macs"] == winner["cost"]["macs"]
    assert entry["cost"]["params"] == winner["cost"]["params"]
    difference = winner["test"]["balanced_accuracy"] - entry["test"]["balanced_accuracy"]
    assert entry["winner_gain"]["balanced_accuracy"][0] == pytest.approx(difference)


def test_slow_tests_are_kept_time_for(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibration takes 2 s; two passes over test images, more of them than training images, take their share."""
    clock, original = FakeTime(monkeypatch, step=0.5), SubnetTraining.network

    def slow_network(training: SubnetTraining, limit: int) -> Any:
        clock.now += 2.0
        return original(training, limit)

    monkeypatch.setattr(SubnetTraining, "network", slow_network)
    result = retrain(str(run), "40s", device=CPU, clock=clock)
    config = RunDir(run).config()
    images = min(config["calibration_images"], sum(load(run / "best").description.class_counts_K))
    tests = len((run / "predictions.csv").read_text().splitlines()) - 1
    kept = 0.7 + 1.5 * 2.0 * (1 + 2 * tests / images)
    assert kept > 0.1 * 36
    assert result["spend"]["by_phase"]["retrain"] == pytest.approx(36 - kept, abs=0.5)
    assert result["spend"]["spent_seconds"] <= 40


@pytest.mark.parametrize("step", [0.5, 4.0])
def test_a_budget_that_is_too_short_is_refused_and_the_one_named_works(
    run: Path, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    clock, original = FakeTime(monkeypatch, step=step), assemble.load_ground

    def slow_loading(*arguments: Any) -> Any:
        clock.now += 7.0
        return original(*arguments)

    monkeypatch.setattr(assemble, "load_ground", slow_loading)
    for budget in ("1s", f"{6 + 30 * step:.0f}s"):
        with pytest.raises(BudgetError, match="30 steps of training and a test") as refused:
            retrain(str(run), budget, device=CPU, clock=clock)
        assert not (run / "retrained").exists(), "it leaves nothing in the way"
    enough = refused.value.do.split()[3]
    result = retrain(str(run), enough, device=CPU, clock=clock)
    assert result["steps"] >= 30
    assert result["spend"]["spent_seconds"] <= result["spend"]["limit_seconds"]
    takes = 7 + 34 * step + 2
    assert result["spend"]["limit_seconds"] < 1.5 * takes + 60, "a minute or less above, as one would type it"


def test_steps_that_were_timed_leave_no_trace(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, torch.Tensor]] = []

    def watching(training: SubnetTraining, progress: float) -> torch.Tensor:
        loss = original(training, progress)
        taken.append((training.steps_done, loss))
        return loss

    clock = FakeTime(monkeypatch)
    original = SubnetTraining.step
    monkeypatch.setattr(SubnetTraining, "step", watching)
    retrain(str(run), "45s", device=CPU, clock=clock)
    assert [number for number, _ in taken[:6]] == [1, 2, 3, 4, 1, 2]
    assert torch.equal(taken[0][1], taken[4][1]), "the first step once more, from the weights it began with"


def test_a_training_with_hardly_any_time_left_is_finished(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was stopped after 30 steps; preparing it again takes all that is left of the budget."""
    clock, original = FakeTime(monkeypatch), assemble.load_ground
    with pytest.raises(Interrupted):
        retrain(str(run), "45s", device=CPU, clock=clock, stop=StopAfter(30))

    def slow_loading(*arguments: Any) -> Any:
        clock.now += 20.0
        return original(*arguments)

    monkeypatch.setattr(assemble, "load_ground", slow_loading)
    result = retrain(str(run), "45s", device=CPU, clock=clock)
    assert result["steps"] == 30
    assert result["spend"]["spent_seconds"] == pytest.approx(4 + 30 + 20 + 2), "a model late instead of none"


def test_what_was_refused_before_a_step_was_done_leaves_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = RunDir(run).read_json("splits.json") or {}
    RunDir(run).write_json("splits.json", {**splits, "fingerprints": {**splits["fingerprints"], "target": "other"}})
    with pytest.raises(ResumeError, match="another target"):
        retrain(str(run), "45s", device=CPU, clock=FakeTime(monkeypatch))
    assert not (run / "retrained").exists()


def test_a_run_that_was_moved_reads_and_continues_its_results(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, moved = FakeTime(monkeypatch), run.parent / "elsewhere" / "run"
    result = retrain(str(run), "45s", device=CPU, clock=clock)
    with pytest.raises(Interrupted):
        retrain(str(run), "46s", device=CPU, clock=clock, stop=StopAfter(9))
    moved.parent.mkdir()
    shutil.move(run, moved)
    assert retrain(str(moved), "45s", device=CPU, clock=clock) == result
    assert retrain(str(moved), "46s", device=CPU, clock=clock)["steps"] > 30


def test_another_run_is_another_training(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, out = FakeTime(monkeypatch), tmp_path / "out"
    retrain(str(run), "45s", device=CPU, clock=clock, out=out)
    other = shutil.copytree(run, tmp_path / "other")
    RunDir(other).write_config({**RunDir(other).config(), "seed": 5})
    with pytest.raises(ResumeError, match=r"run\.seed: 5 instead of 0.*another folder with --out"):
        retrain(str(other), "45s", device=CPU, clock=clock, out=out)


def test_every_option_has_a_folder_of_its_own(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: list[dict[str, Any]] = [
        {}, {"loss": "deferred"}, {"loss": {"name": "deferred", "base": "ldam"}}, {"recipe": {"learning_rate": 0.05}},
        {"recipe": {"learning_rate": 0.01}}, {"loss": {"name": "deferred", "share": 0.5}},
        {"loss": "deferred", "recipe": {"learning_rate": 0.05}},
    ]  # fmt: skip
    folders: list[Path] = []
    original = RunDir.read_json
    monkeypatch.setattr(RunDir, "open_with", lambda self, *_: folders.append(self.path))
    monkeypatch.setattr(RunDir, "read_json", lambda self, name: original(self, name) if self.path == run else {})
    for one in options:
        retrain(str(run), "45s", device=CPU, **one)
    assert len(set(folders)) == len(options)
    assert [folder.name for folder in folders[:2]] == ["winner-balanced_softmax-45s-seed0", "winner-deferred-45s-seed0"]
    folders.clear()
    for same in ({"loss": {"name": "deferred", "share": 0.8}}, {"loss": "deferred", "recipe": {"momentum": 0.9}}):
        retrain(str(run), "45s", device=CPU, **same)
    assert [folder.name for folder in folders] == ["winner-deferred-45s-seed0"] * 2


def test_what_is_saved_is_what_was_tested(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = retrain(str(run), "45s", device=CPU, clock=FakeTime(monkeypatch), out=run.parent / "new")
    model = load(run.parent / "new" / "best")
    assert model.description.metrics["test"] == result["retrained"]["test"]
    predictions = np.genfromtxt(run / "predictions.csv", delimiter=",", dtype=str, skip_header=1)
    from nasimb.config import RunConfig

    ground = assemble.load_ground(RunConfig(**RunDir(run).config()), CPU)
    test = ground.task.test
    images_NCHW = test.store.read(test.indices_N, CPU)
    assert len(predictions) == len(test)
    accuracy = np.mean(model.predict(images_NCHW) == np.array(test.classes)[test.labels_N.numpy()])
    assert accuracy == pytest.approx(result["retrained"]["test"]["accuracy"])


def test_a_killed_training_goes_on_to_the_same_end(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeTime(monkeypatch)
    options: dict[str, Any] = {"loss": "deferred", "device": CPU}
    whole = retrain(str(run), "50s", out=run.parent / "whole", clock=clock, **options)
    parts = run.parent / "parts"
    with pytest.raises(Interrupted):
        retrain(str(run), "50s", out=parts, clock=clock, stop=StopAfter(20), **options)
    assert (parts / STATE_FILE).exists()
    assert not (parts / "result.json").exists()
    with pytest.raises(ResumeError, match="loss"):
        retrain(str(run), "50s", out=parts, clock=clock, loss="focal", device=CPU)
    resumed = retrain(str(run), "50s", out=parts, clock=clock, **options)
    assert (resumed["steps"], resumed["spend"]) == (whole["steps"], whole["spend"])
    assert resumed["retrained"]["test"] == whole["retrained"]["test"]
    first, second = (load(folder / "best").state_dict() for folder in (run.parent / "whole", parts))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    again = retrain(str(run), "50s", out=parts, clock=clock, **options)
    assert again == resumed, "finished: read, not trained"


def test_inherited_and_fresh_weights_begin_where_they_say(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[SubnetTraining] = []
    original = retraining.train_until

    def watching(session: Any, training: SubnetTraining, *more: Any, **options: Any) -> Any:
        begun.append(training)
        first = training.supernet.extract(training.subnet, None).state_dict()
        training.first = {name: tensor.clone() for name, tensor in first.items()}  # type: ignore[attr-defined]
        return original(session, training, *more, **options)

    monkeypatch.setattr(retraining, "train_until", watching)
    clock = FakeTime(monkeypatch)
    inherited = retrain(str(run), "45s", device=CPU, clock=clock)
    shutil.rmtree(run / "supernet")
    fresh = retrain(str(run), "45s", device=CPU, clock=clock, from_scratch=True)
    own = load(run / "best").backbone.state_dict()
    assert torch.equal(begun[0].first["stem.weight"], own["stem.weight"])  # type: ignore[attr-defined]
    assert not torch.equal(begun[1].first["stem.weight"], own["stem.weight"])  # type: ignore[attr-defined]
    assert "all weights" in inherited["retrained"]["head"]
    assert "from scratch" in fresh["retrained"]["head"]
    with pytest.raises(InputError, match="inherited from the run's super-network"):
        retrain(str(run), "46s", device=CPU, clock=clock)


def test_a_trial_with_a_loss_of_cosines(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = next(trial for trial in trials_of(RunDir(run)) if trial.state == FINISHED and trial.number > 0)
    loss = {"name": "deferred", "base": {"name": "ldam", "scale": 10.0}}
    result = retrain(f"{run}#{trial.number}", "45s", loss=loss, device=CPU, clock=FakeTime(monkeypatch))
    assert result["retrained"]["subnet"] == trial.candidate.subnet.to_dict()
    (folder,) = (run / "retrained").glob(f"trial{trial.number}-deferred-*-45s-seed0")
    model = load(folder / "best")
    assert isinstance(model.head, CosineHead)
    assert float(model.head.scale) == 10.0
    assert model.description.subnet == trial.candidate.subnet


def test_it_keeps_what_it_has_learned_from(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_run, clock = learned_by(run), FakeTime(monkeypatch)
    assert of_run.backbone is not None
    assert of_run.head is not None
    for from_scratch, backbone in ((False, of_run.backbone | of_run.head), (True, of_run.head)):
        out = run.parent / f"scratch {from_scratch}"
        retrain(str(run), "45s", device=CPU, clock=clock, from_scratch=from_scratch, out=out)
        assert learned_by(out) == Learned(backbone, of_run.head)


def test_the_report_shows_it_beside_the_winner(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "winner-balanced_softmax-45s-seed7"
    rows = len(models(Run.read(run)))
    result = retrain(str(run), "45s", device=CPU, seed=7, clock=FakeTime(monkeypatch))
    shown = models(Run.read(run)).set_index("model")
    assert len(shown) == rows + 1
    assert shown.loc[f"retrained: {name}", "head"] == "balanced_softmax, all weights"
    row = numbers([Run.read(run)]).set_index("model").loc[f"retrained: {name}"]
    assert row["balanced_accuracy"] == result["retrained"]["test"]["balanced_accuracy"]
    assert (row["seed"], row["spent_seconds"]) == (7, result["spend"]["spent_seconds"])


@pytest.mark.parametrize(
    ("source", "options", "error", "told"),
    [
        ("", {"budget": "5trials"}, InputError, "limit time alone"),
        ("", {"budget": "1gpu-h"}, BudgetError, "needs a GPU"),
        ("", {"loss": "focall"}, InputError, "'focal'"),
        ("", {"recipe": {"learning_rat": 1}}, InputError, "learning_rate"),
        ("#999", {}, InputError, "one of the run's"),
        ("#x", {}, InputError, "number of a trial"),
    ],
)
def test_what_cannot_be_leaves_nothing(
    run: Path, source: str, options: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        retrain(f"{run}{source}", **{"budget": "30s", "device": CPU, **options})
    assert not (run / "retrained").exists()


def test_a_run_that_is_not_finished_has_no_network(run: Path) -> None:
    (run / "result.json").unlink()
    with pytest.raises(InputError, match="only a finished run"):
        retrain(str(run), "30s", device=CPU)


def test_its_folder_tells_where_it_stands_and_is_no_search(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    retrain(str(run), "120s", clock=FakeTime(monkeypatch), device=CPU)
    (folder,) = (run / "retrained").iterdir()
    found = Run.read(folder)
    accuracy = json.loads((folder / "result.json").read_text())["retrained"]["test"]["balanced_accuracy"]
    assert found.is_finished
    assert status_lines(found)[-1] == f"retrained {accuracy:.4f} balanced accuracy on the test split"
    live_view(Look(found, 0.0), width=80, height=24)
    with pytest.raises(InputError, match="Name the run that was retrained"):
        found.finished_result()
