"""`nasimb monitor`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nasimb.cli.onsite_options import (
    Batch,
    Data,
    Device,
    ModelFolder,
    Ordered,
    ProfileData,
    Seed,
    SkipBadImages,
    StrategyName,
)
from nasimb.cli.starting import importing
from nasimb.display import watching
from nasimb.onsite.orders import Order

if TYPE_CHECKING:
    from nasimb.onsite.records import Record


def monitor(
    model: ModelFolder,
    data: Data,
    strategy: StrategyName = "mixed",
    batch: Batch = 64,
    profile_data: ProfileData = None,
    order: Ordered = Order.auto,
    seed: Seed = 0,
    jsonl: Annotated[
        str | None,
        typer.Option(help='Write a JSON line a batch, at once, to this file; "-" writes them to standard output.'),
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Write a picture over time (SVG) here in the end.")] = None,
    fail_on_alarm: Annotated[
        bool, typer.Option("--fail-on-alarm", help="Exit code 1 if there was an alarm; else alarms do not change it.")
    ] = False,
    device: Device = "auto",
    skip_bad_images: SkipBadImages = False,
) -> None:
    """Watch a finished model on a stream of images, batch by batch: shift, class mix, what is adapted to, alarms.

    Alarms: drift too far to adapt to, collapsing predictions, a class mix far from training, a stream in which
    neighbours resemble each other, images of a few classes only, a change since the adaptation began. Images may be
    labelled, all or some of them; then accuracy and few-shot recall are told too. Ctrl-C ends it: the picture is still
    written, and the exit code is 130.
    """
    with importing():
        from nasimb.onsite.charts import picture_of
        from nasimb.onsite.monitor import closing_lines, line, new_alarms, write_lines
        from nasimb.onsite.page import check_new, check_writable, write_picture
        from nasimb.onsite.watched import watch
        from nasimb.phases.prepare import choose_device

    log = None if jsonl in (None, "-") else Path(str(jsonl))
    for file in (picture, log):
        if file is not None:
            check_writable(file)
    if log is not None:
        check_new(log, picture)
    records: list[Record] = []
    people = sys.stderr if jsonl == "-" else sys.stdout
    with watching(speaking=False) as (_, stop), ExitStack() as files:
        watched = watch(
            model, data, strategy, batch_size=batch, profile_data=profile_data, order=order, seed=seed,
            device=choose_device(device), skip_bad_images=skip_bad_images,
        )  # fmt: skip
        coming: Iterator[Record] = (record for _, record in watched.batches(stop))
        if jsonl is not None:
            # Line by line, so that whoever reads along sees a batch as soon as it is done.
            lines = None if jsonl == "-" else files.enter_context(Path(jsonl).open("w", buffering=1, encoding="utf-8"))
            coming = write_lines(coming, watched.model.classes, (lines or sys.stdout).write)
        for record in coming:
            print(line(record), file=people)
            for alarm in new_alarms(record, records[-1] if records else None):
                print(alarm, file=people)
            people.flush()
            sys.stdout.flush()
            records.append(record)
        signal_number = stop()
    for text in closing_lines(records, watched.site, watched.notes):
        print(text, file=people)
    if picture is not None:
        write_picture(picture_of(records, watched.model.classes, f"{model} at {data}"), picture)
        print(f"picture: {picture}", file=people)
    if signal_number:
        raise typer.Exit(128 + signal_number)
    if fail_on_alarm and any(record.alarms for record in records):
        raise typer.Exit(1)
