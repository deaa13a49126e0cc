"""A finished run whose class names, paths and notes would be obeyed by a page that took them for markup."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

from nasimb.rundir import RunDir

NAMES = (
    '<script>document.title="owned"</script>',
    '<b>bold</b> & "quoted" %{x}',
    '</script><img src="https://example.org/x.png" onerror="document.title=1">',
    "\x1b[2J=cmd|' /C calc'!A0",
    '<a href="https://example.org">{{ 7 * 7 }}</a>',
)
NOTE = '<img src="https://example.org/note.png"> <!-- and --> </pre></script>'


def evil_run(finished: Path, folder: Path) -> Path:
    """A copy of the finished run, with the five classes renamed everywhere, one after the other."""
    shutil.copytree(finished, folder)
    run = RunDir(folder)
    classes = run.read_json("classes.json")
    assert classes is not None
    names = dict(zip(classes["classes"], NAMES, strict=True))
    classes["classes"] = list(NAMES)
    for one in classes["worst"]:
        for image in one["images"]:
            image["image"] = NOTE
    run.write_json("classes.json", _unsealed(classes))
    with (folder / "predictions.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    with (folder / "predictions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *([row[0], *(names.get(cell, cell) for cell in row[1:])] for row in rows)])
    result = run.read_json("result.json")
    assert result is not None
    result["notes"] = [NOTE]
    result["provenance"]["command"] = ["nasimb", "search", "--data", NOTE]
    run.write_json("result.json", _unsealed(result))
    return folder


def _unsealed(values: dict[str, object]) -> dict[str, object]:
    found: dict[str, object] = json.loads(json.dumps(values))
    found.pop("check")
    return found
