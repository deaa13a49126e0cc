"""`nasimb monitor`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
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
from nasimb.cli.pipes import NOBODY_READS, tell_nobody
from nasimb.cli.starting import importing
from nasimb.display import watching
from nasimb.onsite.orders import Order
from nasimb.visible import visible

if TYPE_CHECKING:
    from nasimb.onsite.records import Record
    from nasimb.session import Stop


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
    labelled, all or some of them; then accuracy and few-shot recall are told too. Ctrl-C ends it after the
    batch at hand, a second one at once; the picture is written in any case, and the exit code is 130.
    """
    with importing():
        from nasimb.onsite.monitor import closing_lines, drawn_in_the_end, line, new_alarms, write_lines
        from nasimb.onsite.page import check_outputs
        from nasimb.onsite.watched import watch
        from nasimb.phases.prepare import choose_device

    log = None if jsonl in (None, "-") else Path(str(jsonl))
    check_outputs(log, picture)
    records: list[Record] = []

    def tell(*lines: str) -> None:
        for text in lines:
            print(visible(text), file=sys.stderr if jsonl == "-" else sys.stdout, flush=True)

    watched = watch(
        model, data, strategy, batch_size=batch, profile_data=profile_data, order=order, seed=seed,
        device=choose_device(device), skip_bad_images=skip_bad_images,
    )  # fmt: skip
    stop: Stop = int  # 0: no signal
    try:
        with (
            watching(speaking=False, raising=True) as (_, stop),
            drawn_in_the_end(records, watched.model.classes, f"{model} at {data}", picture),
            nullcontext(sys.stdout) if log is None else log.open("w", encoding="utf-8") as lines,
        ):
            coming: Iterator[Record] = (record for _, record in watched.batches(stop))
            if jsonl is not None:
                # Line by line, so that whoever reads along sees a batch as soon as it is done.
                coming = write_lines(coming, watched.model.classes, partial(print, file=lines, flush=True))
            for record in coming:
                alarms = new_alarms(record, records[-1] if records else None)
                records.append(record)
                tell(line(record), *alarms)
            tell(*closing_lines(records, watched.site, watched.notes))
        if picture is not None:
            tell(f"picture: {picture}")
    except KeyboardInterrupt:  # by the second signal, or by Ctrl-C before or after it was watched for
        raise typer.Exit(128 + (stop() or signal.SIGINT)) from None
    except BrokenPipeError:
        tell_nobody()
        raise typer.Exit(128 + stop() if stop() else NOBODY_READS) from None
    if stop():
        raise typer.Exit(128 + stop())
    if fail_on_alarm and any(record.alarms for record in records):
        raise typer.Exit(1)
