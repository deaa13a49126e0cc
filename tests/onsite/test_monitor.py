"""What `nasimb monitor` tells, to the word; and its picture, however the watch ends."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from test_charts import records_of
from test_records import site_of

from nasimb.onsite.monitor import closing_lines, drawn_in_the_end, line, write_lines
from nasimb.onsite.records import Alarm, Record

CLASSES = ("a", "b")


def plain(**values: object) -> Record:
    """A batch of one image, with nothing known but what is given."""
    (record,) = records_of(1, 2)
    usual = {"images": 1, "adapted": False, "alarms": {}, "labelled": 0, "accuracy": None}
    return replace(record, **{**usual, **values})  # type: ignore[arg-type]


def test_one_is_not_many() -> None:
    assert "   1 image  " in line(plain())
    assert "   2 images " in line(plain(images=2))
    assert closing_lines([plain()], site_of([-1]), ["Made up."]) == [
        "1 image in 1 batch; 0% adapted to", "no alarm", "note: Made up.",
    ]  # fmt: skip
    alarmed = plain(alarms={Alarm.DRIFT: "far"}, labelled=1, accuracy=1.0, adapted=True)
    assert closing_lines([alarmed, plain(images=3)], site_of([-1] * 9), ()) == [
        "4 of 9 images in 2 batches; 25% adapted to",
        "batches with an alarm: drift 1",
        "accuracy 100.0% of 1 labelled image",
    ]


def test_lines_are_exact_json_that_no_terminal_obeys() -> None:
    names = ("\x1b[31mred\n\x9b", "caf\xe9 \udcff")
    written: list[str] = []
    records = records_of(3, 2)
    assert list(write_lines(records, names, written.append)) == records
    for text in written:
        assert text.isprintable()
        assert "caf\xe9" in text
        text.encode()
        assert tuple(json.loads(text)["class_mix"]) == names


@pytest.mark.parametrize("error", [KeyboardInterrupt, BrokenPipeError, None])
def test_a_picture_is_drawn_however_it_ends(tmp_path: Path, error: type[BaseException] | None) -> None:
    file, records = tmp_path / "out.svg", list[Record]()

    def watch() -> None:
        with drawn_in_the_end(records, CLASSES, "a watch", file):
            records.extend(records_of(3, 2))
            if error is not None:
                raise error

    if error is None:
        watch()
    else:
        with pytest.raises(error):
            watch()
    assert ElementTree.parse(file).getroot().tag.endswith("svg")
    assert [path.name for path in tmp_path.iterdir()] == ["out.svg"]


def test_without_a_batch_an_older_picture_stays(tmp_path: Path) -> None:
    file = tmp_path / "out.svg"
    file.write_text("older")
    with drawn_in_the_end([], CLASSES, "a watch", file):
        pass
    with drawn_in_the_end(records_of(3, 2), CLASSES, "a watch", None):
        pass
    assert file.read_text() == "older"
