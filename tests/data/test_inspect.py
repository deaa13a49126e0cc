from __future__ import annotations

import numpy as np
import pytest

from nasimb.data import parse_dataset
from nasimb.data.base import LoadRequest
from nasimb.data.digits import DigitsSpec
from nasimb.data.inspect import inspect_dataset

REQUEST = LoadRequest(size=6)


def test_the_table_counts_every_class_and_split():
    found = inspect_dataset(DigitsSpec(), REQUEST)
    assert list(found.table.columns) == ["class", "train", "val", "test", "source", "group"]
    assert found.table["train"].tolist() == [60] * 10
    assert found.table["val"].isna().all()
    assert found.table["test"].tolist() == [60] * 10
    assert (found.imbalance_factor, found.channels) == (1, 1)
    assert found.groups == {"many": 0, "medium": 10, "few": 0}
    assert found.problems == found.skipped == found.remarks == ()
    assert set(found.fingerprints) == {"train", "test", "source"}


def test_groups_follow_the_count_rule(tmp_path):
    counts = [101, 100, 20, 19]
    labels = np.repeat(np.arange(4), counts)
    images = np.random.default_rng(0).integers(0, 256, (240, 6, 6), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=labels)
    found = inspect_dataset(parse_dataset(str(tmp_path / "a.npz")), REQUEST)
    assert found.table["group"].tolist() == ["many", "medium", "medium", "few"]
    assert found.groups == {"many": 1, "medium": 2, "few": 1}
    assert found.imbalance_factor == pytest.approx(101 / 19)
    assert list(found.table.columns) == ["class", "train", "val", "test", "group"]


def test_all_problems_are_listed_at_once(tmp_path, picture):
    for name in ("train/a/1.png", "train/a/2.png", "train/b/1.png", "test/a/1.png", "test/c/1.png", "val/a/9.png"):
        picture(name)
    (tmp_path / "train/d").mkdir()
    (tmp_path / "train/a/3.png").write_bytes(b"broken")
    (tmp_path / "train/b/notes.txt").write_text("x")
    (tmp_path / "test/a/1.png").write_bytes((tmp_path / "train/a/2.png").read_bytes())
    (tmp_path / "train/b/same.png").write_bytes((tmp_path / "train/a/1.png").read_bytes())
    found = inspect_dataset(parse_dataset(str(tmp_path)), REQUEST)
    starts = [
        "every file among the images must be a readable image; got 2 that are not: ",
        "every class must have an image; got none in class 'd'",
        "every class in test must also stand in train; got class 'c'",
        "every class in train must also stand in test; got class 'b'",
        "train and test must not share an image; got 1 shared",
    ]
    assert len(found.problems) == len(starts)
    for problem, start in zip(found.problems, starts, strict=True):
        assert problem.startswith(start)
    assert len(found.skipped) == 2
    assert found.table["train"].tolist() == [2, 2, 0, 0]
    assert found.table["group"].isna().tolist() == [False, False, True, True]
    assert found.remarks[0].startswith("Repeated training images: 1 (first: ")
    assert found.remarks[1].startswith("The same image in two classes: 1 (first: ")
    assert "(a) and " in found.remarks[1]


def test_single_images_are_a_remark_not_a_problem(tmp_path, picture):
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        picture(name)
    found = inspect_dataset(parse_dataset(str(tmp_path)), REQUEST)
    assert found.problems == ()
    assert found.remarks == ("Fewer than two training images: class 'b'.",)


@pytest.mark.parametrize("value", ["folder:none", "list:none.txt", "arrays:none.npz", "cifar10:none"])
def test_what_cannot_be_read_at_all_is_one_problem(value):
    found = inspect_dataset(parse_dataset(value), REQUEST)
    assert len(found.problems) == 1
    assert "must exist; got none" in found.problems[0]
    assert found.table.empty
    assert list(found.table.columns) == ["class", "train", "val", "test", "group"]
    assert found.imbalance_factor is None


def test_nothing_readable_is_no_crash(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"broken")
    found = inspect_dataset(parse_dataset(str(tmp_path)), REQUEST)
    assert found.table["train"].tolist() == [0, 0]
    assert found.imbalance_factor is None
    assert len(found.problems) == 2
