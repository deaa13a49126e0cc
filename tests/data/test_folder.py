from __future__ import annotations

import os

import pytest

from nasimb.data.base import LoadRequest
from nasimb.data.folder import FolderSpec
from nasimb.errors import DataError

REQUEST = LoadRequest(size=5)


def load(path, **changes):
    return FolderSpec(path=path).load(LoadRequest(size=5, **changes))


def names(image_set, root):
    return [os.path.relpath(image_set.name(position), root) for position in range(len(image_set))]


def test_a_folder_per_class(tmp_path, picture):
    for name in ("dog/1.png", "cat/2.png", "cat/deep/er/1.png", "dog/0.jpg"):
        picture(name)
    parts = load(tmp_path)
    assert parts.train.classes == ("cat", "dog")
    assert names(parts.train, tmp_path) == ["cat/2.png", "cat/deep/er/1.png", "dog/0.jpg", "dog/1.png"]
    assert parts.train.labels_N.tolist() == [0, 0, 1, 1]
    assert parts.test is None
    assert parts.val is None


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_splits_above_the_classes(tmp_path, picture, val):
    for name in ("train/10/a.png", "train/9/b.png", f"{val}/9/c.png", "test/10/d.png", "test/9/e.png"):
        picture(name)
    parts = load(tmp_path)
    # Folders that are all numbers sort as numbers.
    assert parts.train.classes == ("9", "10")
    assert names(parts.train, tmp_path) == ["train/10/a.png", "train/9/b.png"]
    assert parts.train.labels_N.tolist() == [1, 0]
    assert names(parts.val, tmp_path) == [f"{val}/9/c.png"]
    assert [parts.test.classes[k] for k in parts.test.labels_N] == ["10", "9"]


def test_classes_may_be_called_train(tmp_path, picture):
    for name in ("train/1.png", "bus/1.png", "test/1.png"):
        picture(name)
    assert load(tmp_path).train.classes == ("bus", "test", "train")


def test_what_file_managers_leave_behind_is_ignored(tmp_path, picture):
    for name in ("a/1.png", "b/1.png"):
        picture(name)
    for name in ("a/.DS_Store", "b/Thumbs.db", "a/desktop.ini", "labels.csv", ".hidden/x.txt", "__MACOSX/a/._1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    parts = load(tmp_path)
    assert len(parts.train) == 2
    assert parts.train.classes == ("a", "b")


def test_links_are_followed_but_not_in_circles(tmp_path, picture):
    for name in ("data/a/1.png", "data/b/1.png", "elsewhere/2.png"):
        picture(name)
    (tmp_path / "data/b/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/b/round").symlink_to(tmp_path / "data/b")
    assert load(tmp_path / "data").train.class_counts_K.tolist() == [1, 2]


def test_order_and_fingerprint_do_not_depend_on_where_the_folder_lies(tmp_path, picture):
    for name in ("x/a/1.png", "x/b/1.png", "x/b/2.png"):
        picture(name)
    before = load(tmp_path / "x").train.fingerprint()
    (tmp_path / "x").rename(tmp_path / "y")
    assert load(tmp_path / "y").train.fingerprint() == before


def test_bad_files_stop_or_are_left_out(tmp_path, picture):
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        picture(name)
    (tmp_path / "a/2.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"every image must be readable; got .*a/2\.png \(not an image"):
        load(tmp_path)
    (tmp_path / "a/2.png").rename(tmp_path / "a/notes.txt")
    with pytest.raises(DataError, match=r"every file among the images must be an image; got .*a/notes\.txt"):
        load(tmp_path)
    parts = load(tmp_path, skip_bad_images=True)
    assert parts.train.class_counts_K.tolist() == [1, 1]
    assert parts.skipped == (f"{tmp_path}/a/notes.txt (not an image in a known format)",)


def test_leaving_out_all_images_of_a_class_is_an_empty_class(tmp_path, picture):
    picture("a/1.png")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/1.png").write_bytes(b"broken")
    with pytest.raises(DataError, match="every class must have an image; got none in class 'b'"):
        load(tmp_path, skip_bad_images=True)


@pytest.mark.parametrize(
    ("files", "folders", "message"),
    [
        ([], ["a", "b"], "must hold images; got none in"),
        (["a/1.png"], ["b", "c"], "every class must have an image; got none in class 'b' and 1 more"),
        (["a/1.png"], [], "at least two classes; got only class 'a'"),
        (["1.png", "2.png"], [], "one folder per class; got 2 files and no folder"),
        ([], [], "one folder per class; got nothing in"),
        (
            ["train/a/1.png", "train/b/1.png", "extra/a/2.png"],
            [],
            "beside train, only val and test may stand; got .*extra",
        ),
        (["train/a/1.png", "val/a/1.png", "valid/a/2.png"], [], "one validation folder; got val and valid"),
        (["test/a/1.png", "val/a/1.png"], [], "must hold training images; got only test"),
        (
            ["train/a/1.png", "train/b/2.png", "test/3.png"],
            [],
            "one folder per class; got 1 files and no folder in .*test",
        ),
        (["train/a/1.png", "train/b/2.png", "test/a/3.png"], [], "train must also stand in test; got class 'b'"),
        (
            ["train/a/1.png", "train/b/2.png", "test/a/3.png", "test/b/3.png", "test/c/3.png"],
            [],
            "test must also stand in train; got class 'c'",
        ),
        (["train/a/1.png", "train/b/2.png", "val/c/3.png"], [], "every class in val must also stand in train"),
    ],
)
def test_every_fault_has_a_sentence(tmp_path, picture, files, folders, message):
    for name in files:
        picture(f"data/{name}")
    for name in folders:
        (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "data").mkdir(exist_ok=True)
    with pytest.raises(DataError, match=message):
        load(tmp_path / "data")


def test_a_missing_folder_has_a_sentence(tmp_path, picture):
    with pytest.raises(DataError, match=r"data folder must exist; got .*none\. Check the path"):
        load(tmp_path / "none")
    with pytest.raises(DataError, match="got the file"):
        load(picture("a.png"))


def test_a_class_whose_name_is_no_utf8_is_refused_before_images_are_read(tmp_path, picture):
    picture("cat/1.png")
    picture(os.fsdecode(b"\xe9t\xe9/1.png")).write_bytes(b"broken")
    with pytest.raises(DataError, match=r"names of classes must be UTF-8; got \\udce9t\\udce9\. Rename"):
        load(tmp_path)
