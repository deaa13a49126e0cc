from __future__ import annotations

import pytest

from nasimb.data.base import LoadRequest
from nasimb.data.file_list import ListSpec
from nasimb.errors import DataError

REQUEST = LoadRequest(size=5)


@pytest.fixture
def write(tmp_path, picture):
    for name in ("a.png", "b.png", "c.png", "sub folder/d e.png", "x,y.png"):
        picture(name)

    def save(text, name="list.txt", **fields):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return ListSpec(path=tmp_path / name, **fields)

    return save


def test_pairs_are_split_from_the_right(write, tmp_path):
    parts = write("a.png 10\nsub folder/d e.png\t9\r\n\n  b.png   10  \n").load(REQUEST)
    assert parts.train.classes == ("9", "10")
    assert parts.train.labels_N.tolist() == [1, 0, 1]
    assert parts.train.name(1) == str(tmp_path / "sub folder/d e.png")
    assert parts.test is None


def test_text_labels_sort_as_text(write):
    assert write("a.png tree\nb.png 10\nc.png 9").load(REQUEST).train.classes == ("10", "9", "tree")


def test_csv_with_splits(write):
    rows = [
        "split,Label,path",
        "train,cat,a.png",
        ',dog,"x,y.png"',
        "test,dog,b.png",
        "TEST,cat,c.png",
        "val,cat,sub folder/d e.png",
    ]
    text = "\ufeff" + "\n".join(rows)
    parts = write(text, "list.csv").load(REQUEST)
    assert parts.train.classes == ("cat", "dog")
    assert parts.train.labels_N.tolist() == [0, 1]
    assert parts.test.labels_N.tolist() == [1, 0]
    assert len(parts.val) == 1


def test_csv_is_recognised_by_its_header(write):
    assert write("path,label\na.png,0\nb.png,1\n").load(REQUEST).train.labels_N.tolist() == [0, 1]


def test_second_lists(write, tmp_path):
    for name, text in (("test.txt", "c.png 1\nx,y.png 0"), ("val.csv", "path,label\nsub folder/d e.png,1\n")):
        (tmp_path / name).write_text(text)
    spec = write("a.png 0\nb.png 1", test=tmp_path / "test.txt", val=tmp_path / "val.csv")
    parts = spec.load(REQUEST)
    assert (len(parts.train), parts.test.labels_N.tolist(), parts.val.labels_N.tolist()) == (2, [1, 0], [1])


def test_paths_start_from_the_list_or_the_root(write, tmp_path):
    (tmp_path / "lists").mkdir()
    spec = write("a.png 0\nb.png 1", "lists/train.txt")
    with pytest.raises(
        DataError, match=r"every image must be readable; got .*lists/a\.png \(no such file\) and 1 more"
    ):
        spec.load(REQUEST)
    parts = ListSpec(path=spec.path, root=tmp_path).load(REQUEST)
    absolute = write(f"{tmp_path}/a.png 0\n{tmp_path}/b.png 1", "lists/absolute.txt").load(REQUEST)
    assert parts.train.fingerprint() == absolute.train.fingerprint()


def test_missing_images_can_be_left_out(write, tmp_path):
    parts = write("a.png 0\nnone.png 0\nb.png 1").load(LoadRequest(size=5, skip_bad_images=True))
    assert parts.train.labels_N.tolist() == [0, 1]
    assert parts.skipped == (f"{tmp_path}/none.png (no such file)",)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("a.png 0\nb.png\nc.png", "list.txt", r"must read `path label`; got .*list\.txt line 2: 'b\.png' and 1 more"),
        ("", "list.txt", "must name images; got no line"),
        ("path,label\n", "list.csv", "must name images; got no line"),
        ("a.png 0\nb.png -1\nc.png -1", "list.txt", r"0 or above; got .* line 2: -1 and 1 more"),
        ("a.png,0\nb.png,1", "list.csv", r"columns path and label; got .*header a\.png,0"),
        ("path,class\na.png,1", "list.txt", "columns path and label"),
        ("path,label\na.png,0\nb.png\nx,y.png,1", "l.csv", r"known split; got .*l\.csv line 3: 'b\.png' and 1 more"),
        ("path,label,split\na.png,0,dev\n", "l.csv", "known split; got .* line 2: 'a.png,0,dev'"),
        ("a.png 0\nb.png 0", "list.txt", "at least two classes; got only class '0'"),
        (
            "path,label,split\na.png,0,\nb.png,1,\nc.png,2,test\n",
            "l.csv",
            "test must also stand in train; got class '2'",
        ),
    ],
)
def test_every_fault_has_a_sentence(write, text, name, message):
    with pytest.raises(DataError, match=message):
        write(text, name).load(REQUEST)


def test_a_missing_or_binary_list_has_a_sentence(tmp_path):
    with pytest.raises(DataError, match="image list must exist"):
        ListSpec(path=tmp_path / "none.txt").load(REQUEST)
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(DataError, match="UTF-8"):
        ListSpec(path=tmp_path / "list.txt").load(REQUEST)


def test_test_images_from_two_places_are_refused(write, tmp_path):
    (tmp_path / "test.txt").write_text("c.png 0")
    spec = write("path,label,split\na.png,0,\nb.png,1,test\n", "l.csv", test=tmp_path / "test.txt")
    with pytest.raises(DataError, match=r"one list; got .*l\.csv and .*test\.txt"):
        spec.load(REQUEST)
