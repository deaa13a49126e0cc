from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from care.pairs import digits, inverted, pixels
from nasimb.care.features import SIMPLE
from nasimb.care.look import look_closer
from nasimb.data import parse_dataset
from nasimb.data.base import ImageSet, LoadRequest
from nasimb.data.digits import DigitsSpec
from nasimb.data.inspect import inspect_dataset

NEEDS_CLEANLAB = "needs cleanlab: pip install nasimb[inspect]"
DIGITS = DigitsSpec(digits=(0, 1, 2, 3))


@pytest.fixture
def photographs(tmp_path: Path) -> str:
    """Inverted digits without a source of their own."""
    train = inverted(digits(0, 1, 2, 3).train)
    file = tmp_path / "inverted.npz"
    np.savez(file, train_images=pixels(train)[:, 0].numpy(), train_labels=train.labels_N.numpy())
    return str(file)


def test_all_is_looked_for_where_the_data_have_a_source() -> None:
    pytest.importorskip("cleanlab", reason=NEEDS_CLEANLAB)
    found = look_closer(DIGITS)
    assert found.notes == ()
    assert found.gap is not None
    assert found.near is not None
    assert found.labels is not None
    assert len(found.lines()) >= 3
    plain = inspect_dataset(DIGITS, LoadRequest(size=32))
    assert found.inspection.table.equals(plain.table)
    assert found.inspection.fingerprints == plain.fingerprints


def test_values_are_json() -> None:
    pytest.importorskip("cleanlab", reason=NEEDS_CLEANLAB)
    values = json.loads(json.dumps(look_closer(DIGITS).values()))
    assert values["gap"]["head_suffices"] is True
    assert set(values["near_duplicates"]) == {"pairs", "alike", "plain", "left_out"}
    assert all(row["suspected"] for row in values["suspected_labels"])


def test_the_source_named_is_the_one_compared_with(photographs: str) -> None:
    target = parse_dataset(photographs)
    alone = look_closer(target, labels=False)
    assert alone.gap is None
    assert "--source" in alone.notes[0]
    far = look_closer(target, source=DIGITS, labels=False)
    assert far.gap is not None
    assert not far.gap.head_suffices
    near = look_closer(target, source=target, labels=False)
    assert near.gap is not None
    assert near.gap.head_suffices


def test_a_super_network_lends_its_features(finished_run: Path) -> None:
    found = look_closer(DIGITS, supernet=finished_run / "supernet", labels=False)
    assert found.gap is not None
    assert "largest subnet" in found.gap.features == found.features
    assert found.gap.head_suffices


def written(images: ImageSet, folder: Path) -> str:
    """The images as the training images of an .npz file."""
    file = folder / "written.npz"
    np.savez(file, train_images=pixels(images)[:, 0].numpy(), train_labels=images.labels_N.numpy())
    return str(file)


def test_labels_that_a_super_network_was_trained_on_are_judged_without_it(finished_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("cleanlab", reason=NEEDS_CLEANLAB)
    known = DigitsSpec(digits=(0, 1, 2, 3, 4), source_per_class=12, target_per_class=30, test_per_class=10)
    seen = known.read(LoadRequest(size=8)).source  # as the super-network takes them
    assert seen is not None
    target = written(seen, tmp_path)
    through = look_closer(parse_dataset(target), supernet=finished_run / "supernet")
    plain = look_closer(parse_dataset(target))
    assert through.labels is not None
    assert plain.labels is not None
    assert through.labels.features == plain.labels.features == SIMPLE
    assert through.labels.ranked.equals(plain.labels.ranked)
    assert "The super-network was trained on 60 of the 60 training images" in through.notes[0]
    assert through.values()["label_judge"]["features"] == SIMPLE
    # Its own source says how far that is; another one does not, and the images it knows are no target.
    own = look_closer(known, supernet=finished_run / "supernet")
    assert own.notes == ()
    assert own.labels is not None
    assert "largest subnet" in own.labels.features
    other = look_closer(parse_dataset(target), source=DigitsSpec(digits=(5, 6)), supernet=finished_run / "supernet")
    assert "was trained on 0 of the 108 source images" in other.notes[1]
    assert "60 of the 60 training images themselves" in other.notes[2]


def test_without_cleanlab_the_rest_is_done_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    found = look_closer(DIGITS)
    assert found.labels is None
    assert found.near is not None
    assert any("nasimb[inspect]" in note for note in found.notes)


def test_data_that_cannot_be_read_are_a_problem_and_no_crash(tmp_path: Path) -> None:
    found = look_closer(parse_dataset(f"folder:{tmp_path / 'none'}"))
    assert "must exist" in found.inspection.problems[0]
    assert found.near is found.gap is found.labels is None
    for name in "ab":
        (tmp_path / "broken" / name).mkdir(parents=True)
        (tmp_path / "broken" / name / "1.png").write_bytes(b"broken")
    empty = look_closer(parse_dataset(str(tmp_path / "broken")))
    assert len(empty.inspection.skipped) == 2
    assert "nothing to compare" in empty.lines()[-1]


def test_one_class_is_no_crash(tmp_path: Path) -> None:
    pytest.importorskip("cleanlab", reason=NEEDS_CLEANLAB)
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "one.npz", train_images=images, train_labels=np.zeros(5, dtype=int))
    found = look_closer(parse_dataset(str(tmp_path / "one.npz")), source=DIGITS)
    assert found.labels is None
    assert any("two classes" in note for note in found.notes)
    assert found.inspection.problems
