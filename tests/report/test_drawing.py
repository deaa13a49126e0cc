"""The drawing says what the subnet is: boxes, heights, taps, words."""

from __future__ import annotations

import math
from itertools import pairwise

from nasimb.report.drawing import drawing

ENTRY = {
    "head": "gda",
    "subnet": {
        "resolution": 12, "depths": [1, 3, 2], "widths": [8, 32, 16], "kernel_sizes": [3, 5, 3],
        "norms": ["bn", "nbn", "bn"], "taps": 2,
    },
}  # fmt: skip


def test_boxes_are_blocks_as_tall_as_their_channels() -> None:
    found = drawing(ENTRY, 10)
    assert [len(stage.boxes) for stage in found.stages] == [1, 3, 2]
    heights = [stage.boxes[0].height for stage in found.stages]
    assert heights[0] / heights[1] == math.sqrt(8 / 32)
    assert [stage.tapped for stage in found.stages] == [False, True, True]
    assert found.head_words == ("gda", "48 features", "10 classes")
    assert [norm for norm, _ in found.norms] == ["bn", "nbn"]
    assert found.stages[0].boxes[0].colour == found.stages[2].boxes[0].colour != found.stages[1].boxes[0].colour


def test_nothing_overlaps_and_all_is_inside() -> None:
    found = drawing(ENTRY, None)
    boxes = [box for stage in found.stages for box in stage.boxes]
    for left, right in pairwise(boxes):
        assert left.x + left.width < right.x
    assert boxes[-1].x + boxes[-1].width < found.head_x < found.width
    assert all(box.y > 0 and box.y + box.height < found.height for box in boxes)


def test_the_sentence_tells_those_who_do_not_see_it() -> None:
    assert drawing(ENTRY, 10).sentence == (
        "Images of 12 x 12 pixels; stage 1: 1 x 8 channels, kernel 3, bn; stage 2: 3 x 32 channels, kernel 5, nbn; "
        "stage 3: 2 x 16 channels, kernel 3, bn; the head (gda, 48 features, 10 classes) sees the last 2 stages."
    )
