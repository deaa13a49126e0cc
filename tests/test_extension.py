"""The record of extensions: made once, whatever a kill leaves out."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nasimb.errors import ResumeError
from nasimb.extension import (
    FILE,
    Extension,
    earlier_results,
    extend,
    extension_notes,
    extensions,
    first_budget,
    just_extended,
    mark_seen,
    settle,
)
from nasimb.rundir import RunDir

FIRST = Extension("+4gpu-h", "8gpu-h", "12gpu-h", {"device": "cuda"})
SECOND = Extension("+1gpu-h", "12gpu-h", "13gpu-h", {"device": "cpu"})


class Killed(BaseException):
    pass


def a_run(folder: Path, *, finished: bool = True) -> RunDir:
    folder.mkdir()
    RunDir(folder).write_config({"data": "digits", "budget": "8gpu-h", "seed": 3})
    if finished:
        end(RunDir(folder), "8gpu-h")
    return RunDir(folder)


def end(run: RunDir, budget: str) -> None:
    """The run finishes on this budget."""
    (run.path / "predictions.csv").write_text(f"image,label\n{budget},0\n")
    run.write_json("classes.json", {"budget": budget})
    run.write_json("result.json", {"spend": {"limit": budget}})


def result_of(run: RunDir, name: str) -> dict[str, Any]:
    return {key: value for key, value in (run.read_json(name) or {}).items() if key != "check"}


def contents(run: RunDir) -> dict[str, str]:
    return {file.name: file.read_text() for file in run.path.iterdir() if not file.name.startswith(".")}


def test_a_finished_run_gets_its_budget_and_keeps_what_it_found(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    extend(run, FIRST)
    assert run.config() == {"data": "digits", "budget": "12gpu-h", "seed": 3}
    assert run.read_json("result.json") is None
    assert result_of(run, "result-1.json") == {"spend": {"limit": "8gpu-h"}}
    assert "8gpu-h" in (run.path / "predictions-1.csv").read_text()
    assert result_of(run, "classes-1.json") == {"budget": "8gpu-h"}
    assert run.read_json("classes.json") is None
    assert extensions(run) == [FIRST]
    assert first_budget(run) == "8gpu-h"


def test_a_second_extension_follows_the_first(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    extend(run, FIRST)
    end(run, "12gpu-h")
    mark_seen(run)
    assert [one.seen for one in extensions(run)] == [True]
    extend(run, SECOND)
    assert [one["spend"]["limit"] for one in earlier_results(run)] == ["8gpu-h", "12gpu-h"]
    assert (run.config()["budget"], first_budget(run)) == ("13gpu-h", "8gpu-h")
    assert [one.seen for one in extensions(run)] == [True, False]
    notes = extension_notes(run)
    assert notes[0] == "The budget was extended: 8gpu-h, then 12gpu-h, then 13gpu-h."
    assert "read 3 times" in notes[1]
    assert "result-1.json to result-2.json" in notes[1]


def test_an_unfinished_run_has_nothing_to_set_aside(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", finished=False)
    extend(run, FIRST)
    assert earlier_results(run) == []
    assert extension_notes(run) == ["The budget was extended: 8gpu-h, then 12gpu-h."]
    end(run, "12gpu-h")
    settle(run)
    assert result_of(run, "result.json") == {"spend": {"limit": "12gpu-h"}}, "its own result stays"


def test_a_run_that_was_never_extended_is_left_alone(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    before = contents(run)
    settle(run)
    assert contents(run) == before
    assert (extensions(run), first_budget(run), extension_notes(run)) == ([], None, [])


@pytest.mark.parametrize("finished", [True, False])
def test_a_kill_between_any_two_steps_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    """Every step is a file that gets its name; the process dies before the n-th of them."""
    whole = a_run(tmp_path / "whole", finished=finished)
    rename, steps = Path.replace, 0
    while True:
        run, left = a_run(tmp_path / f"run{steps}", finished=finished), [steps]

        def dying(file: Path, target: Any, left: list[int] = left) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return rename(file, target)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", dying)
            with suppress(Killed):
                extend(run, FIRST)
        settle(run)
        if steps == 0:
            assert contents(run) == contents(whole), "nothing of it is recorded yet"
            extend(whole, FIRST)
        else:
            assert contents(run) == contents(whole)
        if left[0] >= 0:
            break
        steps += 1
    assert steps == (5 if finished else 2)


@pytest.mark.parametrize("text", ['{"extensions": [{"added": "+1h"}]}', '{"extensions": 3}', "{}", "{"])
def test_a_damaged_record_is_a_sentence(tmp_path: Path, text: str) -> None:
    run = a_run(tmp_path / "run")
    (run.path / FILE).write_text(text)
    with pytest.raises(ResumeError, match="extensions"):
        settle(run)


def test_the_record_is_json_for_programs(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    extend(run, FIRST)
    (one,) = json.loads((run.path / FILE).read_text())["extensions"]
    assert (one["added"], one["before"], one["budget"], one["seen"]) == ("+4gpu-h", "8gpu-h", "12gpu-h", False)
    assert one["environment"] == {"device": "cuda"}


def test_who_goes_on_with_nobodys_work(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    assert not just_extended(run, 0.0), "never extended"
    extend(run, replace(FIRST, spent_seconds=100.0))
    assert just_extended(run, 100.0)
    assert not just_extended(run, 100.5), "a process has begun it"
