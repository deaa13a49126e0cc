"""`nasimb report --html` and `--tables` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

from answers import Command


def test_a_page_and_its_numbers(command: Command, finished_run: Path) -> None:
    found = command("report", finished_run, finished_run, "--html", "page.html", "--tables", "numbers")
    assert found.code == 0, found.err
    assert found.err == ""
    assert found.out.splitlines()[0] == "page: page.html"
    assert found.out.splitlines()[1].startswith("tables: ")
    assert Path("page.html").read_text().startswith("<!doctype html>")
    assert [one["name"] for one in json.loads(Path("numbers/report.json").read_text())["runs"]] == ["run", "run (2)"]


def test_the_same_run_makes_the_same_page(command: Command, finished_run: Path) -> None:
    for name in ("one.html", "two.html"):
        command("report", finished_run, "--html", name)
    assert Path("one.html").read_bytes() == Path("two.html").read_bytes()


def test_what_cannot_be_written_is_said_before_anything_is_read(command: Command, finished_run: Path) -> None:
    Path("file").touch()
    before = set(Path().iterdir())
    assert "must have a folder" in command("report", finished_run, "--html", "none/page.html").error
    assert "which is a file" in command("report", finished_run, "--tables", "file").error
    assert set(Path().iterdir()) == before


def test_a_form_of_print_and_files_are_two_commands(command: Command, finished_run: Path) -> None:
    answer = command("report", finished_run, "--format", "json", "--html", "page.html")
    assert answer.code == 2
    assert "two commands" in answer.error
    assert not Path("page.html").exists()
