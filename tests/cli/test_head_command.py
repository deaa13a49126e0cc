"""`nasimb head` as a user meets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from answers import Command


def test_names_of_files_are_data(
    command: Command, finished_run: Path, write_digits: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nasimb.retrain.PENALTIES", (0.1,))
    photos = write_digits(Path("photos"), {"5": (5, 8), "6": (6, 8)})
    (photos / "5" / "a\x1b[2Jb.png").write_bytes(b"no image")
    words = ("head", "--from", finished_run / "best", "--data", "folder:photos", "--skip-bad-images", "--loss", "ridge")
    found = command(*words, "--out", "plain\x1b")
    assert found.code == 0, found.err
    assert "a\\u001b[2Jb.png" in found.out
    assert "\x1b" not in found.out
    told = command(*words, "--out", "new", "--json")
    assert "\x1b" not in told.out
    assert any("a\x1b[2Jb.png" in note for note in json.loads(told.out)["notes"])
