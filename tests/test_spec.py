"""Options as data: strict, helpful, extensible by a user's own class."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from nasimb.errors import InputError, NasimbError, unknown_name
from nasimb.spec import Spec, find_shipped, from_table, parse, read_yaml


class Colour(Spec):
    name: str


class Red(Colour):
    name: Literal["red"] = "red"
    depth: int = 1


class Mine(Colour):
    name: str
    m: float = 0.5


TABLE = {"red": Red}


def test_a_name_a_mapping_and_a_users_own_class() -> None:
    assert from_table(TABLE, "red", what="colour") == Red()
    assert from_table(TABLE, {"name": "red", "depth": 3}, what="colour") == Red(depth=3)
    own = from_table(TABLE, {"name": f"{__name__}:Mine", "m": 0.25}, what="colour")
    assert type(own).__name__ == "Mine"
    assert own.m == 0.25


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("rde", "Did you mean 'red'"),
        ({"name": "red", "dpeth": 1}, "Did you mean 'depth'"),
        ({"name": "red", "depth": "deep"}, "depth must be valid; got 'deep'"),
        ({"depth": 1}, "must have a name"),
        ("no.such.module:Thing", "importable"),
        ("pathlib:Path", "derive from Colour"),
    ],
)
def test_what_is_wrong_is_said(value: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        from_table(TABLE, value, what="colour")  # type: ignore[arg-type]


def test_options_never_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Red().depth = 2  # type: ignore[misc]


def test_a_missing_key_is_named() -> None:
    with pytest.raises(InputError, match="must have the key 'name'"):
        parse(Mine, {}, what="colour")


def test_yaml_must_be_there_and_be_a_mapping(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must exist"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(InputError, match="mapping"):
        read_yaml(tmp_path / "list.yaml")
    (tmp_path / "tag.yaml").write_text("a: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(InputError, match="valid YAML"):
        read_yaml(tmp_path / "tag.yaml")


def test_shipped_files_are_found_by_stem_or_path(tmp_path: Path) -> None:
    assert find_shipped("search_spaces", "digits-resnet").is_file()
    assert find_shipped("search_spaces", str(tmp_path / "x.yaml")) == tmp_path / "x.yaml"


def test_an_error_has_three_parts() -> None:
    error = NasimbError("this must hold", got="that", do="Do so.")
    assert str(error) == "this must hold; got that. Do so."
    assert unknown_name("x", "b", ["a"]).exit_code == 2
