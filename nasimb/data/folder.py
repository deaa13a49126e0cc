"""`folder:DIR`: one folder per class, optionally below `train`, `val` and `test`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from nasimb.data.base import DatasetSpec, LoadRequest, Parts, class_list, first_of, make_parts
from nasimb.data.files import load_files
from nasimb.errors import DataError

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
# What file managers leave behind, besides everything that starts with a dot.
LITTER = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
LAYOUT = "Put the images of each class into a folder of its own: DIR/cat/1.png, DIR/dog/2.png."


class FolderSpec(DatasetSpec):
    """Images sorted into folders by class; folders inside a class folder belong to the class."""

    name: Literal["folder"] = "folder"
    path: Path

    def read(self, request: LoadRequest) -> Parts:
        """All splits over one store, files in order of their paths."""
        if not self.path.is_dir():
            got = f"the file {self.path}" if self.path.is_file() else str(self.path)
            raise DataError("the data folder must exist", got=got, do="Check the path.")
        folders = [(split, folder) for split, top in _splits(self.path) for folder in _class_folders(top)]
        classes = class_list(folder.name for _, folder in folders)
        listing = [(split, folder.name, file) for split, folder in folders for file in files_below(folder)]
        if not listing:
            raise DataError("the data folder must hold images", got=f"none in {self.path}", do=LAYOUT)
        loaded = load_files([file for _, _, file in listing], request)
        number = {name: k for k, name in enumerate(classes)}
        return make_parts(
            loaded.store,
            [listing[position][0] for position in loaded.kept],
            [number[listing[position][1]] for position in loaded.kept],
            classes,
            loaded.skipped,
        )


def _splits(root: Path) -> list[tuple[str, Path]]:
    """(split, folder that holds its class folders); everything is training where there is no folder `train`.

    A folder `train` without folders inside is a class (of railways, say).
    """
    folders = _folders(root)
    if folders and all(folder.name in SPLIT_FOLDERS and folder.name != "train" for folder in folders):
        raise DataError(f"{root} must hold training images", got=f"only {folders[0].name}", do="Add a folder train.")
    if not any(folder.name == "train" and _folders(folder) for folder in folders):
        return [("train", root)]
    strangers = [str(folder) for folder in folders if folder.name not in SPLIT_FOLDERS]
    if strangers:
        do = "Move it elsewhere, or into train if it is a class."
        raise DataError("beside train, only val and test may stand", got=first_of(strangers), do=do)
    found = [(SPLIT_FOLDERS[folder.name], folder) for folder in folders]
    if len({split for split, _ in found}) < len(found):
        got = " and ".join(folder.name for split, folder in found if split == "val")
        raise DataError("there must be one validation folder", got=got, do="Keep one of them.")
    return found


def _class_folders(top: Path) -> list[Path]:
    """The class folders of one split, sorted.

    Raises:
        DataError: images lie beside the class folders instead of in one, or there is none.
    """
    folders = _folders(top)
    if not folders:
        loose = sum(1 for entry in top.iterdir() if not _is_litter(entry.name))
        got = f"{loose} files and no folder in {top}" if loose else f"nothing in {top}"
        raise DataError("images must stand in one folder per class", got=got, do=LAYOUT)
    return folders


def _folders(top: Path) -> list[Path]:
    return sorted(entry for entry in top.iterdir() if entry.is_dir() and not _is_litter(entry.name))


def files_below(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Every file below, sorted; linked folders are followed, but not in circles."""
    here = folder.resolve()
    if here in above:
        return
    with os.scandir(folder) as entries:
        found = sorted((entry for entry in entries if not _is_litter(entry.name)), key=lambda entry: entry.name)
    for entry in found:
        if entry.is_dir():
            yield from files_below(Path(entry.path), above | {here})
        else:
            yield Path(entry.path)


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in LITTER
