"""Whatever stands in a cell is shown as it is."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from rich.console import Console

from nasimb.report import Run
from nasimb.report.show import closing_lines, markdown_table, markdown_text, picture, print_report, terminal_table

STRANGE = ["[red]cat[/red]", "a|b", "<b>x</b>", "*star*", "_under_", "back\\slash", "two\nlines", "[link](url)", "`c`"]


def on_terminal(frame: pd.DataFrame, title: str = "title") -> str:
    out = io.StringIO()
    Console(file=out, width=200, force_terminal=False).print(terminal_table(frame, title=title))
    return out.getvalue()


def test_markup_on_a_terminal_is_text() -> None:
    shown = on_terminal(pd.DataFrame({"[bold]class": [*STRANGE]}), title="[blink]title")
    for text in STRANGE:
        for line in text.splitlines():
            assert line in shown
    assert "[bold]class" in shown
    assert "[blink]title" in shown


def test_no_name_reaches_the_terminal_as_a_command() -> None:
    shown = on_terminal(pd.DataFrame({"a\x1b[2J": ["b\x07", "c\nd"]}), title="e\x9b")
    assert not {"\x1b", "\x07", "\x9b"} & set(shown)
    assert {"a\\u001b[2J", "b\\u0007", "c\\u000ad", "e\\u009b"} <= set(shown.split())


def test_missing_cells_are_empty_on_a_terminal() -> None:
    counts = pd.array([3, None], dtype="Int64")
    shown = on_terminal(
        pd.DataFrame({"class": ["a", "b"], "test": counts, "score": [0.5, float("nan")], "x": [None, 1]})
    )
    assert "NA" not in shown
    assert "nan" not in shown
    assert "None" not in shown


def test_markdown_keeps_one_row_a_line_and_its_columns() -> None:
    lines = markdown_table(pd.DataFrame({"a|b": STRANGE, "n": range(len(STRANGE))}), title="T").splitlines()
    assert lines[0] == "### T"
    rows = lines[2:]
    assert len(rows) == 2 + len(STRANGE)
    for row in rows:
        assert row.replace("\\\\", "").replace("\\|", "").count("|") == 3


@pytest.mark.parametrize("text", STRANGE)
def test_markdown_text_reads_as_it_was(text: str) -> None:
    escaped = markdown_text(text)
    unescaped, position = "", 0
    while position < len(escaped):  # as CommonMark does: a backslash before punctuation goes, the next mark is text
        position += escaped[position] == "\\"
        unescaped += escaped[position]
        position += 1
    assert unescaped == text.replace("\n", " ")


def test_markdown_of_nothing() -> None:
    assert "Nothing to show" in markdown_table(pd.DataFrame(), title="Pareto")
    assert markdown_text(None) == markdown_text(float("nan")) == ""


def test_the_closing_lines_lead_to_the_model_and_its_origin(finished_run: Path) -> None:
    run = Run.read(finished_run)
    lines = closing_lines(run, finished_run)
    text = "\n".join(lines)
    assert lines[-1] == f'model: nasimb.load("{finished_run / "best"}").predict(images)'
    assert run.result is not None
    for digest in run.result["provenance"]["data"].values():
        assert digest in text
    for note in run.result["notes"]:
        assert f"note: {note}" in lines
    assert f"{run.result['trials']['finished']} scored" in text


def test_the_closing_lines_say_what_screening_saved(finished_run: Path) -> None:
    run = Run.read(finished_run)
    assert run.result is not None
    assert not any(line.startswith("screening") for line in closing_lines(run, finished_run))
    receipt = {"images": 400, "of_images": 20000, "eta": 4, "screened": 1200, "promoted": 310, "saved_seconds": 77.25}
    screened = replace(run, result={**run.result, "screening": receipt})
    line = "screening: 1,200 candidates on 400 of 20,000 images, 310 promoted to all of them; that saved about 77.2 s"
    assert line in closing_lines(screened, finished_run)


def test_a_markdown_report_is_nothing_but_markdown(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_report([finished_run], "markdown")
    out, err = capsys.readouterr()
    assert err == ""
    for line in out.splitlines():
        assert line == "" or line[:2] in ("##", "| ", "|:", "|-", "- "), line


def test_the_picture_is_whole_and_loads_nothing(finished_run: Path) -> None:
    svg = picture([Run.read(finished_run)])
    root = ElementTree.fromstring(svg)
    text = "".join("".join(root.itertext()).split())
    for title in ("Winnerandbaselines", "Paretoset", "Spend"):
        assert title in text
    assert "url(http" not in svg
    assert "@font-face" not in svg
