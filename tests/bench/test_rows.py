"""Rows that survive a kill and are not mixed with those of other conditions."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from nasimb.bench.rows import Rows
from nasimb.errors import InputError


def test_rows_are_on_disk_at_once_and_are_not_measured_again(tmp_path: Path) -> None:
    file = tmp_path / "made" / "rows.csv"
    rows = Rows(file, ("draw", "number"), "abc")
    rows.append({"draw": 0, "number": 1, "score": 0.1 + 0.2, "note": 'a, "b"\nc'})
    rows.append({"draw": 0, "number": 2, "score": None, "note": ""})
    again = Rows(file, ("draw", "number"), "abc")
    assert len(again) == 2
    assert again.has(draw=0, number=1)
    assert not again.has(draw=1, number=1)
    score, missing = again.numbers("score")
    assert score == 0.1 + 0.2
    assert math.isnan(missing)
    assert again.texts("note", number=1) == ['a, "b" c']
    assert again.numbers("score", number=1) == [0.1 + 0.2]


def test_a_torn_last_row_is_measured_again(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    rows = Rows(file, ("number",), "abc")
    rows.append({"number": 0, "score": 1.0})
    whole = file.read_bytes()
    rows.append({"number": 1, "score": 2.0})
    file.write_bytes(file.read_bytes()[:-3])
    again = Rows(file, ("number",), "abc")
    assert not again.has(number=1)
    assert file.read_bytes() == whole
    again.append({"number": 1, "score": 2.0})
    assert Rows(file, ("number",), "abc").numbers("score") == [1.0, 2.0]


def test_rows_of_other_conditions_or_columns_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    rows = Rows(file, ("number",), "abc")
    rows.append({"number": 0, "score": 1.0})
    with pytest.raises(InputError, match="xyz after abc"):
        Rows(file, ("number",), "xyz")
    with pytest.raises(InputError, match="one set of columns"):
        rows.append({"number": 1, "other": 1.0})
    with pytest.raises(InputError, match="rows of this benchmark"):
        Rows(file, ("draw",), "abc")
    file.write_text("something else\n")
    with pytest.raises(InputError, match="rows of this benchmark"):
        Rows(file, ("number",), "abc")


def test_without_a_file_rows_stay_in_memory() -> None:
    rows = Rows(None, ("number",), "abc")
    rows.append({"number": 0, "score": 1.0})
    assert rows.has(number=0)


def test_only_what_differs_in_the_conditions_is_said(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    Rows(file, ("number",), "images=ab; clock=wall clock; threads=1").append({"number": 0})
    with pytest.raises(InputError, match="got clock=processor time after clock=wall clock"):
        Rows(file, ("number",), "images=ab; clock=processor time; threads=1")
