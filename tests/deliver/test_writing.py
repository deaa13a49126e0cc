"""A table is whole, in UTF-8 wherever it goes, and read back by any reader as it was."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasimb.deliver.writing import rows_into, table_file

ROOT = Path(__file__).parents[2]
CHARACTERS = st.sampled_from("a ,;\"'\r\n\t\0\x0b\x85\u2028é\\=") | st.characters(exclude_categories=["Cs"])
ODD = st.text(CHARACTERS, min_size=1)


@given(st.lists(st.tuples(ODD, ODD), min_size=1, max_size=5))
def test_any_text_is_read_back(rows: list[tuple[str, str]]) -> None:
    out = io.StringIO(newline="")
    rows_into(out).writerows([("path", "class"), *rows])
    text = out.getvalue()
    assert list(csv.reader(io.StringIO(text, newline=""))) == [["path", "class"], *map(list, rows)]
    if "\0" not in text:
        table = pd.read_csv(io.StringIO(text, newline=""), dtype=str, keep_default_na=False, skip_blank_lines=False)
        assert [tuple(row) for row in table.itertuples(index=False)] == rows


def test_rows_end_in_line_feeds(tmp_path: Path) -> None:
    with table_file(tmp_path / "t.csv") as file:
        rows_into(file).writerows([["a", "b\r\n"], ["é", 1]])
    assert (tmp_path / "t.csv").read_bytes() == 'a,"b\r\n"\né,1\n'.encode()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_standard_output_is_utf_8_whatever_the_machine_says(encoding: str) -> None:
    program = (
        "from nasimb.deliver.writing import rows_into, table_file\n"
        "with table_file(None) as file:\n    rows_into(file).writerow(['caf\\udce9', 'Käse 犬'])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert done.stdout == b"caf\xe9," + "Käse 犬\n".encode()


def test_a_terminal_of_another_encoding_shows_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdout", terminal)
    with table_file(None) as file:
        rows_into(file).writerow(["é", "x\x1b"])
    terminal.flush()
    assert terminal.buffer.getvalue() == b"\\xe9,x\\u001b\n"  # type: ignore[attr-defined]
