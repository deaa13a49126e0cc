"""The numbers as files: the same in every form, and those of the result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from nasimb.errors import InputError
from nasimb.report.files import check_folder, write_tables
from nasimb.report.findings import findings, number_tables
from report.evil_run import NAMES, evil_run


def test_every_table_in_every_form(finished_run: Path, tmp_path: Path) -> None:
    found = findings([finished_run, finished_run])
    written = write_tables(found, tmp_path / "tables")
    tables = number_tables(found)
    assert {file.stem for file in written} == {*tables, "report"}
    told = json.loads((tmp_path / "tables" / "report.json").read_text())
    for name, table in tables.items():
        assert set(table["run"]) == {"run", "run (2)"}
        parquet = pd.read_parquet(tmp_path / "tables" / f"{name}.parquet")
        pd.testing.assert_frame_equal(parquet, table, check_dtype=False)
        text = pd.read_csv(tmp_path / "tables" / f"{name}.csv")
        assert text.shape == table.shape
        assert len(told["tables"][name]) == len(table)
        lines = (tmp_path / "tables" / f"{name}.md").read_text().splitlines()
        assert len([line for line in lines if line.startswith("|")]) == len(table) + 2


def test_numbers_are_those_of_the_result(finished_run: Path) -> None:
    result = json.loads((finished_run / "result.json").read_text())
    tables = number_tables(findings([finished_run]))
    models = tables["models"].set_index("model")
    assert models.loc["winner", "balanced_accuracy"] == result["winner"]["test"]["balanced_accuracy"]
    assert tables["spend"]["seconds"].tolist() == list(result["spend"]["by_phase"].values())
    assert tables["classes"]["training_images"].is_monotonic_decreasing
    assert (tables["candidates"]["state"] == "finished").sum() == result["trials"]["finished"]
    assert tables["confusion"]["images"].sum() == tables["classes"]["test_images"].sum()


def test_names_begin_no_column_and_move_no_screen(finished_run: Path, tmp_path: Path) -> None:
    write_tables(findings([evil_run(finished_run, tmp_path / "run")]), tmp_path / "tables")
    text = (tmp_path / "tables" / "classes.md").read_text()
    assert "\x1b" not in text
    assert "<script>" not in text.replace("\\<", "")
    assert NAMES[0] in set(pd.read_csv(tmp_path / "tables" / "classes.csv")["class"])
    assert NAMES[3] in set(pd.read_parquet(tmp_path / "tables" / "classes.parquet")["class"]), "data stay as they are"


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "none" / "below"):
        with pytest.raises(InputError):
            check_folder(folder)


def test_tables_of_an_earlier_report_do_not_stay_among_those_of_another(finished_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    write_tables(findings([finished_run]), folder)
    (folder / "notes.csv").write_text("mine")
    older = shutil.copytree(finished_run, tmp_path / "older")
    (older / "predictions.csv").unlink()
    written = write_tables(findings([older]), folder)
    assert "classes" not in {file.stem for file in written}
    assert set(folder.iterdir()) == {*written, folder / "notes.csv"}


def test_what_else_is_called_a_report_removes_nothing(finished_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    (tmp_path / "outside.csv").write_text("mine")
    for text in ("[]", "no json", '{"tables": {"../outside": []}}'):
        (folder / "report.json").write_text(text)
        write_tables(findings([finished_run]), folder)
    assert (tmp_path / "outside.csv").exists()
