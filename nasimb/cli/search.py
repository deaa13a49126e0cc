"""`nasimb search`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from nasimb.cli.launch import refuse_torchrun
from nasimb.cli.options import Format
from nasimb.cli.search_options import (
    RUN,
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


def search(
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
    as_json: Annotated[
        bool, typer.Option("--json", help="Print result.json instead of tables.", rich_help_panel=RUN)
    ] = False,
) -> None:
    """Search the best network for imbalanced images within a budget: --budget 3min tries it on embedded digits.

    A super-network is trained on balanced images and frozen; Optuna samples subnets of it; each is scored with a
    reweighted linear head on your images, of which a part screens them first where there are many. The winner, a table
    and the spend are left in the run folder.
    The same command again resumes an interrupted run; nasimb worker RUN joins a running one.
    """
    refuse_torchrun()
    with importing():
        from nasimb.phases.sharing import Sharing
        from nasimb.pipeline import run_search
        from nasimb.report.show import print_report

    chosen, folder = configuration(
        data=data, source=source, supernet=supernet, imbalance_factor=imbalance_factor, profile=profile, budget=budget,
        space=space, objective=objective, max_macs=max_macs, max_params=max_params, sampler=sampler, sampling=sampling,
        calibration=calibration, head_crops=head_crops, validation=validation, seed=seed, run=run, config=config,
        assign=assign, device=device, skip_bad_images=skip_bad_images, download=download,
    )  # fmt: skip
    with watching() as (watcher, stop):
        result = run_search(
            chosen, folder, begun=context.obj, watcher=watcher, stop=stop, sharing=Sharing(workers, storage)
        )
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        print_report([folder], Format.terminal)
