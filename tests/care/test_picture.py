from __future__ import annotations

import pandas as pd
import pytest

from nasimb.care.picture import LEFT, MOST_NAMED, bars_of


def table(counts: list[int], groups: list[str | None]) -> pd.DataFrame:
    return pd.DataFrame({"class": [f"c{k}" for k in range(len(counts))], "train": counts, "group": groups})


def test_bars_are_as_long_as_their_classes_are_large_largest_first() -> None:
    found = bars_of(table([50, 200, 0, 5], ["medium", "many", None, "few"]))
    assert [bar.name for bar in found.bars] == ["c1", "c0", "c3", "c2"]
    widths = [bar.width for bar in found.bars]
    assert widths == pytest.approx([widths[0], widths[0] / 4, widths[0] / 40, 0])
    assert len({bar.colour for bar in found.bars}) == 4
    assert [text for text, _ in found.groups] == [
        "many-shot: 1 class, 200 images", "medium-shot: 1 class, 50 images", "few-shot: 1 class, 5 images",
    ]  # fmt: skip
    assert [(limit, round(x, 3)) for x, limit in found.marks] == [
        ("20", round(LEFT + widths[0] / 10, 3)), ("100", round(LEFT + widths[0] / 2, 3)),
    ]  # fmt: skip


def test_many_classes_are_thin_and_nameless_but_for_the_hover() -> None:
    found = bars_of(table([3] * (MOST_NAMED + 1), ["few"] * (MOST_NAMED + 1)))
    assert {bar.name for bar in found.bars} == {""}
    assert found.bars[0].hover == "c0: 3"
    assert found.height < 300
    assert found.marks == ()


def test_no_class_holds_no_image_without_a_crash() -> None:
    assert bars_of(table([0, 0], [None, None])).bars[0].width == 0
