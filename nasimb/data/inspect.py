"""What stands in a data set: counts, imbalance, and everything that is wrong with it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import pandas as pd

from nasimb.data.base import DatasetSpec, ImageSet, LoadRequest, Parts, first_of
from nasimb.data.longtail import imbalance_factor
from nasimb.data.splits import remove_shared
from nasimb.errors import DataError

# The rule of classifier-balancing (Kang et al. 2020): by training count, both ends of "medium" included.
MANY_ABOVE, FEW_BELOW = 100, 20


@dataclass(frozen=True, eq=False)
class Inspection:
    """The findings.

    Attributes:
        table: one row a class: class, train, val, test (and source, where there is one), group. A split that the data
            do not have is <NA>. No rows if the data could not be read at all.
        imbalance_factor: n_max / n_min of the training counts; None without training images.
        groups: how many classes are many-shot, medium-shot and few-shot.
        channels: 1 or 3, as stored; None if the data could not be read.
        fingerprints: of every split.
        skipped: "path (reason)" of every file that is not a readable image.
        problems: sentences on what stops a search, worst first.
        remarks: sentences on what is allowed, but good to know.

    Example:
        >>> from nasimb.data import parse_dataset
        >>> found = inspect_dataset(parse_dataset("digits:0-2"), LoadRequest(size=8))
        >>> found.table
          class  train   val  test  source   group
        0     0     60  <NA>    60      54  medium
        1     1     60  <NA>    60      54  medium
        2     2     60  <NA>    60      54  medium
    """

    table: pd.DataFrame
    imbalance_factor: float | None
    groups: dict[str, int]
    channels: int | None
    fingerprints: dict[str, str]
    skipped: tuple[str, ...]
    problems: tuple[str, ...]
    remarks: tuple[str, ...]


def inspect_dataset(spec: DatasetSpec, request: LoadRequest) -> Inspection:
    """Read everything that can be read and list all that is wrong, instead of stopping at the first error.

    Example:
        >>> import numpy as np
        >>> from tempfile import TemporaryDirectory
        >>> from nasimb.data import parse_dataset
        >>> images = np.random.default_rng(0).integers(256, size=(40, 8, 8)).astype(np.uint8)
        >>> images[39] = images[0]  # the same image, with another label
        >>> labels = np.array([0] * 38 + [1] * 2)
        >>> with TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/mine.npz", train_images=images, train_labels=labels)
        ...     found = inspect_dataset(parse_dataset(f"arrays:{folder}/mine.npz"), LoadRequest(size=8))
        >>> found.imbalance_factor, found.groups
        (19.0, {'many': 0, 'medium': 1, 'few': 1})
        >>> [remark.partition(" (")[0] for remark in found.remarks]
        ['Repeated training images: 1', 'The same image in two classes: 1']
    """
    try:
        parts = spec.read(replace(request, skip_bad_images=True))
    except DataError as error:
        return unreadable(error)
    return inspect_parts(parts)


def unreadable(error: DataError) -> Inspection:
    """Of data that cannot be read at all."""
    table = pd.DataFrame(columns=["class", "train", "val", "test", "group"])
    return Inspection(table, None, {"many": 0, "medium": 0, "few": 0}, None, {}, (), (str(error),), ())


def splits_of(parts: Parts) -> dict[str, ImageSet]:
    """The splits that the data have, by name: train, val, test, source."""
    return {name: part for name in ("train", "val", "test", "source") if (part := getattr(parts, name)) is not None}


def inspect_parts(parts: Parts) -> Inspection:
    """As `inspect_dataset`, of data that were read already, bad images skipped."""
    sets = splits_of(parts)
    counts = parts.train.class_counts_K
    groups = [_group(count) for count in counts.tolist()]
    problems, remarks = _leaks(sets)
    return Inspection(
        table=_table(sets, groups),
        imbalance_factor=imbalance_factor(counts) if len(parts.train) else None,
        groups={name: groups.count(name) for name in ("many", "medium", "few")},
        channels=parts.train.channels,
        fingerprints={name: image_set.fingerprint() for name, image_set in sets.items()},
        skipped=parts.skipped,
        problems=(*_unreadable(parts), *map(str, parts.problems()), *problems),
        remarks=(*_single_images(parts.train), *_repeats(parts.train), *remarks),
    )


def _table(sets: dict[str, ImageSet], groups: list[str | None]) -> pd.DataFrame:
    table = pd.DataFrame({"class": list(sets["train"].classes)})
    for split in ("train", "val", "test", "source"):
        if split in sets:
            table[split] = pd.array(sets[split].class_counts_K.tolist(), dtype="Int64")
        elif split != "source":
            table[split] = pd.array([pd.NA] * len(table), dtype="Int64")
    table["group"] = groups
    return table


def _group(count: int) -> str | None:
    if count == 0:
        return None
    return "many" if count > MANY_ABOVE else "few" if count < FEW_BELOW else "medium"


def _unreadable(parts: Parts) -> list[str]:
    if not parts.skipped:
        return []
    got = f"{len(parts.skipped)} that are not: {first_of(parts.skipped)}"
    do = "Mend or remove them, or leave them out with --skip-bad-images."
    return [str(DataError("every file among the images must be a readable image", got=got, do=do))]


def _leaks(sets: dict[str, ImageSet]) -> tuple[list[str], list[str]]:
    """(problems, remarks) on images that stand in two splits."""
    problems, remarks = [], []
    precious = [name for name in ("source", "train", "val", "test") if name in sets]
    for number, name in enumerate(precious):
        for other in precious[number + 1 :]:
            try:
                remarks += remove_shared({name: sets[name], other: sets[other]})[1]
            except DataError as error:
                problems.append(str(error))
    return problems, remarks


def _single_images(train: ImageSet) -> list[str]:
    single = [repr(train.classes[k]) for k in (train.class_counts_K == 1).nonzero().flatten().tolist()]
    return [f"Fewer than two training images: class {first_of(single)}."] if single else []


def _repeats(train: ImageSet) -> list[str]:
    """Sentences on training images that occur more than once, and on those among them with two labels."""
    copies: dict[str, list[int]] = defaultdict(list)
    for position, content in enumerate(train.hashes()):
        copies[content].append(position)
    repeated = [positions for positions in copies.values() if len(positions) > 1]
    torn = [positions for positions in repeated if len({int(train.labels_N[p]) for p in positions}) > 1]
    remarks = []
    if repeated:
        extra = sum(len(positions) - 1 for positions in repeated)
        names = " and ".join(train.name(position) for position in repeated[0][:2])
        remarks.append(f"Repeated training images: {extra} (first: {names}).")
    if torn:
        names = " and ".join(f"{train.name(p)} ({train.classes[int(train.labels_N[p])]})" for p in torn[0][:2])
        remarks.append(f"The same image in two classes: {len(torn)} (first: {names}).")
    return remarks
