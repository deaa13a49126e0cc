"""Image data: the table of data sets, and the words by which the command line names them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasimb.data.arrays import ArraysSpec
from nasimb.data.base import DatasetSpec
from nasimb.data.cifar import Cifar10Spec, Cifar100Spec
from nasimb.data.digits import DigitsSpec, parse_digits
from nasimb.data.file_list import ListSpec
from nasimb.data.folder import FolderSpec
from nasimb.errors import InputError, unknown_name
from nasimb.spec import from_table

DATASETS: dict[str, type[DatasetSpec]] = {
    "arrays": ArraysSpec,
    "cifar10": Cifar10Spec,
    "cifar100": Cifar100Spec,
    "digits": DigitsSpec,
    "folder": FolderSpec,
    "list": ListSpec,
}


def parse_dataset(value: str | Mapping[str, Any]) -> DatasetSpec:
    """The data set that the command line or a configuration names.

    Either `{name: folder, path: photos}`, or in short `digits`, `digits:0-4`, `cifar10:DIR`, `cifar100:DIR`,
    `arrays:FILE.npz`, `folder:DIR`, `list:FILE`. A path alone is taken for what it is: a folder, an .npz, a list. A
    class of the user's own is `{name: "package.module:Class", ...}`.

    Raises:
        InputError: an unknown name (the nearest is suggested), a missing path, an unknown key.
    """
    if not isinstance(value, str):
        return from_table(DATASETS, value, what="data set")
    name, colon, rest = value.partition(":")
    if name in DATASETS:
        return from_table(DATASETS, {"name": name, **_details(name, rest)}, what="data set")
    if Path(value).exists():
        return from_table(DATASETS, {"name": _kind(Path(value)), "path": value}, what="data set")
    if colon and "." in name and rest.isidentifier():
        return from_table(DATASETS, value, what="data set")
    if not colon and ("/" in value or "." in value):
        raise InputError("the data must exist", got=value, do="Check the path.")
    raise unknown_name("a data set", name, DATASETS)


def _details(name: str, rest: str) -> dict[str, Any]:
    """What stands behind the colon: a path, or for digits the classes wanted."""
    if name == "digits":
        return {"digits": parse_digits(rest)} if rest else {}
    if not rest:
        raise InputError(f"{name} must be followed by a path", got=repr(name), do=f"Write {name}:PATH.")
    return {"path": rest}


def _kind(path: Path) -> str:
    if path.is_dir():
        return "folder"
    return "arrays" if path.suffix == ".npz" else "list"
