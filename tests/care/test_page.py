"""The page: everything is on it, nothing from users is markup, nothing is fetched."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from care.pairs import digits, pixels
from nasimb.care.look import CloserLook, look_closer
from nasimb.care.page import page, write_page
from nasimb.data import parse_dataset

EVIL = "<script>alert('1')</script><b>"


class Tags(HTMLParser):
    """Tags, attributes and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> CloserLook:
    """Folders of digits whose names are markup; one image is changed a little, one stands in the wrong class."""
    pytest.importorskip("cleanlab", reason="needs cleanlab: pip install nasimb[inspect]")
    folder = tmp_path_factory.mktemp("evil")
    train = digits(0, 1).train
    images_NHW = pixels(train)[:, 0].numpy()
    names = (EVIL.replace("/", "∕"), "one\x1b[2J")
    for position, label in enumerate(train.labels_N.tolist()):
        label = 1 - label if position == 5 else label
        file = folder / names[label] / f"{position}<i>.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(images_NHW[position]).resize((64, 64)).save(file)
    noise = np.random.default_rng(0).integers(0, 12, (32, 32))
    again = np.clip(images_NHW[9].astype(int) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(again).resize((64, 64)).save(folder / names[int(train.labels_N[9])] / "again.png")
    return look_closer(parse_dataset(f"folder:{folder}"), source=parse_dataset("digits:0-1"))


def test_names_are_never_markup(evil: CloserLook) -> None:
    text = page(evil, title=EVIL)
    found = Tags(text)
    tags = {tag for tag, _ in found.tags}
    assert not tags & {"script", "b", "i", "iframe", "link", "object"}
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert "\x1b" not in text
    assert any("alert('1')" in words for words in found.texts), "the name is shown as it is"


def test_nothing_is_fetched(evil: CloserLook) -> None:
    found = Tags(page(evil, title="data"))
    sources = [attributes[name] for _, attributes in found.tags for name in ("src", "href") if name in attributes]
    assert sources
    assert all(source is not None and source.startswith("data:image/png;base64,") for source in sources)


def test_what_was_found_is_on_it(evil: CloserLook) -> None:
    found = Tags(page(evil, title="data"))
    headings = [text for text in found.texts if text]
    for heading in ("Classes", "How far the source is", "Suspected label errors", "Near-duplicates"):
        assert heading in headings
    pictures = [attributes for tag, attributes in found.tags if tag == "img"]
    names = [str(attributes["alt"]) for attributes in pictures]
    assert any(name.endswith("5<i>.png") for name in names), "the planted label error"
    assert any(name.endswith("again.png") for name in names), "the near-duplicate"
    # Pictures come from their files, larger than they are compared at.
    shown = Image.open(io.BytesIO(base64.b64decode(str(pictures[0]["src"]).partition(",")[2])))
    assert shown.size == (96, 96)
    rectangles = [attributes for tag, attributes in found.tags if tag == "rect"]
    assert len(rectangles) == 2


def test_pictures_of_arrays_are_those_that_were_read() -> None:
    found = Tags(page(look_closer(parse_dataset("digits"), labels=False), title="digits"))
    first = next(attributes for tag, attributes in found.tags if tag == "img")
    shown = Image.open(io.BytesIO(base64.b64decode(str(first["src"]).partition(",")[2])))
    assert shown.size == (32, 32)
    parts = digits()
    stored = [image[0].numpy() for images in (parts.train, parts.test, parts.source) for image in pixels(images)]
    assert any(np.array_equal(np.array(shown), image) for image in stored)


def test_limits_are_said_as_they_are(evil: CloserLook, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MOST_SHOWN": 3, "MOST_PAIRS": 4, "MOST_ROWS": 1, "LEAST_CORRELATION": 0.5, "SIDE": 7}.items():
        monkeypatch.setattr(f"nasimb.care.page.{name}", value)
    text = page(evil, title="data")
    for told in (
        "at most 3.",
        "suspected images, at most 1",
        "first 4.",
        "7 × 7, correlate by at least 0.5",
        "Pairs, at most 1",
    ):
        assert told in text
    assert "simple features" in text


def test_data_that_cannot_be_read_make_a_page_of_problems(tmp_path: Path) -> None:
    found = look_closer(parse_dataset(f"folder:{tmp_path / 'none'}"))
    write_page(found, tmp_path / "page.html", title="none")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "must exist" in text
    assert "<svg" not in text
