"""`cifar10:DIR` and `cifar100:DIR`: the official batches through torchvision, or the same images as an .npz.

Torchvision checks the MD5 sums of the batches before it unpickles them, so nothing but the published files is read.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from nasimb.data.arrays import parts_from_arrays, read_arrays
from nasimb.data.base import DatasetSpec, LoadRequest, Parts
from nasimb.errors import DataError

if TYPE_CHECKING:  # it takes longer to import than all of nasimb, and only the official batches need it
    from torchvision.datasets import CIFAR10


class Cifar10Spec(DatasetSpec):
    """CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32x32, ten classes.

    Attributes:
        path: the folder above (or of) the extracted batches; or an .npz in the layout of `arrays:`; or a folder with
            `cifar10.npz` in it.
    """

    name: Literal["cifar10"] = "cifar10"
    path: Path

    def read(self, request: LoadRequest) -> Parts:
        """Official training and test split; fetched first where `request.download` allows it and they are missing."""
        return _read(self.path, self.name, request)


class Cifar100Spec(DatasetSpec):
    """CIFAR-100 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32x32, a hundred fine classes.

    Attributes:
        path: as for CIFAR-10, with `cifar100.npz`.
    """

    name: Literal["cifar100"] = "cifar100"
    path: Path

    def read(self, request: LoadRequest) -> Parts:
        """Official training and test split; fetched first where `request.download` allows it and they are missing."""
        return _read(self.path, self.name, request)


def _read(path: Path, name: Literal["cifar10", "cifar100"], request: LoadRequest) -> Parts:
    if path.suffix == ".npz":
        return read_arrays(path, request)
    if (path / f"{name}.npz").is_file():
        return read_arrays(path / f"{name}.npz", request)
    from torchvision.datasets import CIFAR10, CIFAR100

    reader = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    root = path.parent if path.name == reader.base_folder else path
    splits = {split: _batches(reader, root, split == "train", request.download) for split in ("train", "test")}
    arrays = {f"{split}_images": np.asarray(found.data, dtype=np.uint8) for split, found in splits.items()}
    arrays |= {f"{split}_labels": np.asarray(found.targets, dtype=np.int64) for split, found in splits.items()}
    arrays["class_names"] = np.asarray(splits["train"].classes)
    return parts_from_arrays(arrays, str((root / reader.base_folder).resolve()), request)


def _batches(reader: type[CIFAR10], root: Path, train: bool, download: bool) -> CIFAR10:
    """One split as torchvision reads it.

    Raises:
        DataError: the batches are missing, damaged, or cannot be fetched.
    """
    name = reader.__name__.lower()
    if not root.is_dir() and not download:
        do = f"Check the path, or let it be fetched with {name}:{root} --download."
        raise DataError("the data folder must exist", got=str(root), do=do)
    try:
        # Torchvision reports progress on stdout, which belongs to answers.
        with contextlib.redirect_stdout(io.StringIO()):
            return reader(str(root), train=train, download=download)
    except (RuntimeError, OSError, EOFError) as error:
        found = (root / reader.base_folder).is_dir()
        got = "files that are incomplete or damaged" if found else "no such folder"
        reason = f" ({' '.join(str(error).split())})" if download else ""
        raise DataError(
            f"{root} must hold the official batches in {reader.base_folder}/",
            got=f"{got}{reason}",
            do="Check the connection." if download else "Extract the archive there, or add --download to fetch it.",
        ) from None
