"""`nasimb monitor`: a stream of images batch by batch, as it comes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from nasimb.onsite.images import Site
from nasimb.onsite.records import Alarm, Record
from nasimb.onsite.tables import count_of


def line(record: Record) -> str:
    """One batch for people."""
    parts = [
        f"batch {record.batch:>4}",
        f"{record.images:>4} images",
        f"shift {record.shift:.2f} (noise {record.noise:.2f})",
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
    return [
        f"ALARM batch {record.batch}: {kind.value}: {text}" for kind, text in record.alarms.items() if kind not in old
    ]


def write_lines(
    records: Iterable[Record], classes: tuple[str, ...], write: Callable[[str], object]
) -> Iterator[Record]:
    """Passes the records on, each once its JSON line is written."""
    for record in records:
        write(json.dumps(record.to_dict(classes), ensure_ascii=False) + "\n")
        yield record


def closing_lines(records: Sequence[Record], site: Site, notes: Sequence[str]) -> list[str]:
    """What it was like over all."""
    images = sum(record.images for record in records)
    adapted = sum(record.images for record in records if record.adapted)
    alarmed = Counter(kind for record in records for kind in record.alarms)
    of_all = "" if images == len(site) else f" of {len(site):,}"
    lines = [f"{images:,}{of_all} images in {count_of(records, 'batch')}; {adapted / max(images, 1):.0%} adapted to"]
    told = ", ".join(f"{kind.value} in {alarmed[kind]:,}" for kind in Alarm if alarmed[kind])
    lines.append(f"alarms: {told} batches" if told else "no alarm")
    labelled, few = sum(record.labelled for record in records), sum(record.few_images for record in records)
    if labelled:
        right = sum(record.accuracy * record.labelled for record in records if record.accuracy is not None)
        lines.append(f"accuracy {right / labelled:.1%} of {labelled:,} labelled images")
    if few:
        right = sum(record.few * record.few_images for record in records if record.few is not None)
        lines.append(f"few-shot recall {right / few:.1%} of {few:,} images")
    return [*lines, *(f"note: {note}" for note in notes)]
