"""What a run is about: the images a super-network is trained on, the imbalanced target, and the test split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from nasimb.data.base import DatasetSpec, ImageSet, LoadRequest, Parts, first_of
from nasimb.data.longtail import make_long_tailed
from nasimb.data.splits import check_disjoint, remove_shared, split_images
from nasimb.errors import DataError


@dataclass(frozen=True, eq=False)
class Task:
    """All images of a run; no image stands in more than one of source (or target), validation and test.

    Attributes:
        source: what the super-network is trained on.
        source_is_target: whether that is the target itself; then leave-one-out on the target is not honest.
        target: the imbalanced training set, all of it.
        test: read once, at the end.
        validation: only where `source_is_target`: kept from the super-network's training, to rank candidates. Fit
            heads on `source` and rank on `validation`; the final head may see the whole `target`. Part of `target`
            (then source = target minus validation) unless the data came with a validation split of their own.
        flip: whether a horizontal flip keeps the label in all of them.
        notes: sentences on what was done to the data, for the report.

    Example:
        >>> from nasimb.data import LoadRequest, parse_dataset
        >>> task = load_task(parse_dataset("digits:0-2"), request=LoadRequest(size=8), imbalance_factor=10)
        >>> {name: len(images) for name, images in task.sets().items()}
        {'source': 162, 'target': 84, 'test': 180}
        >>> task.target.class_counts_K.tolist(), task.flip
        ([60, 18, 6], False)
    """

    source: ImageSet
    source_is_target: bool
    target: ImageSet
    test: ImageSet
    validation: ImageSet | None
    flip: bool
    notes: tuple[str, ...]

    def sets(self) -> dict[str, ImageSet]:
        """The image sets by name; `validation` only where there is one."""
        found = {"source": self.source, "target": self.target, "test": self.test}
        return found if self.validation is None else {**found, "validation": self.validation}

    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of every set by name."""
        return {name: image_set.fingerprint() for name, image_set in self.sets().items()}

    def splits(self) -> dict[str, list[int]]:
        """Indices into its store of every set by name, to be saved with a run."""
        return {name: image_set.indices_N.tolist() for name, image_set in self.sets().items()}


def load_task(
    data: DatasetSpec,
    source: DatasetSpec | Literal["target", "elsewhere"] | None = None,
    *,
    request: LoadRequest,
    imbalance_factor: float | None = None,
    profile: str = "exponential",
    seed: int = 0,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.2,
) -> Task:
    """Load, split, make the long tail, and make sure that nothing leaks.

    Args:
        source: a data set, whose training images (or own source part) are used whole; "target" trains on the target
            minus a stratified hold-out; None is the source part of `data` where it has one, else "target".
            "elsewhere": the super-network is trained already, on images that are not here; `Task.source` is `target`.
        request: with `channels` None, the target is converted to the channels of the source.
        imbalance_factor: n_max / n_min of the long tail to make; None is the data set's default, which for all but
            `digits` leaves the images as they are.
        profile: "exponential" or "step".
        seed: of the splits and of the long tail.
        test_fraction: held out, stratified, where the data have no test split; before the long tail is made.
        validation_fraction: held out, stratified, where the source is the target and the data have no such split.

    Raises:
        DataError: the data cannot be loaded, or two sets share images (see `remove_shared` for what is tolerated).
        InputError: a fraction, factor or profile that cannot be.

    Example, a super-network that is to be trained on the imbalanced images themselves:
        >>> from nasimb.data import parse_dataset
        >>> task = load_task(parse_dataset("digits:0-2"), "target", request=LoadRequest(size=8), imbalance_factor=10)
        >>> {name: len(images) for name, images in task.sets().items()}
        {'source': 67, 'target': 84, 'test': 180, 'validation': 17}
        >>> print(task.notes[0])
        The target was made long-tailed (exponential, imbalance factor 10, seed 0): 84 of 180 images, 60 to 6 a class.
    """
    notes: list[str] = []
    source_parts = source.load(request) if isinstance(source, DatasetSpec) else None
    if source_parts is not None:
        request = replace(request, channels=source_parts.train.channels)
    parts = data.load(request)
    source_set = (source_parts.source or source_parts.train) if source_parts is not None else None
    if source is None:
        source_set = parts.source
    notes += _skipped(source_parts, "source") + _skipped(parts, "target")

    target, test = _test_split(parts, test_fraction, seed, notes)
    factor = data.default_imbalance_factor if imbalance_factor is None else imbalance_factor
    if factor is not None:
        target = _long_tailed(target, factor, profile, seed, notes)
    flip = data.flip and (source.flip if isinstance(source, DatasetSpec) else True)
    notes += _single_images(target)
    if source == "elsewhere":
        return _checked(Task(target, False, target, test, None, flip, tuple(notes)))
    if source_set is None:
        return _on_target(target, test, parts.val, flip, validation_fraction, seed, notes)
    if parts.val is not None:
        unused = f"The validation split of the data ({len(parts.val)} images) is not used"
        notes.append(f"{unused}: the super-network never sees the target, so every target image can rank.")
    sets, removed = remove_shared({"source": source_set, "target": target, "test": test})
    return _checked(Task(sets["source"], False, sets["target"], sets["test"], None, flip, (*notes, *removed)))


def _test_split(parts: Parts, fraction: float, seed: int, notes: list[str]) -> tuple[ImageSet, ImageSet]:
    """(training pool, test): the official test split, or a stratified one."""
    if parts.test is not None:
        sets, removed = remove_shared({"train": parts.train, "test": parts.test})
        notes += removed
        return sets["train"], sets["test"]
    pool, test, copies = split_images(parts.train, fraction, seed)
    held_out = f"{len(test)} images ({fraction:.0%}, stratified, seed {seed})"
    notes.append(f"The data have no test split: {held_out} were held out as one.")
    if copies:
        notes.append(f"{copies} copies of test images were left out of training.")
    notes += _absent(test, "test")
    return pool, test


def _long_tailed(pool: ImageSet, factor: float, profile: str, seed: int, notes: list[str]) -> ImageSet:
    target = make_long_tailed(pool, factor, profile, seed)
    counts = target.class_counts_K
    notes.append(
        f"The target was made long-tailed ({profile}, imbalance factor {factor:g}, seed {seed}): "
        f"{len(target)} of {len(pool)} images, {int(counts.max())} to {int(counts.min())} a class."
    )
    return target


def _on_target(
    target: ImageSet, test: ImageSet, val: ImageSet | None, flip: bool, fraction: float, seed: int, notes: list[str]
) -> Task:
    """The task in which the super-network sees the target itself."""
    if val is not None:
        sets, removed = remove_shared({"target": target, "validation": val, "test": test})
        notes += removed
        target = source = sets["target"]
        validation, test = sets["validation"], sets["test"]
    else:
        source, validation, copies = split_images(target, fraction, seed)
        if copies:
            notes.append(f"{copies} copies of validation images were left out of the super-network's training.")
    notes.append(
        f"The super-network is trained on the target itself ({len(source)} images); "
        f"{len(validation)} are kept from it and rank the candidates."
    )
    notes += _absent(validation, "validation")
    return _checked(Task(source, True, target, test, validation, flip, tuple(notes)))


def _checked(task: Task) -> Task:
    """The task, once more compared set by set, and with an image in every class."""
    check_disjoint({"target": task.target, "test": task.test})
    check_disjoint({name: part for name, part in task.sets().items() if name != "target"})
    if not task.source_is_target and task.source is not task.target:
        check_disjoint({"source": task.source, "target": task.target})
    for name, image_set in (("source", task.source), ("target", task.target)):
        empty = (image_set.class_counts_K == 0).nonzero().flatten().tolist()
        if empty:
            classes = first_of([repr(image_set.classes[k]) for k in empty])
            raise DataError(
                f"every class must have an image in {name}",
                got=f"none in class {classes}, after repeated images were left out",
                do="Give the class images of its own.",
            )
    if task.validation is not None and not len(task.validation):
        raise DataError(
            "candidates are ranked on images that are kept from the super-network",
            got="none, after repeated images were left out",
            do="Give more images that differ.",
        )
    return task


def _single_images(target: ImageSet) -> list[str]:
    single = [repr(target.classes[k]) for k in (target.class_counts_K == 1).nonzero().flatten().tolist()]
    return [f"Fewer than two training images: class {first_of(single)}."] if single else []


def _absent(image_set: ImageSet, split: str) -> list[str]:
    absent = [repr(image_set.classes[k]) for k in (image_set.class_counts_K == 0).nonzero().flatten().tolist()]
    return [f"The {split} split has no image of class {first_of(absent)}."] if absent else []


def _skipped(parts: Parts | None, what: str) -> list[str]:
    if parts is None or not parts.skipped:
        return []
    return [f"{len(parts.skipped)} files of the {what} could not be read and were left out: {first_of(parts.skipped)}."]
