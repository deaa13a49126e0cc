from __future__ import annotations

import os

import pytest
import torch

from nasimb.data import files
from nasimb.data.base import LoadRequest
from nasimb.data.files import load_files
from nasimb.errors import DataError

REQUEST = LoadRequest(size=5)
SKIP = LoadRequest(size=5, skip_bad_images=True)


def test_channels_are_native_unless_asked_for(picture):
    grey = [picture(f"{number}.png", mode="L") for number in range(3)]
    assert load_files(grey, REQUEST).store.channels == 1
    assert load_files([*grey, picture("c.png")], REQUEST).store.channels == 3
    assert load_files(grey, LoadRequest(size=5, channels=3)).store.channels == 3


def test_an_unreadable_image_is_named(picture):
    good, bad, worse = picture("a.png"), picture("b.png"), picture("c.png")
    bad.write_bytes(b"broken")
    worse.write_bytes(b"")
    message = r"every image must be readable; got .*b\.png \(not an image in a known format\) and 1 more"
    with pytest.raises(DataError, match=message + r"\. Replace or remove it, .*--skip-bad-images\."):
        load_files([good, bad, worse], REQUEST)


def test_another_kind_of_file_is_said_to_be_one(picture):
    note = picture("a.png").with_name("notes.txt")
    note.write_text("hello")
    with pytest.raises(DataError, match=r"every file among the images must be an image; got .*notes\.txt"):
        load_files([note, picture("b.png")], REQUEST)


@pytest.mark.parametrize("memory_mib", [0, 100])
@pytest.mark.parametrize("channels", [None, 3])
def test_bad_files_are_left_out_and_listed_on_request(picture, memory_mib, channels):
    paths = [picture(f"{number}.jpg", size=(40, 40)) for number in range(5)]
    whole = load_files(paths, REQUEST).store.hashes()
    paths[1].write_bytes(b"broken")
    paths[3].write_bytes(paths[3].read_bytes()[:-500])
    request = LoadRequest(size=5, channels=channels, skip_bad_images=True, memory_mib=memory_mib)
    loaded = load_files(paths, request)
    assert loaded.kept == (0, 2, 4)
    assert len(loaded.store) == 3
    assert loaded.store.hashes() == [whole[0], whole[2], whole[4]]
    assert loaded.store.name(1) == str(paths[2])
    assert [text.split(" (")[0] for text in loaded.skipped] == [str(paths[1]), str(paths[3])]
    assert "truncated" in loaded.skipped[1]


def test_truncated_images_are_found_in_place_too(picture):
    path = picture("a.jpg", size=(40, 40))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match="truncated"):
        load_files([path], LoadRequest(size=5, memory_mib=0))


def test_many_files_go_through_in_blocks(picture, monkeypatch):
    paths = [picture(f"{number}.png") for number in range(7)]
    whole = load_files(paths, REQUEST).store.hashes()
    monkeypatch.setattr(files, "BLOCK", 3)
    assert load_files(paths, REQUEST).store.hashes() == whole


def test_one_file_reached_on_two_ways_has_one_name(picture):
    path = picture("a/b.png")
    detour = path.parent / ".." / "a" / "b.png"
    store = load_files([path, detour], REQUEST).store
    assert store.name(0) == store.name(1)


@pytest.mark.parametrize("memory_mib", [0, 100])
def test_names_that_are_no_utf8_are_read_and_can_be_written(picture, memory_mib):
    paths = [picture(os.fsdecode(name)) for name in (b"caf\xe9.png", b"b\xff.png")]
    paths[1].write_bytes(b"broken")
    loaded = load_files(paths, LoadRequest(size=5, skip_bad_images=True, memory_mib=memory_mib))
    assert loaded.store.name(0).encode().endswith(rb"/caf\udce9.png")
    assert b"udcff.png (" in loaded.skipped[0].encode()
    with pytest.raises(DataError) as met:
        load_files(paths, REQUEST)
    assert rb"b\udcff.png" in str(met.value).encode()
    assert len(next(loaded.store.stream([torch.tensor([0])], torch.device("cpu")))) == 1
