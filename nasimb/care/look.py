"""The closer look at data before a search: near-duplicates, suspected labels, and how far the source is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nasimb.care.duplicates import MOST_TWINS, NearDuplicates, near_duplicates
from nasimb.care.features import SIZE, Features, frozen, simple
from nasimb.care.gap import Gap, domain_gap
from nasimb.care.head import HeadCheck, head_check
from nasimb.care.labels import LabelErrors, label_errors, require_cleanlab
from nasimb.data.base import DatasetSpec, ImageSet, LoadRequest
from nasimb.data.inspect import Inspection, inspect_parts, splits_of, unreadable
from nasimb.errors import DataError, InputError

MOSTLY = 0.5
"""Share of the source that a super-network must have been trained on, for the gap to be one from what it knows."""


@dataclass(frozen=True, eq=False)
class CloserLook:
    """All that was found; what is None was not looked for, and `notes` say why.

    Attributes:
        inspection: as without a closer look.
        sets: the splits, 32 x 32 pixels, by name; empty if the data could not be read.
        features: what images were compared by.
        head: measured where a super-network lends its features, and has not learned the target's images; where it is
            there, it has the last word on whether a head suffices.
        notes: sentences on what could not be looked for.

    Example:
        >>> from nasimb.data import parse_dataset
        >>> found = look_closer(parse_dataset("digits:0-1"), labels=False)
        >>> print(found.lines()[0])
        Target and source look alike (...): retraining the head alone is likely to suffice.
        >>> sorted(found.values())
        ['features', 'gap', 'head', 'label_judge', 'near_duplicates', 'notes', 'suspected_labels']
    """

    inspection: Inspection
    sets: dict[str, ImageSet]
    features: str
    near: NearDuplicates | None = None
    labels: LabelErrors | None = None
    gap: Gap | None = None
    head: HeadCheck | None = None
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """What the closer look found, a sentence each."""
        said = []
        if self.head is not None:
            said += [self.head.sentence, *([] if self.gap is None else [self.gap.distance])]
        elif self.gap is not None:
            said += [self.gap.sentence, *([self.gap.caveat] if self.gap.caveat else [])]
        if self.near is not None:
            near, across = self.near, len(self.near.across)
            said.append(f"Near-duplicates: {len(near.pairs):,} pairs, {across:,} of them across splits.")
            if near.alike:
                said.append(f"Images that resemble more than {MOST_TWINS} others, not listed: {near.alike:,}.")
            if near.plain:
                said.append(f"Plain images, not compared for near-duplicates: {near.plain:,}.")
            if near.left_out:
                said.append(f"Images not compared for near-duplicates, because there are too many: {near.left_out:,}.")
        if self.labels is not None:
            said += self.labels.lines()
        return [*said, *self.notes]

    def values(self) -> dict[str, Any]:
        """What the closer look found, as JSON can hold it."""
        near, errors, gap, head = self.near, self.labels, self.gap, self.head
        return {
            "features": self.features,
            "near_duplicates": None if near is None else {
                "pairs": near.pairs.to_dict("records"), "alike": near.alike, "plain": near.plain,
                "left_out": near.left_out,
            },
            "suspected_labels": None if errors is None else errors.suspected.to_dict("records"),
            "label_judge": None if errors is None else {
                "features": errors.features, "accuracy": errors.accuracy, "judged": len(errors.ranked),
                "not_judged": errors.not_judged,
            },
            "gap": None if gap is None else {
                "frechet": gap.frechet, "unit": gap.unit, "ratio": gap.ratio, "limit": gap.limit,
                "separability": gap.separability, "head_suffices": gap.head_suffices, "sentence": gap.sentence,
                "caveat": gap.caveat,
            },
            "head": None if head is None else {
                "frozen": head.frozen, "simple": head.simple, "suffices": head.suffices, "sentence": head.sentence,
            },
            "notes": list(self.notes),
        }  # fmt: skip


def look_closer(
    data: DatasetSpec,
    *,
    source: DatasetSpec | None = None,
    supernet: Path | None = None,
    download: bool = False,
    labels: bool = True,
) -> CloserLook:
    """Inspect the data, and compare their images with each other and with those of the source.

    Args:
        source: its training images, or those it sets aside for a super-network; None: those that `data` set aside.
        supernet: folder of a trained super-network; None: simple features, which need no training. They also judge
            labels that the super-network was trained on, since its features may have learned the wrong ones by heart.
        labels: whether to look for label errors, which takes the optional cleanlab; without it a note says so.

    Raises:
        InputError: no finished super-network in that folder.
        DataError: the source cannot be read.

    Example:
        >>> from nasimb.data import parse_dataset
        >>> found = look_closer(parse_dataset("digits:0-1"), labels=False)
        >>> found.gap.head_suffices
        True
        >>> found.lines()[2]
        'Near-duplicates: 8 pairs, 6 of them across splits.'
    """
    features = simple() if supernet is None else frozen(supernet)
    request = LoadRequest(size=SIZE, download=download, skip_bad_images=True)
    nothing = ("Without training images there is nothing to compare.",)
    try:
        parts = data.read(request)
    except DataError as error:
        return CloserLook(unreadable(error), {}, features.name, notes=nothing)
    found, sets = inspect_parts(parts), splits_of(parts)
    if not len(parts.train):
        return CloserLook(found, sets, features.name, notes=nothing)
    # As a super-network was given them, so that what it was trained on is known again.
    fitting = replace(request, size=features.size, channels=features.channels)
    own = sets if fitting == request else splits_of(data.read(fitting))
    gap, gap_notes = _gap(own, None if source is None else splits_of(source.read(fitting)), features)
    errors, labels_notes = _labels(sets["train"], own["train"], features) if labels else (None, [])
    head = None
    if supernet is not None and not features.seen(own["train"]):
        head = head_check(own["train"], features.of(own["train"]), simple().of(sets["train"]))
    notes = (*labels_notes, *gap_notes)
    return CloserLook(found, sets, features.name, near_duplicates(sets), errors, gap, head, notes)


def _labels(named: ImageSet, images: ImageSet, features: Features) -> tuple[LabelErrors | None, list[str]]:
    """Label errors and notes.

    Args:
        named: the training images at the size of simple features.
        images: the same as `features` take them.
    """
    try:
        require_cleanlab()
    except InputError as error:
        return None, [f"Not looked for label errors: {error}"]
    notes = []
    if seen := features.seen(images):
        notes.append(
            f"The super-network was trained on {seen:,} of the {len(images):,} training images, and may know wrong "
            "labels by heart: simple features judge them instead."
        )
        images, features = named, simple()
    found = label_errors(named, features.of(images), by=features.name)
    if found is None:
        return None, ["Not looked for label errors: fewer than two classes have two training images."]
    return found, notes


def _gap(
    own: dict[str, ImageSet], other: dict[str, ImageSet] | None, features: Features
) -> tuple[Gap | None, list[str]]:
    """How far the source is, and notes."""
    sets = own if other is None else other
    source = sets.get("source", None if other is None else sets["train"])
    if source is None:
        return None, ["Not measured how far the source is: name it with --source."]
    found = domain_gap(source, own["train"], features)
    if found is None:
        return None, ["Not measured how far the source is: it must have images of two classes that differ."]
    return found, _seen_notes(source, own["train"], features)


def _seen_notes(source: ImageSet, target: ImageSet, features: Features) -> list[str]:
    """What the gap through a super-network does not say, because of what that was trained on."""
    if not features.trained_on:
        return []
    notes, seen = [], features.seen(source)
    if seen < MOSTLY * len(source):
        notes.append(
            f"The super-network was trained on {seen:,} of the {len(source):,} source images: how far these are says "
            "little about a head on its features."
        )
    if known := features.seen(target):
        notes.append(
            f"The super-network was trained on {known:,} of the {len(target):,} training images themselves: its "
            "features know the target, however far the source is, and no head was measured on them."
        )
    return notes
