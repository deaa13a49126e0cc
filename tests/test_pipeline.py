"""The main job end to end on a tiny space: what it leaves, how it resumes, how it keeps its budget."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from tiny_run import DATA, SIZE, tiny_config
from torch.utils.flop_counter import FlopCounterMode

import nasimb.phases.evaluate
import nasimb.phases.headprobe
import nasimb.phases.heads
from nasimb.config import RunConfig
from nasimb.errors import BudgetError, InputError, Interrupted, ResumeError
from nasimb.export import load
from nasimb.ledger import clock_seconds, read_account
from nasimb.phases.normalised import ROLE
from nasimb.pipeline import _load_source, run_search, train_supernet
from nasimb.progress import Progress
from nasimb.rundir import RunDir
from nasimb.search.study import SAMPLERS
from nasimb.search.trial import FINISHED, trials_of
from nasimb.supernet.fold import FoldedBlock, FoldedStem
from nasimb.supernet.ranks import Ranks
from nasimb.supernet.resnet import ResNetSupernet, StemStep
from nasimb.supernet.train import Training


class Listener:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.shown: list[Progress] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def show(self, progress: Progress) -> None:
        self.shown.append(progress)


class StopAfter:
    """Asks for the stop at one of the questions."""

    def __init__(self, questions: int, signal_number: int = 15) -> None:
        self.left, self.signal_number = questions, signal_number

    def __call__(self) -> int:
        self.left -= 1
        return self.signal_number if self.left < 0 else 0


def essence(result: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on interruptions: everything but time."""
    entries = {"winner": result["winner"], **result["baselines"]}
    kept = {}
    for role, entry in entries.items():
        cost = {name: value for name, value in entry["cost"].items() if name != "latency_seconds"}
        kept[role] = {**entry, "cost": cost}
    return {"models": kept, "trials": result["trials"], "data": result["provenance"]["data"]}


def rows(folder: Path) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in RunDir(folder).read_trials()]


# ---------------------------------------------------------------------------------------------------- result.json

FRACTION, COUNT, SECONDS, TEXT = "fraction", "count", "seconds", "text"
TESTED = ("balanced_accuracy", "accuracy", "many", "medium", "few")


def is_fraction(value: object, *, optional: bool = False) -> bool:
    return (optional and value is None) or (isinstance(value, float) and 0.0 <= value <= 1.0)


def check_model_entry(entry: dict[str, Any]) -> None:
    assert set(entry["subnet"]) == {"resolution", "depths", "widths", "kernel_sizes", "norms", "taps"}
    assert entry["calibration"] == "source"
    assert isinstance(entry["head"], str) or isinstance(entry["head"]["name"], str)
    assert set(entry["validation"]) >= {"balanced_accuracy", "estimator"}
    assert is_fraction(entry["validation"]["balanced_accuracy"], optional=True)
    assert set(entry["test"]) >= {*TESTED, "ci95"}
    for name in TESTED:
        assert is_fraction(entry["test"][name], optional=name in ("many", "medium", "few")), name
    assert is_fraction(entry["test"]["balanced_accuracy"])
    for name, (low, high) in entry["test"]["ci95"].items():
        assert 0.0 <= low <= entry["test"][name] <= high <= 1.0
    for name in ("many", "medium", "few"):
        assert (entry["test"][name] is None) == (name not in entry["test"]["ci95"])
    assert set(entry["cost"]) == {"macs", "params", "latency_seconds"}
    assert type(entry["cost"]["macs"]) is type(entry["cost"]["params"]) is int
    assert 0 < entry["cost"]["latency_seconds"] < 10


def check_schema(result: dict[str, Any]) -> None:
    assert set(result) >= {"schema", "winner", "baselines", "spend", "trials", "provenance"}
    assert result["schema"] == 1
    assert result["calibrations"] is None, "one policy: nothing to compare"
    assert set(result["baselines"]) - {ROLE} == {"smallest", "largest", "largest_plain_head", "random"}
    winner, largest = result["winner"], result["baselines"]["largest"]
    alike = (winner["subnet"]["norms"], winner["calibration"]) == (largest["subnet"]["norms"], "source")
    if result["spend"]["limit_seconds"] is None:
        assert (ROLE in result["baselines"]) is not alike
    if ROLE in result["baselines"]:
        assert result["baselines"][ROLE]["subnet"] == {**largest["subnet"], "norms": winner["subnet"]["norms"]}
    for entry in (result["winner"], *result["baselines"].values()):
        check_model_entry(entry)
    spend = result["spend"]
    seconds = {"limit_seconds", "spent_seconds", "used_seconds", "gpu_seconds", "cpu_seconds"}
    assert set(spend) == {"limit", *seconds, "by_phase"}
    assert spend["used_seconds"] == pytest.approx(spend["spent_seconds"], abs=0.01), "one process, whose clock it is"
    assert set(spend["by_phase"]) == {"prepare", "supernet", "head", "search", "evaluate"}
    assert sum(spend["by_phase"].values()) == pytest.approx(spend["spent_seconds"], abs=0.01)
    assert set(result["trials"]) >= {"finished", "cached", "screened_out", "failed"}
    assert all(type(count) is int for count in result["trials"].values())
    provenance = result["provenance"]
    assert set(provenance) >= {"seed", "device", "versions", "data", "commit"}
    assert set(provenance["data"]) >= {"source", "target", "test"}
    assert provenance["versions"]["torch"] == torch.__version__.partition("+")[0] or provenance["versions"]["torch"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    tmp_path = tmp_path_factory.mktemp("undisturbed")
    return tmp_path / "run", run_search(tiny_config(tmp_path, budget="14trials"), tmp_path / "run")


def test_a_run_leaves_everything_it_promises(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    folder, result = undisturbed
    names = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
    assert names >= {
        "config.yaml", "environment.json", "splits.json", "ledger.jsonl", "trials.csv", "heads.jsonl", "study.journal",
        "supernet", "best", "result.json", "predictions.csv",
    }  # fmt: skip
    assert json.loads((folder / "result.json").read_text()) == result
    assert result["trials"]["finished"] == 14
    assert result["spend"]["limit_seconds"] is None
    assert not list(folder.rglob("*.part"))


def test_result_json_keeps_its_schema(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    check_schema(undisturbed[1])
    assert undisturbed[1]["winner"]["test"]["many"] is None  # thirty images at most: an empty group is null


def test_costs_are_those_of_the_model_that_was_saved(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    folder, result = undisturbed
    model, winner = load(folder / "best"), result["winner"]
    images = torch.zeros(1, model.description.channels, model.description.size, model.description.size)
    with FlopCounterMode(display=False) as counter:
        model(images)
    assert winner["cost"]["macs"] == counter.get_total_flops() // 2
    assert winner["cost"]["params"] == sum(parameter.numel() for parameter in model.parameters())
    assert model.description.subnet.to_dict() == winner["subnet"]
    assert model.description.metrics["test"] == winner["test"]


def test_what_was_tested_is_what_was_saved(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    folder, result = undisturbed
    with (folder / "predictions.csv").open(newline="") as file:
        header, *table = csv.reader(file)
    label, winner = header.index("label"), header.index("winner")
    right = {}
    for row in table:
        right.setdefault(row[label], []).append(row[label] == row[winner])
    recalls = [sum(hits) / len(hits) for hits in right.values()]
    assert sum(recalls) / len(recalls) == pytest.approx(result["winner"]["test"]["balanced_accuracy"])


def test_a_finished_run_answers_at_once(undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, result = undisturbed
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    again = run_search(tiny_config(folder.parent, budget="14trials"), folder)
    assert again == result
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_another_configuration_on_the_same_folder_is_refused_and_named(
    undisturbed: tuple[Path, dict[str, Any]],
) -> None:
    folder, result = undisturbed
    with pytest.raises(ResumeError, match=r"seed: 7 instead of 0"):
        run_search(tiny_config(folder.parent, budget="14trials", seed=7), folder)
    assert json.loads((folder / "result.json").read_text()) == result


# ------------------------------------------------------------------------------------------------------ interrupted


def questions_by_phase(folder: Path, config: RunConfig) -> list[str]:
    watcher = Listener()
    run_search(config, folder, watcher=watcher)
    return [progress.phase for progress in watcher.shown]


def test_stopped_at_every_tick_a_run_ends_as_if_undisturbed(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "training_steps=3", budget="4trials")
    asked = questions_by_phase(tmp_path / "whole", config)
    assert list(dict.fromkeys(asked)) == ["prepare", "supernet", "head", "search", "evaluate"]
    expected = json.loads((tmp_path / "whole" / "result.json").read_text())
    folder, spent = tmp_path / "stopped", 0.0
    # One unit of work a process (the first question of each is that of preparing), up to the test, done in one go.
    for stops in range(asked.index("evaluate") - 1):
        with pytest.raises(Interrupted, match="same command") as stopped:
            run_search(config, folder, stop=StopAfter(1, 2 if stops % 2 else 15))
        assert stopped.value.exit_code == (130 if stops % 2 else 143)
        assert str(folder) in str(stopped.value)
        total = sum(clock_seconds(read_account(RunDir(folder).ledger)).values())
        assert total >= spent  # what was spent stays spent
        spent = total
    result = run_search(config, folder, stop=StopAfter(10_000))
    assert essence(result) == essence(expected)
    assert rows(folder) == rows(tmp_path / "whole")
    assert result["spend"]["spent_seconds"] >= spent - 0.01


def test_stopped_before_anything_was_checked_in_vain_a_run_keeps_what_it_spent(tmp_path: Path) -> None:
    config, folder = tiny_config(tmp_path, "training_steps=3", budget="4trials"), tmp_path / "run"
    with pytest.raises(Interrupted):
        run_search(config, folder, begun=time.monotonic() - 50, stop=StopAfter(0))
    assert clock_seconds(read_account(RunDir(folder).ledger))["prepare"] >= 50
    result = run_search(config, folder)
    assert result["spend"]["by_phase"]["prepare"] >= 50


def test_another_number_of_devices_goes_on_with_the_same_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A budget of device time lasts longer with fewer of them; the recipe follows from what was planned at first."""
    monkeypatch.setattr("nasimb.supernet.recipe.LONG_SECONDS", 40.0)
    clock = FakeTime(monkeypatch, step=0.1, image=2e-3, fit=0.02)
    config = tiny_config(tmp_path, "training.precision=float32", source=DATA, budget="60cpu-s")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(Interrupted):
        train_supernet(config, tmp_path / "out", clock=clock, stop=StopAfter(20))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    info = train_supernet(config, tmp_path / "out", clock=clock)
    assert info["steps"] > 100
    spent = sum(clock_seconds(read_account(tmp_path / "out" / "ledger.jsonl")).values())
    assert train_supernet(config, tmp_path / "out", clock=clock) == info
    assert sum(clock_seconds(read_account(tmp_path / "out" / "ledger.jsonl")).values()) == spent


SCREENED_RUN = ("screening.images_per_class=2", "screening.eta=3", "training_steps=3")


def test_screening_scores_on_a_part_and_promotes_the_best(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, *SCREENED_RUN, budget="12trials")
    result = run_search(config, tmp_path / "run")
    check_schema(result)
    trials = trials_of(RunDir(tmp_path / "run"))
    finished = [trial for trial in trials if trial.state == "finished"]
    screened = [trial for trial in trials if trial.state == "screened"]
    assert len(finished) + len(screened) == 12
    assert result["trials"]["screened_out"] == len(screened) > 0
    assert all(trial.screen_score is not None for trial in [*finished, *screened])
    assert all(trial.score is None for trial in screened)
    assert {trial.kind for trial in finished} >= {"smallest", "largest", "random"}
    best = sorted([*finished, *screened], key=lambda trial: (-trial.screen_score, trial.number))[:4]
    assert all(trial.state == "finished" for trial in best)
    receipt = result["screening"]
    assert (receipt["screened"], receipt["promoted"], receipt["eta"]) == (12, len(finished), 3)
    assert receipt["images"] < receipt["of_images"] / 3
    plain = run_search(tiny_config(tmp_path, "screening.enabled=false", budget="12trials"), tmp_path / "plain")
    assert plain["screening"] is None
    assert plain["trials"]["screened_out"] == 0


def test_a_screened_run_stopped_anywhere_ends_as_if_undisturbed(tmp_path: Path) -> None:
    config, folder = tiny_config(tmp_path, *SCREENED_RUN, budget="8trials"), tmp_path / "stopped"
    asked = questions_by_phase(tmp_path / "whole", config)
    first, stops = asked.index("search"), 0
    with pytest.raises(Interrupted):
        run_search(config, folder, stop=StopAfter(first))
    # While candidates are screened, while the best are promoted, and in between: two units of work a process.
    for _ in range(first, len(asked) - asked[::-1].index("search") - 3, 2):
        stops += 1
        with pytest.raises(Interrupted):
            run_search(config, folder, stop=StopAfter(3))
    assert stops >= 10
    assert essence(run_search(config, folder)) == essence(json.loads((tmp_path / "whole" / "result.json").read_text()))
    assert rows(folder) == rows(tmp_path / "whole")


def test_a_screened_run_keeps_its_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeTime(monkeypatch, step=1.0, image=6e-2, fit=0.2)
    config = tiny_config(tmp_path, *SCREENED_RUN, "training.precision=float32", budget="10min")
    result = run_search(config, tmp_path / "run", clock=clock)
    assert 0.9 * 600 <= result["spend"]["spent_seconds"] <= 600
    assert result["screening"]["promoted"] >= result["screening"]["screened"] / 3
    assert result["screening"]["saved_seconds"] > 0


def test_torn_last_lines_do_not_stand_in_the_way(tmp_path: Path, undisturbed: tuple[Path, dict[str, Any]]) -> None:
    config, folder = tiny_config(tmp_path, budget="6trials"), tmp_path / "run"
    expected = run_search(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run_search(config, folder, stop=StopAfter(1 + 6 + 3 + 4))  # a few trials into the search
    for name in ("trials.csv", "heads.jsonl", "calibrations.jsonl", "study.journal", "ledger.jsonl"):
        with (folder / name).open("ab") as file:
            file.write(b'{"op_code": 5, "wor')
    assert essence(run_search(config, folder)) == essence(expected)
    assert rows(folder) == rows(tmp_path / "whole")


def test_a_run_interrupted_before_its_checks_is_checked_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = tiny_config(tmp_path, budget="1s"), tmp_path / "run"

    def killed(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nasimb.assemble.load_task", killed)
        with pytest.raises(KeyboardInterrupt):
            run_search(config, folder)
    assert (folder / "config.yaml").exists()
    with pytest.raises(BudgetError, match="must buy"):
        run_search(config, folder)
    assert not list(folder.iterdir())


def test_data_that_are_gone_on_resuming_cost_nothing_of_what_was_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = tiny_config(tmp_path), tmp_path / "run"
    with pytest.raises(Interrupted):
        run_search(config, folder, stop=StopAfter(4))
    before = sorted(path.name for path in folder.iterdir())

    def gone(*args: object, **options: object) -> None:
        raise InputError("a folder must exist", got="none", do="Mount it.")

    with monkeypatch.context() as patch:
        patch.setattr("nasimb.assemble.load_task", gone)
        with pytest.raises(InputError, match="Mount it"):
            run_search(config, folder)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert run_search(config, folder)["trials"]["finished"] == 5


# ---------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("options", "assigned", "said"),
    [
        ({"budget": "1s"}, (), r"Give at least \d+(s|min)"),
        ({"max_macs": "10"}, (), "must admit the smallest subnet"),
        ({"validation": "leave-one-out", "source": "target"}, (), "has not seen the target"),
        ({"objective": "few", "imbalance_factor": 1.0}, (), "needs few-shot classes"),
        ({"objective": "many"}, (), "needs many-shot classes"),
        ({"objective": "few", "imbalance_factor": 30.0, "data": {**DATA, "target_per_class": 40, "digits": [0, 1]}},
         (), "needs few-shot classes"),
        ({"device": "cuda:99"}, (), "must exist"),
        ({"supernet": "/nowhere", "space": ""}, (), "must exist"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_at_once_and_leaves_no_files(
    tmp_path: Path, options: dict[str, Any], assigned: tuple[str, ...], said: str
) -> None:
    config = tiny_config(tmp_path, *assigned, **options)
    with pytest.raises(InputError, match=said):
        run_search(config, tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()


def test_a_folder_of_other_things_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"")
    with pytest.raises(ResumeError, match=r"cat\.png"):
        run_search(tiny_config(tmp_path), tmp_path / "photos")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.png"]


# -------------------------------------------------------------------------------------------------- ways of searching


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_pareto_search_ends_in_a_result_with_every_sampler(tmp_path: Path, sampler: str) -> None:
    config = tiny_config(tmp_path, sampler=sampler, objective="balanced_accuracy,macs", budget="16trials")
    result = run_search(config, tmp_path / "run")
    check_schema(result)
    assert result["trials"]["finished"] == 16


def test_the_winner_keeps_limits_that_the_largest_does_not(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, max_macs="60K", max_params="3K", budget="8trials")
    result = run_search(config, tmp_path / "run")
    check_schema(result)
    for entry in (result["winner"], result["baselines"]["random"]):
        assert entry["cost"]["macs"] <= 60_000
        assert entry["cost"]["params"] <= 3_000
    assert result["baselines"]["largest"]["cost"]["macs"] > 60_000


def test_limits_that_only_the_smallest_keeps_still_give_a_result_and_say_so(tmp_path: Path) -> None:
    whole = run_search(tiny_config(tmp_path, budget="2trials"), tmp_path / "whole")
    macs = whole["baselines"]["smallest"]["cost"]["macs"]
    watcher = Listener()
    config = tiny_config(tmp_path, max_macs=str(macs), budget="9trials")
    result = run_search(config, tmp_path / "run", watcher=watcher)
    assert result["winner"]["cost"]["macs"] <= macs
    assert result["trials"]["finished"] < 9
    assert any("Nothing is left to search" in line for line in watcher.lines)


def test_a_space_smaller_than_the_budget_is_searched_whole_and_the_run_ends_well(tmp_path: Path) -> None:
    space = tmp_path / "tiny.yaml"
    stage = "{depths: [1], widths: [4, 8], kernel_sizes: [3], norms: [bn], stride: 1}"
    space.write_text(f"backbone: resnet\nstem_width: 4\nresolutions: [6, 8]\nstages: [{stage}]\n")
    watcher = Listener()
    result = run_search(tiny_config(tmp_path, budget="50trials"), tmp_path / "run", watcher=watcher)
    assert result["trials"]["finished"] == 4 < SIZE
    assert any("all 4 subnets" in line for line in watcher.lines)


def test_a_space_of_one_subnet_still_gives_a_model(tmp_path: Path) -> None:
    stage = "{depths: [1], widths: [4], kernel_sizes: [3], norms: [bn], stride: 1}"
    (tmp_path / "tiny.yaml").write_text(f"backbone: resnet\nstem_width: 4\nresolutions: [8]\nstages: [{stage}]\n")
    result = run_search(tiny_config(tmp_path, budget="3trials"), tmp_path / "run")
    assert result["trials"]["finished"] == 1
    assert load(tmp_path / "run" / "best").description.subnet.to_dict() == result["winner"]["subnet"]


def test_heads_may_be_named_with_options(tmp_path: Path) -> None:
    heads = "heads.finalists=[{name: focal, gamma: 1.0}, {name: class_balanced}]"
    check_schema(run_search(tiny_config(tmp_path, heads, budget="4trials"), tmp_path / "run"))


def test_a_super_network_trained_on_the_target_is_ranked_on_the_hold_out(tmp_path: Path) -> None:
    result = run_search(tiny_config(tmp_path, source="target", budget="4trials"), tmp_path / "run")
    check_schema(result)
    assert result["provenance"]["source_is_target"] is True
    assert any("trained on the target itself" in note for note in result["notes"])
    assert {entry["validation"]["estimator"] for entry in (result["winner"], *result["baselines"].values())} == {
        "holdout"
    }


EVERY_POLICY = ("source", "target-natural", "target-balanced", "mixed", "inherit", "reset", "update")


def test_every_calibration_policy_is_searched_and_compared_on_the_winner(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, budget="20trials", calibrations=EVERY_POLICY)
    result = run_search(config, tmp_path / "run")
    trials = trials_of(RunDir(tmp_path / "run"))
    assert len({trial.candidate.calibration for trial in trials}) > 3
    found, winner = result["calibrations"], result["winner"]
    assert set(found["policies"]) == set(EVERY_POLICY)
    assert (found["subnet"], found["left_out"]) == (winner["name"], {})
    for trial in trials:  # what the search has scored stands there
        if trial.state == FINISHED and str(trial.candidate.subnet) == winner["name"]:
            one = found["policies"][trial.candidate.calibration]
            assert one["validation"]["balanced_accuracy"] == trial.balanced_accuracy
    again = run_search(config, tmp_path / "again")
    assert again["calibrations"] == found
    assert rows(tmp_path / "again") == rows(tmp_path / "run")


def test_stopped_after_every_calibration_the_comparison_goes_on_where_it_was(tmp_path: Path) -> None:
    config, folder = tiny_config(tmp_path, budget="4trials", calibrations=EVERY_POLICY), tmp_path / "run"
    expected = run_search(config, tmp_path / "whole")

    def done() -> int:
        return len(RunDir(folder).read_lines("calibrations.jsonl"))

    for already in range(len(EVERY_POLICY)):
        if already == len(RunDir(tmp_path / "whole").read_lines("calibrations.jsonl")):
            break
        with pytest.raises(Interrupted):
            run_search(config, folder, stop=lambda already=already: 15 if done() > already else 0)
        assert done() == already + 1
    assert already > 1
    result = run_search(config, folder)
    assert done() == already, "nothing is scored again"
    assert result["calibrations"] == expected["calibrations"]
    assert essence(result) == essence(expected)


# ----------------------------------------------------------------------------------------------------------- budget


class FakeTime:
    """A clock that only work moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, step: float, image: float, fit: float) -> None:
        self.now = 100.0
        training_step, features = Training.step, ResNetSupernet.features

        def cheap_step(training: Training, progress: float) -> torch.Tensor:
            self.now += step
            if training.steps_done < 2:
                return training_step(training, progress)
            training.steps_done += 1
            return torch.tensor(1.0)

        def slow_features(supernet: ResNetSupernet, images: torch.Tensor, subnet: Any, *more: Any) -> torch.Tensor:
            self.now += image * len(images) * (0.3 + 0.7 * sum(subnet.depths) / 3)
            return features(supernet, images, subnet, *more)

        monkeypatch.setattr(Training, "step", cheap_step)
        # Whether a processor has bfloat16 decides what is measured first; these seconds are the same on all.
        monkeypatch.setattr("nasimb.supernet.precision._has_bfloat16", lambda device: False)
        monkeypatch.setattr(ResNetSupernet, "features", slow_features)
        settle = ResNetSupernet.settle

        def slow_settle(supernet: ResNetSupernet, asked: Any, parts: list[torch.Tensor], new: Any) -> Any:
            share = 0.3 if isinstance(asked, StemStep) else 0.7 / 3
            self.now += image * sum(len(part) for part in parts) * share
            return settle(supernet, asked, parts, new)

        monkeypatch.setattr(ResNetSupernet, "settle", slow_settle)
        for kind, share in ((FoldedStem, 0.3), (FoldedBlock, 0.7 / 3)):
            monkeypatch.setattr(kind, "forward", self.slow_forward(kind.forward, image * share))
        for module, name, seconds in (
            (nasimb.phases.headprobe, "fit_head", fit),
            (nasimb.phases.heads, "by_folds", 3 * fit),
            (nasimb.phases.evaluate, "latency", 0.25),
        ):
            monkeypatch.setattr(module, name, self.taking(seconds, getattr(module, name)))
        predict = nasimb.phases.evaluate.predict_test

        def slow_predict(backbone: Any, heads: Any, test: Any, **options: Any) -> Any:
            self.now += image * len(test) * (0.3 + 0.7 * sum(map(len, backbone.stages)) / 3)
            return predict(backbone, heads, test, **options)

        monkeypatch.setattr(nasimb.phases.evaluate, "predict_test", slow_predict)

    def slow_forward(self, forward: Any, seconds: float) -> Any:
        def slower(module: Any, maps_BCHW: torch.Tensor) -> torch.Tensor:
            self.now += seconds * len(maps_BCHW)
            return cast(torch.Tensor, forward(module, maps_BCHW))

        return slower

    def taking(self, seconds: float, work: Any) -> Any:
        def slower(*args: Any, **options: Any) -> Any:
            self.now += seconds
            return work(*args, **options)

        return slower

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("budget", "limit", "step", "image", "fit"),
    [
        pytest.param("60s", 60, 0.1, 5e-3, 0.02, marks=pytest.mark.slow),
        ("10min", 600, 1.0, 5e-2, 0.2),
        pytest.param("2h", 7200, 10.0, 0.3, 3.0, marks=pytest.mark.slow),
    ],
)
def test_phases_keep_their_shares_and_the_budget_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: str, limit: float, step: float, image: float, fit: float
) -> None:
    clock = FakeTime(monkeypatch, step=step, image=image, fit=fit)
    config = tiny_config(tmp_path, "training.precision=float32", budget=budget)
    result = run_search(config, tmp_path / "run", clock=clock)
    check_schema(result)
    phases = result["spend"]["by_phase"]
    share = 0.5 * (limit - phases["prepare"])
    assert share <= phases["supernet"] <= share + 2 * step
    assert result["spend"]["spent_seconds"] <= limit
    assert result["spend"]["spent_seconds"] >= 0.9 * limit
    assert result["trials"]["finished"] > 10


@pytest.mark.parametrize("policies", [("source", "mixed", "update"), ("reset", "mixed", "inherit")])
def test_policies_of_two_sides_and_their_comparison_keep_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policies: tuple[str, ...]
) -> None:
    clock = FakeTime(monkeypatch, step=1.0, image=5e-2, fit=0.2)
    config = tiny_config(tmp_path, "training.precision=float32", budget="10min", calibrations=policies)
    result = run_search(config, tmp_path / "run", clock=clock)
    assert 540 <= result["spend"]["spent_seconds"] <= 600
    assert set(result["calibrations"]["policies"]) == set(policies), "time is kept for all of them"
    assert result["calibrations"]["left_out"] == {}


def test_a_ready_super_network_gives_its_share_to_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeTime(monkeypatch, step=0.1, image=1e-2, fit=0.02)
    training = tiny_config(tmp_path, "training.precision=float32", source=DATA, budget="20s")
    info = train_supernet(training, tmp_path / "ready", clock=clock)
    assert 150 <= info["steps"] <= 200
    assert sum(clock_seconds(read_account(tmp_path / "ready" / "ledger.jsonl")).values()) <= 20 + 0.1
    config = tiny_config(tmp_path, budget="60s", supernet=str(tmp_path / "ready"), space="")
    result = run_search(config, tmp_path / "run", clock=clock)
    phases = result["spend"]["by_phase"]
    assert phases.get("supernet", 0.0) == 0.0
    assert phases["search"] >= 0.5 * 60
    assert 0.9 * 60 <= result["spend"]["spent_seconds"] <= 60


def test_the_first_of_two_limits_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeTime(monkeypatch, step=0.1, image=5e-3, fit=0.02)
    config = tiny_config(tmp_path, "training.precision=float32", budget="60s,6trials")
    result = run_search(config, tmp_path / "few", clock=clock)
    assert result["trials"]["finished"] == 6
    assert result["spend"]["spent_seconds"] <= 60
    config = tiny_config(tmp_path, "training.precision=float32", budget="60s,600trials")
    result = run_search(config, tmp_path / "short", clock=clock)
    assert result["trials"]["finished"] < 600
    assert result["spend"]["spent_seconds"] <= 60


def test_the_smallest_budget_that_is_named_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeTime(monkeypatch, step=0.2, image=5e-3, fit=0.02)
    with pytest.raises(BudgetError) as refused:
        run_search(tiny_config(tmp_path, "training.precision=float32", budget="4s"), tmp_path / "run", clock=clock)
    named = str(refused.value).partition("at least ")[2].partition(" ")[0]
    config = tiny_config(tmp_path, "training.precision=float32", budget=named)
    result = run_search(config, tmp_path / "run", clock=clock)
    assert result["spend"]["spent_seconds"] <= result["spend"]["limit_seconds"]
    assert set(result["baselines"]) >= {"smallest", "largest", "largest_plain_head"}


def test_heads_too_slow_for_the_budget_are_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four seconds a fit, four fits a comparison: the time goes to the search and the ranking heads go to the test."""
    clock = FakeTime(monkeypatch, step=0.1, image=5e-3, fit=4.0)
    config = tiny_config(tmp_path, "training.precision=float32", "heads.folds=4", budget="100s")
    result = run_search(config, tmp_path / "run", clock=clock)
    check_schema(result)
    assert result["spend"]["spent_seconds"] <= 100
    assert result["winner"]["validation"]["estimator"] == "leave-one-out"
    assert result["baselines"]["largest_plain_head"]["head"] == "cross_entropy"


def test_spend_before_an_interruption_counts_against_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeTime(monkeypatch, step=0.1, image=2e-3, fit=0.02)
    config, folder = tiny_config(tmp_path, "training.precision=float32", budget="60s"), tmp_path / "run"
    with pytest.raises(Interrupted):
        run_search(config, folder, clock=clock, stop=StopAfter(200))
    spent = sum(clock_seconds(read_account(RunDir(folder).ledger)).values())
    assert spent > 15
    clock.now += 10_000  # downtime is not charged
    result = run_search(config, folder, clock=clock)
    assert 54 <= result["spend"]["spent_seconds"] <= 60
    phases = result["spend"]["by_phase"]
    assert math.isclose(phases["supernet"], 0.5 * (60 - phases["prepare"]), abs_tol=0.3)


# ---------------------------------------------------------------------------------------------- super-network alone


def test_training_alone_resumes_and_is_refused_without_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="must limit time"):
        train_supernet(tiny_config(tmp_path, source=DATA, budget="5trials"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    clock = FakeTime(monkeypatch, step=0.1, image=5e-3, fit=0.02)
    with pytest.raises(BudgetError, match="a trained super-network"):
        train_supernet(tiny_config(tmp_path, source=DATA, budget="2s"), tmp_path / "out", clock=clock)
    assert not (tmp_path / "out").exists()
    config = tiny_config(tmp_path, source=DATA, budget="20s")
    with pytest.raises(Interrupted):
        train_supernet(config, tmp_path / "out", clock=clock, stop=StopAfter(20))
    info = train_supernet(config, tmp_path / "out", clock=clock)
    assert info["steps"] > 100
    assert train_supernet(config, tmp_path / "out", clock=clock) == info


@pytest.mark.parametrize(
    ("local", "download", "order"),
    [(0, True, ["loaded", "met", "met"]), (1, True, ["met", "loaded", "met"]), (1, False, ["loaded", "met", "met"])],
)
def test_one_process_of_a_machine_downloads_before_the_others_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local: int, download: bool, order: list[str]
) -> None:
    seen: list[str] = []

    @contextmanager
    def meeting(ranks: Ranks) -> Iterator[None]:
        yield
        seen.append("met")

    monkeypatch.setattr(Ranks, "alike", meeting)
    monkeypatch.setattr("nasimb.assemble.load_source", lambda *_: seen.append("loaded") or "ground")
    config = tiny_config(tmp_path, source=DATA, download=download)
    assert _load_source(config, torch.device("cpu"), Ranks(local, 2, local)) == "ground"
    assert seen == order


def test_a_run_is_not_continued_with_other_images(tmp_path: Path) -> None:
    """Scores of the old images must not be mixed with new ones: a sentence, and the run stays as it was."""
    rng = np.random.default_rng(0)
    file = tmp_path / "mine.npz"

    def write(seed: int) -> None:
        labels = np.repeat([0, 1, 2], [20, 12, 8])
        images = (labels[:, None, None] * 60 + np.random.default_rng(seed).integers(0, 60, (40, 8, 8))).astype(np.uint8)
        np.savez(file, train_images=images, train_labels=labels, test_images=rng.integers(0, 256, (30, 8, 8), np.uint8),
                 test_labels=np.repeat([0, 1, 2], 10), class_names=np.array(["a", "b", "c"]))  # fmt: skip

    write(1)
    config = tiny_config(tmp_path, data=f"arrays:{file}", source="target")
    stopping = iter([0] * 6 + [15] * 100)
    with pytest.raises(Interrupted):
        run_search(config, tmp_path / "run", stop=lambda: next(stopping))
    write(2)
    with pytest.raises(ResumeError, match="another source and another target"):
        run_search(config, tmp_path / "run")
