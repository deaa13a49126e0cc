"""`nasimb plan`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from nasimb.cli.launch import refuse_torchrun
from nasimb.cli.search_options import (
    Assignments,
    Budget,
    Calibration,
    Config,
    Data,
    Device,
    Download,
    Draws,
    HeadCrops,
    ImbalanceFactor,
    MaxMacs,
    MaxParams,
    Objective,
    Profile,
    Run,
    Sampler,
    Seed,
    SkipBadImages,
    Source,
    Space,
    Storage,
    Supernet,
    Validation,
    Workers,
    configuration,
)
from nasimb.cli.starting import importing
from nasimb.display import watching
from nasimb.errors import InputError

PLAN = "The plan"
MOST_DEVICES = 1_000_000


def plan(
    context: typer.Context,
    data: Data = None,
    source: Source = None,
    supernet: Supernet = None,
    imbalance_factor: ImbalanceFactor = None,
    profile: Profile = None,
    budget: Budget = None,
    space: Space = None,
    objective: Objective = None,
    max_macs: MaxMacs = None,
    max_params: MaxParams = None,
    sampler: Sampler = None,
    sampling: Draws = None,
    calibration: Calibration = None,
    head_crops: HeadCrops = None,
    validation: Validation = None,
    seed: Seed = None,
    run: Run = None,
    workers: Workers = 0,
    storage: Storage = None,
    config: Config = None,
    assign: Assignments = None,
    device: Device = None,
    skip_bad_images: SkipBadImages = None,
    download: Download = None,
    devices: Annotated[
        str, typer.Option(help="Numbers of devices like this one to compare.", rich_help_panel=PLAN)
    ] = "1,2,4,8",
    price: Annotated[
        str | None,
        typer.Option(
            help="What time costs, in any currency: 2.5/gpu-h, 0.04/cpu-h (an hour of a thread) or 3/h (of a machine).",
            rich_help_panel=PLAN,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.", rich_help_panel=PLAN)] = False,
) -> None:
    """Say what a search would do with its budget, before anything is spent: the options are those of nasimb search.

    Some seconds of measuring on your images and this machine, then: what each phase gets, how many candidates to
    expect, time on the clock here and on more devices, the smallest useful budget, and money with --price. Nothing is
    written, but that an empty database named with --storage gets its tables, by which it shows that it works.
    Under a budget of trials: how long they will take. Exit code 2 where the budget is too small for anything useful.
    """
    refuse_torchrun()
    with importing():
        from nasimb.plan import plan_run
        from nasimb.price import Price
        from nasimb.report.plan import print_plan

    chosen, folder = configuration(
        data=data, source=source, supernet=supernet, imbalance_factor=imbalance_factor, profile=profile, budget=budget,
        space=space, objective=objective, max_macs=max_macs, max_params=max_params, sampler=sampler, sampling=sampling,
        calibration=calibration, head_crops=head_crops, validation=validation, seed=seed, run=run, config=config,
        assign=assign, device=device, skip_bad_images=skip_bad_images, download=download,
    )  # fmt: skip
    numbers, paid = _numbers(devices), None if price is None else Price.parse(price)
    if storage is not None:
        _check_storage(storage)
    with watching() as (watcher, stop):
        found = plan_run(chosen, devices=numbers, price=paid, begun=context.obj, watcher=watcher, stop=stop)
    if as_json:
        print(json.dumps({**found, "run": str(folder)}, indent=2, ensure_ascii=False))
        return
    print_plan(found)
    for line in _next(folder, workers):
        print(line)


def _numbers(text: str) -> list[int]:
    """The numbers of devices, each once, in order.

    Raises:
        InputError: something else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 0 < int(part) <= MOST_DEVICES for part in parts):
        do = "Type for example --devices 1,2,4,8."
        raise InputError("devices must be whole numbers from 1 on, joined by commas", got=repr(text), do=do)
    return sorted({int(part) for part in parts})


def _check_storage(address: str) -> None:
    """Raise InputError or StorageError where the search could not open it."""
    from nasimb.search.storage import open_storage

    with tempfile.TemporaryDirectory(prefix="nasimb-plan-") as folder:
        open_storage(address, Path(folder))


def _next(folder: Path, workers: int) -> list[str]:
    """What stands in the run folder, and what workers on one machine share."""
    lines = []
    if workers > 1:
        lines.append(f"{workers} workers on this machine share its threads, and its GPUs where there are several.")
    if (folder / "config.yaml").is_file():
        lines.append(f"{folder} holds a run already (nasimb status {folder}); this plan is for a new one.")
    else:
        lines.append(f"nasimb search with the same options does it, in {folder}.")
    return lines
