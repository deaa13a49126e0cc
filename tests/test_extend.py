"""More budget for a run: the search goes on where it ended, the earlier winner stays until there is a new one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_pipeline import FakeTime, Listener, StopAfter, check_schema, essence, rows
from tiny_run import DATA, tiny_config

from nasimb.errors import BudgetError, InputError, Interrupted, ResumeError
from nasimb.export import load
from nasimb.extend import extend_run
from nasimb.extension import extensions, mark_seen
from nasimb.ledger import clock_seconds, read_account
from nasimb.pipeline import run_search, train_supernet
from nasimb.rundir import RunDir
from nasimb.search.trial import trials_of


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a finished run of 8 trials, and one of 14 that was never disturbed."""
    folder = tmp_path_factory.mktemp("home")
    run_search(tiny_config(folder, budget="8trials"), folder / "eight")
    run_search(tiny_config(folder, budget="14trials"), folder / "fourteen")
    return folder


@pytest.fixture
def eight(home: Path, tmp_path: Path) -> Path:
    return shutil.copytree(home / "eight", tmp_path / "run")


def result_of(folder: Path, name: str = "result.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name).read_text())
    return found


def seen(folder: Path) -> None:
    mark_seen(RunDir(folder))


def test_an_extended_run_equals_one_that_had_the_budget_from_the_start(home: Path, eight: Path) -> None:
    before, listener = result_of(eight), Listener()
    result = extend_run(eight, "+6trials", watcher=listener)
    check_schema(result)
    assert rows(eight) == rows(home / "fourteen")
    assert essence(result)["trials"] == essence(result_of(home / "fourteen"))["trials"]
    candidates = [trial.candidate for trial in trials_of(RunDir(eight)) if trial.state != "cached"]
    assert len(candidates) == len(set(candidates))
    assert result == result_of(eight)
    assert result_of(eight, "result-1.json") == before
    assert result["spend"]["limit"] == "14trials"
    assert (before["test_reads"], result["test_reads"]) == (1, 2)
    assert any("read 2 times" in note for note in result["notes"])
    assert load(eight / "best").description.subnet.to_dict() == result["winner"]["subnet"]
    assert (eight / "predictions-1.csv").read_text() != ""
    assert "the budget grows from 8trials to 14trials" in listener.lines[0]
    (one,) = extensions(RunDir(eight))
    assert {*one.environment, "check"} == set(json.loads((eight / "environment.json").read_text()))


def test_the_super_network_is_not_trained_again_and_no_head_is_compared_twice(eight: Path) -> None:
    weights = (eight / "supernet" / "supernet.safetensors").read_bytes()
    heads = (eight / "heads.jsonl").read_text()
    extend_run(eight, "+6trials")
    assert (eight / "supernet" / "supernet.safetensors").read_bytes() == weights
    assert (eight / "heads.jsonl").read_text().startswith(heads)
    lines = [json.loads(line) for line in (eight / "heads.jsonl").read_text().splitlines()]
    units = [(str(line["choices"][0]["subnet"]), str(line["unit"])) for line in lines]
    assert len(units) == len(set(units))


@pytest.mark.parametrize("again", ["+6trials", None])
@pytest.mark.parametrize("questions", [0, 2, 9, 20])
def test_an_interrupted_extension_resumes_and_adds_nothing(
    home: Path, eight: Path, again: str | None, questions: int
) -> None:
    with pytest.raises(Interrupted, match="same command again"):
        extend_run(eight, "+6trials", stop=StopAfter(questions))
    load(eight / "best")
    assert not (eight / "result.json").exists()
    result = extend_run(eight, again)
    assert result["spend"]["limit"] == "14trials"
    assert rows(eight) == rows(home / "fourteen")
    assert extend_run(eight, again) == result, "until it was seen"
    assert result["test_reads"] == 2
    seen(eight)
    with pytest.raises(InputError, match=r"finished run.*--budget \+14trials"):
        extend_run(eight)


def test_once_seen_the_same_words_are_a_new_extension(eight: Path) -> None:
    extend_run(eight, "+2trials")
    seen(eight)
    result = extend_run(eight, "+2trials")
    assert result["spend"]["limit"] == "12trials"
    assert result["trials"]["finished"] == 12
    assert result["test_reads"] == 3
    assert [result_of(eight, f"result-{n}.json")["trials"]["finished"] for n in (1, 2)] == [8, 10]


def test_the_first_command_on_an_extended_run(home: Path, eight: Path) -> None:
    first = tiny_config(home, budget="8trials")
    with pytest.raises(Interrupted):
        extend_run(eight, "+6trials", stop=StopAfter(9))
    with pytest.raises(ResumeError, match=r"extended to 14trials.*nasimb extend"):
        run_search(first, eight)
    result, listener = extend_run(eight), Listener()
    assert run_search(first, eight, watcher=listener) == result
    assert "was extended from 8trials to 14trials" in listener.lines[0]
    # Told the whole budget, the first command is the same run.
    assert run_search(tiny_config(home, budget="14trials"), eight) == result
    with pytest.raises(ResumeError, match="seed: 5 instead of 0"):
        run_search(tiny_config(home, budget="8trials", seed=5), eight)


def test_a_run_in_the_middle_is_extended_too(home: Path, tmp_path: Path) -> None:
    config = tiny_config(home, budget="8trials")
    with pytest.raises(Interrupted):
        run_search(config, tmp_path / "run", stop=StopAfter(12))
    with pytest.raises(InputError, match="the command that started it"):
        extend_run(tmp_path / "run")
    result = extend_run(tmp_path / "run", "+6trials")
    assert rows(tmp_path / "run") == rows(home / "fourteen")
    assert result["test_reads"] == 1
    assert not (tmp_path / "run" / "result-1.json").exists()


def test_promotions_of_the_first_part_stay_and_change_nothing_in_what_is_proposed(tmp_path: Path) -> None:
    def config(budget: str) -> Any:
        return tiny_config(tmp_path, "screening.images_per_class=2", "screening.eta=3", budget=budget)

    whole = run_search(config("30trials"), tmp_path / "whole")
    first = run_search(config("18trials"), tmp_path / "run")
    assert first["screening"]["promoted"] > 3
    promoted = {trial.number for trial in trials_of(RunDir(tmp_path / "run")) if trial.state == "finished"}
    result = extend_run(tmp_path / "run", "+12trials")
    rows, undisturbed = (trials_of(RunDir(tmp_path / name)) for name in ("run", "whole"))
    assert [trial.candidate for trial in rows] == [trial.candidate for trial in undisturbed]
    assert [trial.screen_score for trial in rows] == [trial.screen_score for trial in undisturbed]
    finished = {trial.number for trial in rows if trial.state == "finished"}
    assert finished == promoted | {trial.number for trial in undisturbed if trial.state == "finished"}
    assert result["screening"]["screened"] == whole["screening"]["screened"]


def test_what_cannot_be_extended(home: Path, eight: Path, tmp_path: Path) -> None:
    def contents() -> dict[str, bytes]:
        return {str(file): file.read_bytes() for file in eight.rglob("*") if file.is_file()}

    before = contents()
    for added, said in (("6trials", r"plus sign.*\+8trials"), ("+5min", r"own unit.*\+8trials"), ("+6", "unit")):
        with pytest.raises(BudgetError, match=said):
            extend_run(eight, added)
    assert contents() == before
    with pytest.raises(InputError, match=r"config\.yaml"):
        extend_run(tmp_path / "nowhere", "+1trials")
    assert not (tmp_path / "nowhere").exists()


def test_a_search_of_the_whole_space_has_nothing_to_add(tmp_path: Path) -> None:
    stage = "{depths: [1], widths: [4, 8], kernel_sizes: [3], norms: [bn], stride: 1}"
    (tmp_path / "tiny.yaml").write_text(f"backbone: resnet\nstem_width: 4\nresolutions: [6, 8]\nstages: [{stage}]\n")
    before = run_search(tiny_config(tmp_path, budget="9trials"), tmp_path / "run")
    listener = Listener()
    result = extend_run(tmp_path / "run", "+3trials", watcher=listener)
    assert any("Nothing is left to search" in line for line in listener.lines)
    assert essence(result)["models"]["winner"]["test"] == essence(before)["models"]["winner"]["test"]


# Time


def timed(tmp_path: Path, **options: Any) -> Any:
    return tiny_config(tmp_path, "training.precision=float32", **{"budget": "60s", **options})


def test_more_time_goes_to_the_search_and_the_sum_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeTime(monkeypatch, step=0.1, image=1e-2, fit=0.02)
    run_search(timed(tmp_path), tmp_path / "run", clock=clock)
    before = result_of(tmp_path / "run")["spend"]
    clock.now += 10_000
    result = extend_run(tmp_path / "run", "+1min", clock=clock)
    spend = result["spend"]
    assert (spend["limit"], spend["limit_seconds"]) == ("120s", 120.0)
    assert 0.9 * 120 <= spend["spent_seconds"] <= 120
    assert spend["by_phase"]["supernet"] == before["by_phase"]["supernet"]
    assert spend["by_phase"]["search"] > before["by_phase"]["search"] + 30
    check_schema(result)


def test_time_that_buys_nothing_is_refused_and_what_is_named_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeTime(monkeypatch, step=0.1, image=1e-2, fit=0.02)
    run_search(timed(tmp_path), tmp_path / "run", clock=clock)
    first = result_of(tmp_path / "run")
    with pytest.raises(BudgetError, match="must buy a candidate") as refused:
        extend_run(tmp_path / "run", "+0.5s", clock=clock)
    assert result_of(tmp_path / "run") == first, "the run stays as it was"
    named = str(refused.value).partition("at least ")[2].rstrip(".")
    result = extend_run(tmp_path / "run", named, clock=clock)
    assert result["spend"]["spent_seconds"] <= result["spend"]["limit_seconds"]
    assert result["trials"]["finished"] > first["trials"]["finished"]


def test_a_run_extended_while_its_super_network_was_trained_keeps_to_the_first_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe follows from the share: another one could not be continued."""
    monkeypatch.setattr("nasimb.supernet.recipe.LONG_SECONDS", 40.0)
    clock = FakeTime(monkeypatch, step=0.1, image=2e-2, fit=0.02)
    with pytest.raises(Interrupted):
        run_search(timed(tmp_path), tmp_path / "run", clock=clock, stop=StopAfter(120))
    assert 0 < clock_seconds(read_account(tmp_path / "run" / "ledger.jsonl"))["supernet"] < 29
    result = extend_run(tmp_path / "run", "+60s", clock=clock)
    assert result["spend"]["by_phase"]["supernet"] == pytest.approx(30, abs=0.3)
    assert 0.9 * 120 <= result["spend"]["spent_seconds"] <= 120


def test_a_training_alone_is_not_extended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeTime(monkeypatch, step=0.1, image=2e-3, fit=0.02)
    train_supernet(timed(tmp_path, source=DATA, budget="20s"), tmp_path / "net", clock=clock)
    with pytest.raises(InputError, match="must be a search"):
        extend_run(tmp_path / "net", "+20s", clock=clock)


def test_a_run_forks_from_the_super_network_of_another(home: Path, tmp_path: Path) -> None:
    config = tiny_config(home, supernet=str(home / "eight" / "supernet"), space="", budget="4trials", max_macs="60K")
    result = run_search(config, tmp_path / "fork")
    assert result["winner"]["cost"]["macs"] <= 60_000
    assert result["spend"]["by_phase"].get("supernet", 0.0) < 0.1
    assert result["provenance"]["data"]["source"] == result_of(home / "eight")["provenance"]["data"]["source"]
