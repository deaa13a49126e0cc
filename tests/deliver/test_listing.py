"""Words name files: each once, in order, and a word that names nothing is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasimb.deliver.listing import listed
from nasimb.deliver.writing import rows_into, table_file
from nasimb.errors import DataError


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """a.png, b/c.JPG, b/d.png, notes and litter; the working folder is beside it."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b/c.JPG", "b/d.png", "b/notes.txt", ".hidden.png", "b/Thumbs.db"):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path / "photos"


def names(*words: str) -> list[str]:
    return [str(path) for path in listed(words).paths]


def test_a_folder_is_every_image_below_it(photos: Path) -> None:
    found = listed(["photos"])
    assert [str(path) for path in found.paths] == ["photos/a.png", "photos/b/c.JPG", "photos/b/d.png"]
    assert found.notes == ("1 file is no image by name and left out: photos/b/notes.txt.",)


def test_patterns_files_and_folders_mix_and_nothing_comes_twice(photos: Path) -> None:
    assert names("photos/b/d.png", "photos/*.png", "photos") == ["photos/b/d.png", "photos/a.png", "photos/b/c.JPG"]
    assert names("photos/**/*.png") == ["photos/a.png", "photos/b/d.png"]


def test_a_file_that_exists_is_no_pattern(photos: Path) -> None:
    (photos / "x[1].png").touch()
    assert names("photos/x[1].png") == ["photos/x[1].png"]


@pytest.mark.parametrize(
    "text",
    [
        "a.png\n\nb/d.png\n",
        "label,path\n3,a.png\n,b/d.png\n",
        "\ufeffpath\r\na.png\r\nb/d.png\r\n",
        '"label","path"\n"3","a.png"\n"4","b/d.png"\n',
        '"a\nlabel",Path\n"3\r","a.png"\n4,"b/d.png"',
        "a.png\rb/d.png\r",
    ],
    ids=["lines", "csv", "from a spreadsheet", "all quoted", "rows over several lines", "carriage returns"],
)
def test_a_list_starts_from_its_own_folder(photos: Path, text: str) -> None:
    (photos / "some.txt").write_bytes(text.encode())
    assert names("photos/some.txt") == names("list:photos/some.txt") == ["photos/a.png", "photos/b/d.png"]


@pytest.mark.parametrize("name", ["a\rb.png", "a\nb.png", "a\u2028b.png", 'a",b.png', "a\x0bb.png"])
def test_a_table_of_predictions_is_a_list(photos: Path, name: str) -> None:
    file = photos / name
    file.touch()
    with table_file(photos / "preds.csv") as out:
        rows_into(out).writerows([["path", "class"], [name, "x"]])
    assert listed([f"{photos}/preds.csv"]).paths == (file,)


def test_what_is_named_twice_counts_once_and_is_told(photos: Path) -> None:
    (photos / "some.txt").write_text("a.png\nb/d.png\na.png\n")
    found = listed(["photos/some.txt"])
    assert (len(found.paths), found.notes) == (2, ("1 file is named more than once and counts once: photos/a.png.",))
    more = listed(["photos/some.txt", "photos/**/*.png"])
    assert more.notes == ("2 files are named more than once and count once: photos/a.png and 1 more.",)


def test_a_missing_file_of_a_list_is_left_to_whoever_reads_it(photos: Path) -> None:
    (photos / "some.txt").write_text("a.png\nlost.png\n")
    assert names("photos/some.txt") == ["photos/a.png", "photos/lost.png"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("photos/*.gif", "a pattern must match files"),
        ("elsewhere", "must exist"),
        ("list:none.txt", "the list of images must exist"),
        ("photos/labelled.txt", "whose first line is 'a.png 3'"),
        ("photos/empty.txt", "which is empty"),
        ("photos/latin.txt", "UTF-8"),
        ("photos/bare", "a folder must hold images"),
    ],
)
def test_what_names_nothing_is_an_error(photos: Path, word: str, said: str) -> None:
    (photos / "labelled.txt").write_text("a.png 3\n")
    (photos / "empty.txt").touch()
    (photos / "latin.txt").write_bytes("ü.png".encode("latin-1"))
    (photos / "bare").mkdir()
    with pytest.raises(DataError, match=said.replace("*", r"\*")):
        listed([word])
