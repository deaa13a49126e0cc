"""Pictures of short and of long streams: every number inside its panel, however many batches and classes there are."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasimb.adapt import Reason
from nasimb.onsite.charts import LEFT, MOST_POINTS, PANEL, RIGHT, WIDTH, picture_of
from nasimb.onsite.page import svg
from nasimb.onsite.records import Alarm, Record

SVG = "{http://www.w3.org/2000/svg}"


def records_of(batches: int, classes: int, seed: int = 0) -> list[Record]:
    rng = np.random.default_rng(seed)
    return [
        Record(
            batch=n, images=int(rng.integers(1, 65)), shift=float(rng.exponential()), layer="a", noise=0.1,
            adapted=bool(rng.integers(2)), reason=Reason.SHIFTED, weight=0.5, rolled_back=False,
            flips=float(rng.uniform()), mix_K=tuple(rng.dirichlet(np.ones(classes)).tolist()), divergence=0.0,
            dependence=0.0, labelled=n % 2 * 5, accuracy=0.5 if n % 2 else None, few=None, few_images=0,
            alarms={Alarm.DRIFT: "far"} if n % 3 == 0 else {},
        )
        for n in range(batches)
    ]  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(2, 14))
def test_everything_is_inside_its_panel(batches: int, classes: int) -> None:
    picture = picture_of(records_of(batches, classes), tuple(map(str, range(classes))), "a stream")
    for panel in picture.panels:
        for shape in panel.shapes:
            for point in shape.points.split():
                x, y = map(float, point.split(","))
                assert LEFT <= x <= WIDTH - RIGHT + 0.1
                assert panel.top - 0.1 <= y <= panel.top + PANEL + 0.1


def test_the_areas_of_the_classes_add_up() -> None:
    picture = picture_of(records_of(7, 14), tuple(f"class {k}" for k in range(14)), "a stream")
    mix = next(panel for panel in picture.panels if panel.title == "Predicted class mix")
    assert len(mix.shapes) == len(mix.legend) == 10
    assert mix.legend[-1][1] == "5 others"
    last = [tuple(map(float, point.split(","))) for point in mix.shapes[-1].points.split()]
    assert all(abs(y - mix.top) < 0.1 for _, y in last[:8]), "the topmost ends at 100 %"


def test_a_long_stream_stays_a_small_picture() -> None:
    picture = picture_of(records_of(3 * MOST_POINTS + 1, 3), ("a", "b", "c"), "a stream")
    lines = [shape for panel in picture.panels for shape in panel.shapes if shape.kind == "line"]
    assert all(len(shape.points.split()) <= MOST_POINTS for shape in lines)
    assert len(svg(picture)) < 500_000


def test_no_batch_at_all_is_a_picture_too() -> None:
    ElementTree.fromstring(svg(picture_of([], ("a", "b"), "nothing came")))


def test_text_is_never_markup() -> None:
    text = svg(picture_of(records_of(3, 2), ("<b>&", '"]]>'), "<script>"))
    root = ElementTree.fromstring(text)
    assert root.findtext(f"{SVG}title") == "<script>"
    assert {"<b>&", '"]]>'} <= {element.text for element in root.iter(f"{SVG}text")}
    assert not re.search(r"<(script|b)\b", text)


def test_control_characters_are_text_that_xml_allows() -> None:
    text = svg(picture_of(records_of(3, 2), ("\x1b[2J" + 30 * "\x07", "\udcff"), "a\x00b"))
    root = ElementTree.fromstring(text)
    assert root.findtext(f"{SVG}title") == "a\\u0000b"
    names = {element.text for element in root.iter(f"{SVG}text")}
    assert "\\udcff" in names
    (cut,) = (name for name in names if name is not None and name.startswith("\\u001b[2J"))
    assert len(cut) == 24


def test_noise_that_nobody_knows_is_not_drawn() -> None:
    unknown = [replace(record, noise=None) for record in records_of(5, 2)]
    panel = picture_of(unknown, ("a", "b"), "a stream").panels[0]
    assert "noise of so few images" not in {label for _, label, _ in panel.legend}
    assert {shape.kind for shape in panel.shapes} <= {"line", "dot"}
    known = picture_of(records_of(5, 2), ("a", "b"), "a stream").panels[0]
    assert "noise of so few images" in {label for _, label, _ in known.legend}


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.floats(0, 1e4), st.integers(1, 10))
def test_ticks_say_where_they_stand(images: int, shift: float, batches: int) -> None:
    records = [replace(record, images=images, shift=shift) for record in records_of(batches, 2)]
    picture = picture_of(records, ("a", "b"), "a stream")
    for x, label in picture.times:
        assert x == pytest.approx(LEFT + (WIDTH - LEFT - RIGHT) * int(label.replace(",", "")) / (images * batches))
    panel = picture.panels[0]
    most = float(panel.ticks[-1][1])
    assert most >= max(shift, 0.1)
    for y, label in panel.ticks:
        assert y == pytest.approx(panel.top + PANEL * (1 - float(label) / most))


@pytest.mark.parametrize("odd", [math.inf, math.nan])
@pytest.mark.parametrize("batches", [1, 5, 2 * MOST_POINTS])
def test_a_shift_that_is_no_number_is_at_the_upper_edge(odd: float, batches: int) -> None:
    records = records_of(batches, 2)
    records[-1] = replace(records[-1], shift=odd, noise=odd)
    picture = picture_of(records, ("a", "b"), "a stream")
    ElementTree.fromstring(svg(picture))
    panel = picture.panels[0]
    noise, line = (shape.points.split() for shape in panel.shapes[:2])
    # An area goes along its upper side, and back along the lower one.
    for last in (noise[len(noise) // 2 - 1], line[-1]):
        assert float(last.split(",")[1]) == panel.top
    most = max((record.shift for record in records[:-1]), default=1.0)
    assert most < float(panel.ticks[-1][1]) <= 2 * most, "the scale is that of the others"


def test_a_single_batch_is_seen() -> None:
    (record,) = records_of(1, 2)
    for adapted in (True, False):
        panel = picture_of([replace(record, adapted=adapted)], ("a", "b"), "a stream").panels[0]
        assert [shape.kind for shape in panel.shapes].count("dot") == 1
