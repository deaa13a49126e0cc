"""`nasimb data inspect` with the options of the closer look."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from answers import SEARCH, Command

from nasimb.data.digits import FILE


def test_a_page_is_written_and_the_findings_are_said(command: Command, tmp_path: Path) -> None:
    found = command("data", "inspect", "digits:0-3", "--html", "page.html")
    assert found.code == 0, found.err
    for told in ("note: Target and source look alike", "note: Near-duplicates: ", "No problem found"):
        assert told in found.out
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "nasimb data inspect digits:0-3" in text
    assert len(text) < 500_000


def test_a_source_alone_is_compared_with(command: Command, tmp_path: Path) -> None:
    with np.load(FILE) as digits:
        images_NHW = (16 - digits["images_NSS"]) * 15
        np.savez(tmp_path / "inverted.npz", train_images=images_NHW.astype(np.uint8), train_labels=digits["digits_N"])
    found = command("data", "inspect", "inverted.npz", "--source", "digits", "--json")
    assert found.code == 0, found.err
    values = json.loads(found.out)
    assert values["gap"]["head_suffices"] is False
    assert "not likely to suffice" in values["gap"]["sentence"]


def test_a_super_network_alone_is_looked_through(command: Command, finished_run: Path) -> None:
    found = command("data", "inspect", "digits:0-3", "--supernet", finished_run / "supernet", "--json")
    assert found.code == 0, found.err
    assert "largest subnet" in json.loads(found.out)["features"]
    nowhere = command("data", "inspect", "digits", "--supernet", "nowhere")
    assert nowhere.code == 2
    assert "nowhere" in nowhere.error


def test_where_the_page_cannot_be_written_nothing_is_read(command: Command) -> None:
    found = command("data", "inspect", "digits", "--html", "nowhere/page.html")
    assert found.code == 2
    assert "nowhere" in found.error
    assert found.out == ""


def test_without_the_options_no_closer_look_is_taken(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nasimb.care.look", None)  # it cannot be imported
    values = json.loads(command("data", "inspect", "digits:0-1", "--json").out)
    assert "gap" not in values


def test_names_that_are_no_utf8_go_from_the_first_look_to_the_report(
    command: Command, tmp_path: Path, write_digits: Callable[..., Path]
) -> None:
    photos = write_digits(tmp_path / "photos", {"a": (0, 30), "car\rret": (1, 20)})
    for file in list(photos.rglob("*.png")):
        file.rename(file.with_name(os.fsdecode(b"\xe9" + os.fsencode(file.name))))
    found = command("data", "inspect", photos, "--html", "page.html")
    assert found.code == 0, found.err
    assert "car\\u000dret" in (tmp_path / "page.html").read_text(encoding="utf-8")
    searched = command(*SEARCH, "--data", f"folder:{photos}", "--run", "run")
    assert searched.code == 0, searched.err
    assert rb"/a/\udce9" in (tmp_path / "run" / "predictions.csv").read_bytes()
    reported = command("report", "run", "--html", "report.html")
    assert reported.code == 0, reported.err
    (photos / "a").rename(photos / os.fsdecode(b"\xe9"))
    for words in (("data", "inspect", photos, "--html", "page.html"), (*SEARCH, "--data", f"folder:{photos}")):
        refused = command(*words)
        assert refused.code == 2
        assert "names of classes must be UTF-8" in refused.out + refused.err
