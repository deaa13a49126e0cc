from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nasimb.data import DATASETS, parse_dataset
from nasimb.data.arrays import ArraysSpec
from nasimb.data.base import DatasetSpec
from nasimb.data.cifar import Cifar10Spec, Cifar100Spec
from nasimb.data.digits import DigitsSpec
from nasimb.data.file_list import ListSpec
from nasimb.data.folder import FolderSpec
from nasimb.errors import InputError


@pytest.mark.parametrize(
    ("value", "spec"),
    [
        ("digits", DigitsSpec()),
        ("digits:5-9", DigitsSpec(digits=(5, 6, 7, 8, 9))),
        ("cifar10:some dir", Cifar10Spec(path=Path("some dir"))),
        ("cifar100:/d", Cifar100Spec(path=Path("/d"))),
        ("arrays:a.npz", ArraysSpec(path=Path("a.npz"))),
        ("folder:my_photos/", FolderSpec(path=Path("my_photos"))),
        ("folder:C:/photos", FolderSpec(path=Path("C:/photos"))),
        ("list:l.txt", ListSpec(path=Path("l.txt"))),
        (
            {"name": "list", "path": "l.txt", "root": "r", "flip": False},
            ListSpec(path=Path("l.txt"), root=Path("r"), flip=False),
        ),
        ({"name": "digits", "digits": [1, 2]}, DigitsSpec(digits=(1, 2))),
    ],
)
def test_names_and_mappings(value, spec):
    assert parse_dataset(value) == spec
    assert hash(parse_dataset(value)) == hash(spec)
    # What a run folder stores can be read back.
    assert parse_dataset(spec.model_dump(mode="json")) == spec


def test_a_path_alone_is_taken_for_what_it_is(tmp_path):
    np.savez(tmp_path / "a.npz", x=1)
    (tmp_path / "l.csv").write_text("path,label\n")
    assert parse_dataset(str(tmp_path)) == FolderSpec(path=tmp_path)
    assert parse_dataset(str(tmp_path / "a.npz")) == ArraysSpec(path=tmp_path / "a.npz")
    assert parse_dataset(str(tmp_path / "l.csv")) == ListSpec(path=tmp_path / "l.csv")


def test_a_class_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab/__init__.py").touch()
    (tmp_path / "my_lab/photos.py").write_text(
        "from nasimb.data.base import DatasetSpec\n"
        "class Photos(DatasetSpec):\n"
        "    colour: str = 'red'\n"
        "    def read(self, request): raise NotImplementedError\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert parse_dataset({"name": "my_lab.photos:Photos", "colour": "blue"}).colour == "blue"
    assert isinstance(parse_dataset("my_lab.photos:Photos"), DatasetSpec)
    with pytest.raises(InputError, match="must be importable"):
        parse_dataset("my_lab.photos:Nothing")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("digts", "Did you mean 'digits'"),
        ("foldr:x", "Did you mean 'folder'"),
        ("no/such/place", "the data must exist; got no/such/place"),
        ("photos.npz", "the data must exist"),
        ("folder", "folder must be followed by a path"),
        ("cifar10:", "cifar10 must be followed by a path"),
        ("digits:x", "list or a range"),
        ("digits:0-12", "less than or equal to 9"),
        ("digits:4", "at least 2 items"),
        ({"name": "folder", "pth": "x"}, "Did you mean 'path'"),
        ({"path": "x"}, "must have a name"),
    ],
)
def test_wrong_names_get_a_sentence(value, message):
    with pytest.raises(InputError, match=message):
        parse_dataset(value)


def test_the_table_and_the_names_agree():
    assert {name: spec.model_fields["name"].default for name, spec in DATASETS.items()} == {
        name: name for name in DATASETS
    }
