"""`nasimb monitor`: a stream of images batch by batch, as it comes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nasimb.adapt.adapter import BatchNormAdapter
from nasimb.adapt.strategies import strategy as strategy_named
from nasimb.export import Model, load
from nasimb.onsite.dryrun import model_folder
from nasimb.onsite.images import Order, Site, load_site
from nasimb.onsite.profiles import known_training
from nasimb.onsite.records import Alarm, Record, Recorder
from nasimb.onsite.stream import stream
from nasimb.session import Stop


@dataclass(frozen=True, eq=False)
class Watched:
    """A model and the images it is shown; `records` goes through them once."""

    model: Model
    site: Site
    adapter: BatchNormAdapter
    batch_size: int
    device: torch.device
    notes: tuple[str, ...]

    def records(self, stop: Stop) -> Iterator[Record]:
        """One a batch; ends early once `stop` gives a signal."""
        model = self.model
        recorder = Recorder.begin(self.adapter, model.classes, model.description.class_counts_K)
        for seen in stream(
            model, self.adapter, self.site, batch_size=self.batch_size, device=self.device, stop=stop
        ):  # fmt: skip
            record, recorder = recorder.record(seen, self.site)
            yield record


def watch(
    folder: Path,
    data: str,
    strategy: str = "mixed",
    *,
    batch_size: int = 64,
    profile_data: str | None = None,
    order: Order = Order.auto,
    seed: int = 0,
    device: torch.device,
    skip_bad_images: bool = False,
) -> Watched:
    """Everything that is loaded and checked before the first batch; arguments as of `dry_run`.

    Raises:
        InputError: the model, the images or the strategy are not fit for each other.
    """
    strategy_named(strategy)  # before anything takes time
    folder = model_folder(folder)
    model = load(folder).to(device)
    site = load_site(data, model, order=order, seed=seed, device=device, skip_bad_images=skip_bad_images)
    known = known_training(folder, model, profile_data, device=device)
    adapter = BatchNormAdapter(model, strategy, profile=known.profile)
    return Watched(model, site, adapter, batch_size, device, (known.note, *site.notes))


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
    lines = [f"{images:,}{of_all} images in {len(records):,} batches; {adapted / max(images, 1):.0%} adapted to"]
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
