"""The contract of image data: stores hold pixels, sets label some of them, specs load them.

Shapes: N images of a set, M of a subset, B of a batch; C channels, S side in pixels, K classes. Pixels are uint8
everywhere (0..255); the network normalises them itself, so that nothing about preprocessing hides in the data.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from nasimb.errors import DataError
from nasimb.spec import Spec
from nasimb.visible import not_utf8

SPLITS = ("train", "val", "test", "source")


class ImageStore(Protocol):
    """Where pixels live. A store never changes; sets point into it by index.

    Attributes:
        channels: 1 (grey) or 3 (RGB).
        size: side of every image, pixels; images were resized to size x size (bilinear, antialiased).
    """

    channels: int
    size: int

    def __len__(self) -> int: ...

    def read(self, indices_B: Tensor, device: torch.device) -> Tensor:
        """uint8 [B, C, S, S] on `device`."""
        ...

    def stream(self, index_batches: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
        """`read` of every batch in turn, loaded ahead where that helps; the iterable may be endless.

        Index batches may be taken from the iterable before they are needed, so they must not depend on what is
        done with earlier batches.
        """
        ...

    def hashes(self) -> list[str]:
        """One content hash an image, of the stored pixels; computed once, when first asked for."""
        ...

    def name(self, index: int) -> str:
        """Where an image came from, for messages, as UTF-8 can hold it.

        Equal names mean the same image of the same file.
        """
        ...


@dataclass(frozen=True, eq=False)
class ImageSet:
    """One split: some images of a store, labelled.

    Attributes:
        indices_N: int64 on the CPU, into the store.
        labels_N: int64 on the CPU, into `classes`.
        classes: names of all K classes; some may have no image here.

    Example:
        >>> from nasimb.data import parse_dataset
        >>> test = parse_dataset("digits:0-2").load(LoadRequest(size=8)).test
        >>> len(test), test.class_counts_K.tolist(), test.size, test.channels
        (180, [60, 60, 60], 8, 1)
        >>> images_BCSS, positions_B = next(test.batches(4, torch.device("cpu")))
        >>> tuple(images_BCSS.shape), images_BCSS.dtype, test.labels_N[positions_B].tolist()
        ((4, 1, 8, 8), torch.uint8, [0, 1, 1, 1])
    """

    store: ImageStore
    indices_N: Tensor
    labels_N: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.indices_N)

    @property
    def num_classes(self) -> int:
        """K, classes without an image included."""
        return len(self.classes)

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""
        return self.store.channels

    @property
    def size(self) -> int:
        """Side of the square images, pixels."""
        return self.store.size

    @property
    def class_counts_K(self) -> Tensor:
        """Images per class, int64; zero where a class has none."""
        return torch.bincount(self.labels_N, minlength=self.num_classes)

    def subset(self, positions_M: Tensor) -> ImageSet:
        """The images at these positions (within this set, not the store), in this order."""
        return ImageSet(self.store, self.indices_N[positions_M], self.labels_N[positions_M], self.classes)

    def batches(
        self, batch_size: int, device: torch.device, order_N: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of (uint8 images [B, C, S, S] on `device`, positions_B int64 on the CPU), loaded ahead.

        Args:
            order_N: positions in the order wanted, repeats and omissions allowed; None is 0..N-1.
        """
        order_N = torch.arange(len(self)) if order_N is None else order_N.cpu()
        return self.stream(torch.split(order_N, batch_size), device)

    def stream(self, position_batches: Iterable[Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """As `batches`, for batches of positions that the caller draws (possibly without end)."""
        ahead: list[Tensor] = []

        def indices() -> Iterator[Tensor]:
            for positions_B in position_batches:
                ahead.append(positions_B.cpu())
                yield self.indices_N[ahead[-1]]

        for images_BCHW in self.store.stream(indices(), device):
            yield images_BCHW, ahead.pop(0)

    def hashes(self) -> list[str]:
        """Content hash of every image of the set."""
        stored = self.store.hashes()
        return [stored[index] for index in self.indices_N.tolist()]

    def name(self, position: int) -> str:
        """Where the image at this position came from."""
        return self.store.name(int(self.indices_N[position]))

    def fingerprint(self) -> str:
        """16 hex digits that identify pixels, labels, classes and their order; the same on every device."""
        digest = hashlib.sha256()
        for part in ("\n".join(self.hashes()), ",".join(map(str, self.labels_N.tolist())), repr(self.classes)):
            digest.update(part.encode())
            digest.update(b"\0")
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Parts:
    """What a data set consists of, as it was found.

    Attributes:
        train: the training images (the pool a long tail is made from).
        test: the official test split; None where the data have none.
        val: the official validation split.
        source: balanced images that the data set sets aside for training a super-network.
        skipped: "name (reason)" of every image left out by `skip_bad_images`.

    Example:
        >>> from nasimb.data import parse_dataset
        >>> parts = parse_dataset("digits:0-2").load(LoadRequest(size=8))
        >>> len(parts.train), len(parts.test), parts.val, len(parts.source)
        (180, 180, None, 162)
        >>> parts.problems()
        []
    """

    train: ImageSet
    test: ImageSet | None = None
    val: ImageSet | None = None
    source: ImageSet | None = None
    skipped: tuple[str, ...] = ()

    def problems(self) -> list[DataError]:
        """Every way in which the class sets are not fit for training and testing, worst first."""
        classes, train = self.train.classes, self.train.class_counts_K
        held = {name: part.class_counts_K for name in ("test", "val") if (part := getattr(self, name)) is not None}
        found = []
        if len(classes) < 2:
            do = "Add images of another class; a folder per class, and a label per image, must tell them apart."
            found.append(_class_error("there must be at least two classes", [*classes], do=do, found="only"))
        elsewhere = sum(held.values(), torch.zeros_like(train))
        if empty := _named(classes, (train == 0) & (elsewhere == 0)):
            found.append(
                _class_error(
                    "every class must have an image", empty, do="Add images, or remove the class.", found="none in"
                )
            )
        for split, counts in held.items():
            if extra := _named(classes, (train == 0) & (counts > 0)):
                rule = f"every class in {split} must also stand in train"
                found.append(_class_error(rule, extra, do=f"Add training images, or take it out of {split}."))
        if "test" in held and (missing := _named(classes, (train > 0) & (held["test"] == 0))):
            rule = "every class in train must also stand in test"
            do = "Add test images of it, or remove the test split: then one is made from train."
            found.append(_class_error(rule, missing, do=do))
        return found


@dataclass(frozen=True)
class LoadRequest:
    """How images are to be loaded.

    Attributes:
        size: side every image is resized to, pixels.
        channels: 1 or 3; None is native: 1 if every image is grey, else 3.
        device: where images live that fit in memory.
        skip_bad_images: leave unreadable images and other files out (and list them) instead of stopping.
        download: a data set that has a home on the network may be fetched.
        memory_mib: above it, images stay in their files and stream through a DataLoader.
        workers: processes that decode streamed images; 0 decodes in threads of this process.

    Example:
        >>> request = LoadRequest(size=224, memory_mib=1024)
        >>> request.fits(5_000, channels=3), request.fits(50_000, channels=3)
        (True, False)
    """

    size: int
    channels: int | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    skip_bad_images: bool = False
    download: bool = False
    memory_mib: int = 2048
    workers: int = 2

    def fits(self, num_images: int, channels: int) -> bool:
        """Whether so many decoded images stay within `memory_mib`."""
        return num_images * channels * self.size**2 <= self.memory_mib * 2**20


class DatasetSpec(Spec, ABC):
    """Options of one data set; members implement `read`.

    Attributes:
        name: its name in the table of data sets.
        flip: whether a horizontal flip keeps the label (not so for digits or text).

    Example, data of one's own, which then go by `my_lab.data:Stripes`:
        >>> from nasimb.data.arrays import parts_from_arrays
        >>> class Stripes(DatasetSpec):
        ...     name: str = "stripes"
        ...     images: int = 20
        ...
        ...     def read(self, request):
        ...         across, labels = torch.zeros(self.images, 8, 8, dtype=torch.uint8), torch.arange(self.images) % 2
        ...         across[:, ::2] = 255
        ...         images = torch.where(labels.bool()[:, None, None], across, across.mT)
        ...         arrays = {"train_images": images.numpy(), "train_labels": labels.numpy()}
        ...         return parts_from_arrays(arrays, "stripes", request)
        >>> Stripes(images=30).load(LoadRequest(size=8)).train.class_counts_K.tolist()
        [15, 15]
    """

    name: str
    flip: bool = True

    # Long tail that is made when none is asked for; None leaves the images as they are.
    default_imbalance_factor: ClassVar[float | None] = None

    @property
    def has_source(self) -> bool:
        """Whether the data set sets balanced images aside that train a super-network."""
        return False

    @abstractmethod
    def read(self, request: LoadRequest) -> Parts:
        """The images as found; class sets are not checked yet.

        Raises:
            DataError: a file is missing, unreadable or not in the format.
        """

    def load(self, request: LoadRequest) -> Parts:
        """The images, with class sets that are fit for use.

        Raises:
            DataError: as `read`; one class only, an empty class, or classes that differ between train and test.
        """
        parts = self.read(request)
        for problem in parts.problems():
            raise problem
        return parts


def make_parts(
    store: ImageStore,
    splits_N: Sequence[str],
    labels_N: Sequence[int],
    classes: tuple[str, ...],
    skipped: tuple[str, ...] = (),
) -> Parts:
    """Parts over one store, from the split ("train", "val", "test" or "source") and the label of each of its images."""
    labels = torch.as_tensor(labels_N, dtype=torch.int64)
    found: dict[str, ImageSet] = {}
    for split in SPLITS:
        indices = torch.tensor([i for i, name in enumerate(splits_N) if name == split], dtype=torch.int64)
        if split == "train" or len(indices):
            found[split] = ImageSet(store, indices, labels[indices], classes)
    return Parts(skipped=skipped, **found)


def class_list(labels: Iterable[str]) -> tuple[str, ...]:
    """The distinct labels in order: by number if all of them are whole numbers, else by text.

    Raises:
        DataError: one is no UTF-8.
    """
    distinct = set(labels)
    check_class_names(distinct)
    try:
        return tuple(sorted(distinct, key=lambda label: (int(label), label)))
    except ValueError:
        return tuple(sorted(distinct))


def check_class_names(names: Iterable[str]) -> None:
    """Raise DataError where a name is no UTF-8: models, tables and reports must be able to hold it."""
    if wrong := [found for name in sorted(names) if (found := not_utf8(name))]:
        do = "Rename the class, with letters that are UTF-8."
        raise DataError("names of classes must be UTF-8", got=first_of(wrong), do=do)


def first_of(cases: Sequence[str]) -> str:
    """The first case and how many more there are: `a.png and 3 more`."""
    return cases[0] if len(cases) == 1 else f"{cases[0]} and {len(cases) - 1} more"


def _named(classes: tuple[str, ...], mask_K: Tensor) -> list[str]:
    return [classes[k] for k in mask_K.nonzero().flatten().tolist()]


def _class_error(must_hold: str, classes: list[str], *, do: str, found: str = "") -> DataError:
    quoted = first_of([repr(name) for name in classes])
    return DataError(must_hold, got=f"{found} class {quoted}".lstrip(), do=do)
