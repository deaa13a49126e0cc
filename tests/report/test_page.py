"""The page as text: whole, small, loading nothing, and with nothing from users taken for markup."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from nasimb.report.findings import findings
from nasimb.report.markup import table_values
from nasimb.report.page import page
from nasimb.report.sections import budget, tiles
from nasimb.rundir import RunDir
from report.evil_run import NAMES, NOTE, evil_run

SECTIONS = ("bought", "costs", "classes", "budget", "chosen", "receipt")
MOST_BYTES = 6 * 2**20


class Read(HTMLParser):
    """Elements of a page with their attributes, texts by the element they stand in, and JSON of figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open, data))

    @property
    def figures(self) -> list[dict[str, object]]:
        return [json.loads(text) for tag, text in self.texts if tag == "script" and text.startswith('{"data"')]


@pytest.fixture(scope="module")
def evil(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return page(findings([evil_run(finished_run, tmp_path_factory.mktemp("evil") / "<i>run</i>")]))


def test_it_is_one_file_below_six_megabytes(finished_run: Path) -> None:
    made = page(findings([finished_run]))
    read = Read(made)
    assert len(made.encode()) < MOST_BYTES
    assert [tag for tag, _ in read.elements if tag in ("link", "iframe", "object", "embed", "base")] == []
    for tag, attributes in read.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/png;base64,")), (tag, name, value)
    policies = [one["content"] for tag, one in read.elements if one.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    assert policies[0] is not None
    assert policies[0].startswith("default-src 'none'")


def test_sections_stand_in_their_order(finished_run: Path) -> None:
    read = Read(page(findings([finished_run])))
    identifiers = [one["id"] for tag, one in read.elements if tag == "section"]
    assert identifiers == [f"{key}-0" for key in SECTIONS]
    every = [one["id"] for _, one in read.elements if "id" in one]
    assert len(every) == len(set(every))
    assert len(read.figures) >= 6


def test_names_paths_and_notes_are_text(evil: str) -> None:
    read = Read(evil)
    assert sum(tag == "script" for tag, _ in read.elements) == len(read.figures) + 2
    assert not [tag for tag, _ in read.elements if tag in ("b", "i", "a", "img") and tag != "img"]
    assert all(str(one["src"]).startswith("data:") for tag, one in read.elements if tag == "img")
    assert "onerror" not in {name for _, one in read.elements for name in one}
    texts = [text for _, text in read.texts]
    assert NAMES[0] in texts
    assert any(NOTE in text for text in texts)
    assert "49" not in {text.strip() for text in texts}
    assert "\x1b" not in evil
    assert any("\\u001b[2J" in text for text in texts)


def test_names_in_figures_are_escaped_for_plotly(evil: str) -> None:
    told = json.dumps(Read(evil).figures)
    assert "&lt;script&gt;" in told
    for name in NAMES[:3]:
        assert json.dumps(name)[1:-1] not in told


def test_an_older_run_says_what_it_lacks(finished_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished_run, tmp_path / "run")
    (folder / "classes.json").unlink()
    some = page(findings([folder]))
    assert "older ones: there are no example images" in some
    (folder / "predictions.csv").unlink()
    none = Read(page(findings([folder])))
    assert any("no predictions.csv" in text for _, text in none.texts)
    assert [one["id"] for tag, one in none.elements if tag == "section"] == [f"{key}-0" for key in SECTIONS]


def test_runs_stand_side_by_side_under_names_of_their_own(finished_run: Path) -> None:
    read = Read(page(findings([finished_run, finished_run])))
    headings = [text for tag, text in read.texts if tag == "h2" and text.strip()]
    assert headings[1:] == ["run", "run (2)"]
    assert sum(tag == "section" for tag, _ in read.elements) == 1 + 2 * len(SECTIONS)


def test_runs_on_other_images_are_said_not_to_compare(finished_run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(finished_run, tmp_path / "other")
    result = json.loads((other / "result.json").read_text())
    result["provenance"]["data"]["test"] = "another"
    result.pop("check")
    RunDir(other).write_json("result.json", result)
    assert "do not compare" not in page(findings([finished_run, finished_run]))
    assert "2 different sets of images" in page(findings([finished_run, other]))


def test_a_run_called_as_another_is_told_apart(finished_run: Path, tmp_path: Path) -> None:
    second = shutil.copytree(finished_run, tmp_path / "run (2)")
    names = [one.name for one in findings([finished_run, second, finished_run, finished_run])]
    assert names == ["run", "run (2)", "run (3)", "run (4)"]


def test_numbers_are_written_as_they_are_read() -> None:
    frame = pd.DataFrame({"seconds": [12345.678, 0.25], "images": [123450, None], "all": [7, 8], "word": ["1e5", "x"]})
    rows = table_values(frame)["rows"]
    assert rows == [["12,345.7", "123,450", "7", "1e5"], ["0.25", "", "8", "x"]]


def test_what_the_clock_shows_is_not_what_several_processes_used(finished_run: Path) -> None:
    (one,) = findings([finished_run])
    result = one.run.finished_result()
    result["spend"] |= {"limit": "8gpu-h", "limit_seconds": 28800.0, "spent_seconds": 7300.0, "used_seconds": 28700.0}
    shared = replace(one, run=replace(one.run, result=result))
    spent = tiles(shared)[-1]
    assert (spent.value, spent.detail) == ("7300 s", "99.7% of 8gpu-h")
    assert "left over" not in str(budget(shared).figures[0].plot.data[0].y)
    alone = {**result, "spend": {**result["spend"], "spent_seconds": 28700.0}}
    assert "left over" in str(budget(replace(one, run=replace(one.run, result=alone))).figures[0].plot.data[0].y)
