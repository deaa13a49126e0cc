"""`arrays:FILE.npz`: images and labels as NumPy arrays, without pickles.

Keys: `train_images` uint8 [N, H, W] or [N, H, W, 3], `train_labels` integers; optionally the same for `val` and
`test`, and `class_names`. With names, label i means `class_names[i]`; without, the labels themselves are the names.
"""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from nasimb.data.base import DatasetSpec, LoadRequest, Parts, check_class_names, class_list, first_of, make_parts
from nasimb.data.resize import convert_channels, resize
from nasimb.data.store import TensorStore
from nasimb.errors import DataError
from nasimb.visible import encodable

ARRAY_SPLITS = ("train", "val", "test")
# What reading a broken zip archive raises, by way of its decompressors.
DAMAGE = (ValueError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
LAYOUT = "Write train_images (uint8, [N, H, W] or [N, H, W, 3]) and train_labels with numpy.savez."


class ArraysSpec(DatasetSpec):
    """Images in an .npz file."""

    name: Literal["arrays"] = "arrays"
    path: Path

    def read(self, request: LoadRequest) -> Parts:
        """All splits over one store: train first, then val, then test."""
        return read_arrays(self.path, request)


def read_arrays(path: Path, request: LoadRequest) -> Parts:
    """The splits of an .npz file in the layout above.

    Raises:
        DataError: no such file, not an .npz, pickled members, a missing key, a wrong shape or dtype, a label that
            is out of range.
    """
    return parts_from_arrays(_open(path), str(path.resolve()), request)


def parts_from_arrays(arrays: Mapping[str, np.ndarray], origin: str, request: LoadRequest) -> Parts:
    """As `read_arrays`, from arrays in memory that came from `origin`."""
    splits = [split for split in ARRAY_SPLITS if split == "train" or f"{split}_images" in arrays]
    labels = {split: _labels(arrays, split, origin) for split in splits}
    classes, labels_N = _classes(arrays, labels, origin)
    pixels = {split: _images(arrays, split, len(labels[split]), origin) for split in splits}
    channels = request.channels or max(images.shape[1] for images in pixels.values())
    images_NCHW = torch.cat([convert_channels(resize(images, request.size), channels) for images in pixels.values()])
    # Arrays are in memory already; those above the limit only stay off the accelerator.
    device = request.device if request.fits(len(images_NCHW), channels) else torch.device("cpu")
    runs = [(f"{encodable(origin)}:{split}_images", len(labels[split])) for split in splits]
    split_N = [split for split in splits for _ in range(len(labels[split]))]
    return make_parts(TensorStore(images_NCHW.to(device), runs), split_N, labels_N, classes)


def _open(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DataError("the array file must exist", got=str(path), do="Check the path.")
    if not zipfile.is_zipfile(path):
        raise DataError("the array file must be an .npz", got=f"another format in {path}", do=LAYOUT)
    wanted = {"class_names"} | {f"{split}_{what}" for split in ARRAY_SPLITS for what in ("images", "labels")}
    try:
        with np.load(path, allow_pickle=False) as archive:
            keys = archive.files
            arrays = {key: archive[key] for key in keys if key in wanted}
    except DAMAGE as error:
        pickled = "pickled objects" if "allow_pickle" in str(error) else "a damaged archive"
        do = "Save it anew with numpy.savez, without object arrays."
        raise DataError("the array file must be an .npz of plain arrays", got=f"{pickled} in {path}", do=do) from None
    if "train_images" not in arrays:
        got = f"{path} with the keys {', '.join(sorted(keys)) or '(none)'}"
        raise DataError("the array file must have the key train_images", got=got, do=LAYOUT)
    return arrays


def _images(arrays: Mapping[str, np.ndarray], split: str, num_labels: int, origin: str) -> torch.Tensor:
    """uint8 [N, C, H, W]."""
    key = f"{split}_images"
    images = arrays[key]
    where = f"{key} in {origin}"
    if images.dtype != np.uint8:
        do = "Scale to 0..255 and convert with .astype(numpy.uint8)."
        raise DataError(f"{where} must be uint8", got=images.dtype, do=do)
    if images.ndim == 4 and images.shape[-1] not in (1, 3) and images.shape[1] in (1, 3):
        do = f"Move the channels last: {key}.transpose(0, 2, 3, 1)."
        raise DataError(f"{where} must be [N, H, W] or [N, H, W, 3]", got=list(images.shape), do=do)
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] not in (1, 3)) or 0 in images.shape[1:]:
        raise DataError(f"{where} must be [N, H, W] or [N, H, W, 3]", got=list(images.shape), do=LAYOUT)
    if len(images) != num_labels:
        got = f"{len(images)} images and {num_labels} labels"
        raise DataError(f"{where} must have one label each", got=got, do=f"Make {split}_labels as long.")
    images = images[..., None] if images.ndim == 3 else images
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _labels(arrays: Mapping[str, np.ndarray], split: str, origin: str) -> np.ndarray:
    """[N] of integers or strings."""
    key = f"{split}_labels"
    if key not in arrays:
        raise DataError(f"{origin} must have the key {key}", got=f"{split}_images alone", do=f"Add {key}.")
    labels = arrays[key]
    if labels.ndim != 1 or labels.dtype.kind not in "iuU":
        got = f"{labels.dtype} {list(labels.shape)}"
        raise DataError(f"{key} in {origin} must be [N] integers (or strings)", got=got, do="One label an image.")
    return labels


def _classes(
    arrays: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], origin: str
) -> tuple[tuple[str, ...], list[int]]:
    """The class list, and the class of every image of all splits in turn."""
    if "class_names" not in arrays or any(part.dtype.kind == "U" for part in labels.values()):
        texts = [str(label) for part in labels.values() for label in part.tolist()]
        _in_range(labels, None, origin)
        classes = class_list(texts)
        number = {name: k for k, name in enumerate(classes)}
        return classes, [number[text] for text in texts]
    names = arrays["class_names"]
    if names.ndim != 1 or names.dtype.kind not in "US" or len(set(names.tolist())) != len(names):
        got = f"{names.dtype} {list(names.shape)}, {len(np.unique(names))} of them distinct"
        raise DataError(f"class_names in {origin} must be distinct strings", got=got, do="Write one name a class.")
    _in_range(labels, len(names), origin)
    classes = tuple(_text(name) for name in names.tolist())
    check_class_names(classes)
    return classes, [k for part in labels.values() for k in part.tolist()]


def _text(name: str | bytes) -> str:
    return name.decode(errors="surrogateescape") if isinstance(name, bytes) else name


def _in_range(labels: Mapping[str, np.ndarray], num_classes: int | None, origin: str) -> None:
    """Integer labels lie in 0..num_classes-1, or are not negative where the number is open."""
    wrong = []
    for split, part in labels.items():
        if part.dtype.kind != "U":
            outside = (part < 0) | (part >= num_classes if num_classes is not None else False)
            wrong += [f"{split}_labels[{row}] = {part[row]}" for row in np.flatnonzero(outside)]
    if wrong:
        upper = f"0..{num_classes - 1} (class_names has {num_classes})" if num_classes is not None else "0 and upwards"
        raise DataError(f"labels in {origin} must lie in {upper}", got=first_of(wrong), do="Correct the labels.")
