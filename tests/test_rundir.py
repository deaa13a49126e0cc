"""The run folder: identity, atomic files, torn last lines."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nasimb.errors import InputError, ResumeError
from nasimb.rundir import TRIAL_COLUMNS, RunDir, environment

CONFIG = {"data": "digits", "seed": 0, "heads": {"folds": 5, "count": 3}}


def opened(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "run")
    with run.claimed():
        assert run.open_with(CONFIG, environment("cpu", ["nasimb", "search"])) is False
    return run


def test_the_same_configuration_continues_and_a_changed_one_is_named(tmp_path: Path) -> None:
    run = opened(tmp_path)
    with run.claimed():
        assert run.open_with(CONFIG, {}) is True
        with pytest.raises(ResumeError, match=r"heads\.folds: 3 instead of 5"):
            run.open_with({**CONFIG, "heads": {"folds": 3, "count": 3}}, {})
        with pytest.raises(ResumeError, match=r"seed: 1 instead of 0"):
            run.open_with({**CONFIG, "seed": 1}, {})
    assert run.config() == CONFIG


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    run = RunDir(tmp_path / "run")
    with run.claimed(), pytest.raises(ResumeError, match=r"thesis\.tex"):
        run.open_with(CONFIG, {})


def test_two_processes_cannot_hold_one_folder(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    with run.claimed(), pytest.raises(ResumeError, match="in use"), RunDir(tmp_path / "run").claimed():
        pass
    with run.claimed():
        pass


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="writable"), RunDir(tmp_path / "file" / "run").claimed():
        pass


def test_trials_come_back_as_written_and_a_torn_row_is_left_out(tmp_path: Path) -> None:
    run = opened(tmp_path)
    run.append_trials(
        [{"number": 0, "state": "finished", "score": 0.1 + 0.2, "depths": (1, 2), "reason": "a, b\nc\rd"}]
    )
    run.append_trials([{"number": 1, "state": "failed"}])
    rows = run.read_trials()
    assert [row["number"] for row in rows] == ["0", "1"]
    assert float(rows[0]["score"]) == 0.1 + 0.2
    assert rows[0]["depths"] == "1-2"
    assert rows[0]["reason"] == "a, b c d"
    assert rows[1]["score"] == ""
    file = run.path / "trials.csv"
    file.write_bytes(file.read_bytes() + b"2,finished,rand")
    assert len(run.read_trials()) == 2
    said: list[str] = []
    with run.claimed():
        run.open_with(CONFIG, {}, said.append)
    (line,) = said
    assert "trials.csv: the last line was torn" in line
    run.append_trials([{"number": 2, "state": "finished"}])
    assert [row["number"] for row in run.read_trials()] == ["0", "1", "2"]
    assert file.read_text().splitlines()[0] == ",".join([*TRIAL_COLUMNS, "check"])


def test_rows_of_a_batch_are_the_same_lines_as_one_by_one(tmp_path: Path) -> None:
    together, singly = RunDir(tmp_path / "a"), RunDir(tmp_path / "b")
    rows = [{"number": n, "state": "screened", "screen_score": n / 3, "widths": [8, 16]} for n in range(5)]
    for folder in (together, singly):
        folder.path.mkdir()
    together.append_trials(rows[:2])
    together.append_trials(rows[2:])
    for row in rows:
        singly.append_trials([row])
    text = (together.path / "trials.csv").read_text()
    assert text == (singly.path / "trials.csv").read_text()
    assert text.count("number,state") == 1
    assert [row["screen_score"] for row in together.read_trials()] == [repr(n / 3) for n in range(5)]


def test_paths_that_are_no_utf8_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with pytest.raises(InputError, match=r"must be UTF-8; got caf\\udce9"):
        run.open_with({**CONFIG, "data": {"path": os.fsdecode(b"caf\xe9")}}, {})
    assert list(tmp_path.iterdir()) == []


def test_columns_of_another_version_are_refused(tmp_path: Path) -> None:
    run = opened(tmp_path)
    (run.path / "trials.csv").write_text("number,colour\n0,red\n")
    with pytest.raises(ResumeError, match="columns"):
        run.read_trials()


def test_json_files_are_whole_or_absent(tmp_path: Path) -> None:
    run = opened(tmp_path)
    assert run.read_json("result.json") is None
    written = run.write_json("result.json", {"schema": 1})
    assert written.items() > {"schema": 1}.items()
    assert run.read_json("result.json") == written == json.loads((run.path / "result.json").read_text())
    with pytest.raises(ValueError, match="JSON"):
        run.write_json("result.json", {"value": float("nan")})
    assert run.read_json("result.json") == written
    (run.path / "result.json").write_text("{")
    with pytest.raises(ResumeError, match="valid JSON"):
        run.read_json("result.json")


def test_json_lines(tmp_path: Path) -> None:
    run = opened(tmp_path)
    assert run.read_lines("heads.jsonl") == []
    run.append_line("heads.jsonl", {"a": 1})
    (run.path / "heads.jsonl").open("a").write('{"a":')
    assert run.read_lines("heads.jsonl") == [{"a": 1}]
    with (run.path / "heads.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(ResumeError, match="line 2"):
        run.read_lines("heads.jsonl")


def test_a_folder_that_is_no_run_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.yaml"):
        RunDir(tmp_path).config()


def test_the_environment_names_every_library() -> None:
    found = environment("cpu", ["nasimb", "search"])
    assert found["versions"]["torch"] != "not installed"
    assert found["command"] == ["nasimb", "search"]
