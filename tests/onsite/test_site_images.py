"""Images of a site: their order, their labels in the model's numbering, and those that have none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from nasimb.errors import DataError
from nasimb.export import Model, load
from nasimb.onsite.images import Order, Site, load_site

CPU = torch.device("cpu")
Write = Callable[..., Path]


@pytest.fixture
def model(run: Path) -> Model:
    return load(run / "best")


def names(site: Site) -> list[str]:
    return ["/".join(Path(site.images.name(position)).parts[-2:]) for position in range(len(site))]


def test_class_folders_are_shuffled_unless_told_otherwise(model: Model, write_site: Write, tmp_path: Path) -> None:
    folder = write_site(tmp_path / "site", each=6)
    given = load_site(f"folder:{folder}", model, order=Order.given, device=CPU)
    assert given.labels_N.tolist() == sorted(given.labels_N.tolist())
    assert given.notes == ()
    auto = load_site(f"folder:{folder}", model, device=CPU)
    assert names(auto) != names(given)
    assert sorted(names(auto)) == sorted(names(given))
    assert names(auto) == names(load_site(f"folder:{folder}", model, order=Order.shuffled, device=CPU))
    assert names(auto) != names(load_site(f"folder:{folder}", model, seed=1, device=CPU))
    for name, label in zip(names(auto), auto.labels_N.tolist(), strict=True):
        assert name.startswith(f"{label}/")
    assert any("shuffled order (seed 0)" in note for note in auto.notes)


def test_loose_images_are_unlabelled_and_in_order(model: Model, write_site: Write, tmp_path: Path) -> None:
    folder = write_site(tmp_path / "site", each=6) / "3"
    (folder / ".hidden").write_text("no image")
    site = load_site(f"folder:{folder}", model, device=CPU)
    assert site.labels_N.tolist() == [-1] * 6
    assert names(site) == sorted(names(site))
    assert site.images.size == model.description.size
    assert site.notes == ("The images have no labels.",)


def test_labels_that_the_model_does_not_know_count_as_none(model: Model, write_site: Write, tmp_path: Path) -> None:
    folder = write_site(tmp_path / "site", each=4)
    shutil.move(folder / "4", folder / "unlabelled")
    site = load_site(f"folder:{folder}", model, order=Order.given, device=CPU)
    assert site.labels_N.tolist() == [label for label in (0, 1, 2, 3, -1) for _ in range(4)]
    assert site.labelled_M.tolist() == list(range(16))
    assert "4 of 20 images count as unlabelled: the model has no class 'unlabelled'" in site.notes[0]


def test_a_partly_labelled_list_comes_in_its_own_order(model: Model, write_site: Write, tmp_path: Path) -> None:
    folder = write_site(tmp_path / "site", each=2)
    files = sorted(folder.rglob("*.png"))[::-1]
    lines = [f"{file.relative_to(folder)},{file.parent.name if row % 2 else '?'}" for row, file in enumerate(files)]
    (folder / "list.csv").write_text("path,label\n" + "\n".join(lines))
    site = load_site(f"list:{folder / 'list.csv'}", model, device=CPU)
    assert site.labels_N.tolist() == [-1, 4, -1, 3, -1, 2, -1, 1, -1, 0]
    assert [Path(site.images.name(n)) for n in range(10)] == [file.resolve() for file in files]


def test_the_numbering_is_that_of_the_model(model: Model, tmp_path: Path) -> None:
    images = np.zeros((3, 8, 8), np.uint8)
    np.savez(tmp_path / "site.npz", train_images=images, train_labels=np.array([0, 1, 2]),
             class_names=np.array(["4", "0", "nine"]))  # fmt: skip
    assert load_site(f"arrays:{tmp_path / 'site.npz'}", model, device=CPU).labels_N.tolist() == [4, 0, -1]


def test_the_test_split_is_taken_where_there_is_one(model: Model) -> None:
    site = load_site("digits:0-4", model, device=CPU)
    assert len(site) == 300
    assert "test split" in site.notes[0]


@pytest.mark.parametrize("made", ["nothing", "empty", "text"])
def test_what_is_no_site_is_refused(model: Model, tmp_path: Path, made: str) -> None:
    folder = tmp_path / "site"
    if made != "nothing":
        folder.mkdir()
    if made == "text":
        (folder / "a.txt").write_text("no image")
    with pytest.raises(DataError):
        load_site(f"folder:{folder}", model, device=CPU)
