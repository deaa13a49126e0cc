"""`nasimb monitor`: a stream of images batch by batch, as it comes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nasimb.display import undisturbed
from nasimb.onsite.charts import picture_of
from nasimb.onsite.images import Site
from nasimb.onsite.page import write_picture
from nasimb.onsite.records import Alarm, Record
from nasimb.onsite.tables import count_of
from nasimb.visible import json_text


def line(record: Record) -> str:
    """One batch for people."""
    noise = "unknown" if record.noise is None else f"{record.noise:.2f}"
    parts = [
        f"batch {record.batch:>4}",
        f"{record.images:>4} {'image ' if record.images == 1 else 'images'}",
        f"shift {record.shift:.2f} (noise {noise})",
        f"{'adapted' if record.adapted else 'as it is'}: {record.reason.value}",
        f"{record.flips:.0%} changed",
    ]
    if record.accuracy is not None:
        parts.append(f"accuracy {record.accuracy:.0%} of {record.labelled}")
    if record.few is not None:
        parts.append(f"few-shot recall {record.few:.0%} of {record.few_images}")
    return "  ".join(parts)


def new_alarms(record: Record, before: Record | None) -> list[str]:
    """A line for each alarm that the batch before did not have."""
    old = {} if before is None else before.alarms
    new = {kind: text for kind, text in record.alarms.items() if kind not in old}
    return [f"ALARM in batch {record.batch}, {kind.value}: {text}" for kind, text in new.items()]


def write_lines(
    records: Iterable[Record], classes: tuple[str, ...], write: Callable[[str], object]
) -> Iterator[Record]:
    """Passes the records on, each once its JSON is written, which is one line."""
    for record in records:
        write(json_text(record.to_dict(classes)))
        yield record


def closing_lines(records: Sequence[Record], site: Site, notes: Sequence[str]) -> list[str]:
    """What it was like over all."""
    images = sum(record.images for record in records)
    adapted = sum(record.images for record in records if record.adapted)
    alarmed = Counter(kind for record in records for kind in record.alarms)
    shown = count_of(images, "image") if images == len(site) else f"{images:,} of {count_of(len(site), 'image')}"
    batches = count_of(len(records), "batch", "batches")
    lines = [f"{shown} in {batches}; {adapted / max(images, 1):.0%} adapted to"]
    told = ", ".join(f"{kind.value} {alarmed[kind]:,}" for kind in Alarm if alarmed[kind])
    lines.append(f"batches with an alarm: {told}" if told else "no alarm")
    labelled, few = sum(record.labelled for record in records), sum(record.few_images for record in records)
    if labelled:
        right = sum(record.accuracy * record.labelled for record in records if record.accuracy is not None)
        lines.append(f"accuracy {right / labelled:.1%} of {count_of(labelled, 'labelled image')}")
    if few:
        right = sum(record.few * record.few_images for record in records if record.few is not None)
        lines.append(f"few-shot recall {right / few:.1%} of {count_of(few, 'image')}")
    return [*lines, *(f"note: {note}" for note in notes)]


@contextmanager
def drawn_in_the_end(
    records: Sequence[Record], classes: tuple[str, ...], title: str, file: Path | None
) -> Iterator[None]:
    """However the block ends, the records that there are then become a picture, whole.

    Args:
        file: as it was if there is no record; None: nothing is drawn.
    """
    try:
        yield
    finally:
        if file is not None and records:
            with undisturbed():
                write_picture(picture_of(records, classes, title), file)
