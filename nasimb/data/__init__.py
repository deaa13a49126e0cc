"""Image data: the table of data sets, the words by which the command line names them, and what a run makes of them.

Start with `parse_dataset`; `load_task` is all that a search does with its data before it begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasimb.data.arrays import ArraysSpec
from nasimb.data.base import DatasetSpec, ImageSet, LoadRequest, Parts
from nasimb.data.cifar import Cifar10Spec, Cifar100Spec
from nasimb.data.digits import DigitsSpec, parse_digits
from nasimb.data.file_list import ListSpec
from nasimb.data.folder import FolderSpec
from nasimb.data.longtail import class_counts, imbalance_factor, make_long_tailed
from nasimb.data.task import Task, load_task
from nasimb.errors import InputError, unknown_name
from nasimb.lazily import lazily
from nasimb.spec import from_table

if TYPE_CHECKING:
    from nasimb.data.inspect import Inspection, inspect_dataset
else:  # that module needs pandas
    __getattr__ = lazily(__name__, dict.fromkeys(["Inspection", "inspect_dataset"], "nasimb.data.inspect"))

__all__ = [
    "DATASETS",
    "DatasetSpec",
    "ImageSet",
    "Inspection",
    "LoadRequest",
    "Parts",
    "Task",
    "class_counts",
    "imbalance_factor",
    "inspect_dataset",
    "load_task",
    "make_long_tailed",
    "parse_dataset",
]

DATASETS: dict[str, type[DatasetSpec]] = {
    "arrays": ArraysSpec,
    "cifar10": Cifar10Spec,
    "cifar100": Cifar100Spec,
    "digits": DigitsSpec,
    "folder": FolderSpec,
    "list": ListSpec,
}
"""Data sets by name. One more is a class here, or `package.module:Class` where the name goes."""


def parse_dataset(value: str | Mapping[str, Any]) -> DatasetSpec:
    """The data set that the command line or a configuration names.

    Either `{name: folder, path: photos}`, or in short `digits`, `digits:0-4`, `cifar10:DIR`, `cifar100:DIR`,
    `arrays:FILE.npz`, `folder:DIR`, `list:FILE`. A path alone is taken for what it is: a folder, an .npz, a list. A
    class of the user's own is `{name: "package.module:Class", ...}`.

    Raises:
        InputError: an unknown name (the nearest is suggested), a missing path, an unknown key.

    Example:
        >>> spec = parse_dataset("digits:0-4")
        >>> spec.digits
        (0, 1, 2, 3, 4)
        >>> parts = spec.load(LoadRequest(size=8))
        >>> len(parts.train), len(parts.test), len(parts.source)
        (300, 300, 270)
        >>> parse_dataset("digitz")
        Traceback (most recent call last):
        nasimb.errors.InputError: ...Did you mean 'digits'? Choose one of these.
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
