"""Any scored trial of a run as a model: its subnet extracted from the super-network, its head fitted again.

It is made as the run makes its winner, from the same images; nothing is written into the run.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nasimb import assemble
from nasimb.config import RunConfig
from nasimb.errors import InputError
from nasimb.export import DESCRIPTION, Model, load
from nasimb.ledger import Ledger
from nasimb.phases.evaluate import build
from nasimb.phases.heads import FILE as HEADS_FILE
from nasimb.phases.heads import HeadWork
from nasimb.phases.refit import Refits
from nasimb.phases.supernet import is_finished
from nasimb.progress import Silent
from nasimb.rundir import RunDir
from nasimb.search.trial import FAILED, INFEASIBLE, SCREENED, Trial, trials_of
from nasimb.session import Session
from nasimb.spec import parse

WHY_NOT = {
    SCREENED: "it was screened out on a part of the images, so no head of it was judged on all",
    INFEASIBLE: "it is over a limit on cost, so it was not scored",
    FAILED: "it failed",
}


def trial_model(folder: Path, number: int, device: torch.device) -> Model:
    """The model of a trial, with the best of the heads that it was tried with.

    Raises:
        InputError: there is no such trial, it has no score, or the run lacks its super-network or its images.
    """
    run = RunDir(folder)
    config = parse(RunConfig, run.config(), what=f"the configuration of {folder}")
    trial = scored_trial(run, number)
    if config.supernet is None and not is_finished(run.supernet):
        raise InputError(
            "a trial's network is cut from the run's super-network", got=f"none in {run.supernet}",
            do=f"Restore it, or export the winner: {folder}.",
        )  # fmt: skip
    ground = assemble.load_ground(config, device)
    assemble.check_unchanged(run, ground)
    frozen = ground.ready or assemble.load_trained(run, device)
    scoring = replace(assemble.make_scoring(config, ground, frozen), dtype=torch.float32, screen=None)
    with tempfile.TemporaryDirectory() as scratch:
        if (run.path / HEADS_FILE).is_file():  # what the run knows of its finalists' heads
            shutil.copy(run.path / HEADS_FILE, scratch)
        session = Session(RunDir(Path(scratch)), Ledger(None, time.monotonic), time.monotonic, Silent(), int)
        work = HeadWork(
            session, scoring, assemble.make_comparison(config), num_test=len(ground.task.test), flip=ground.task.flip
        )
        provenance = {**_provenance(run, config, ground), "trial": number}
        made = build(scoring, Refits(session, work), work.best_of(trial), ground.task.target, provenance)
    made.model.description.metrics["cost"] = made.cost
    return made.model


def scored_trial(run: RunDir, number: int) -> Trial:
    """The trial of this number. Raises InputError where there is none, or it has no score of all images."""
    trials = {trial.number: trial for trial in trials_of(run)}
    trial = trials.get(number)
    if trial is None:
        got = f"{number} of {len(trials):,} in {run.path}"
        raise InputError("a trial must be one of the run's", got=got, do="See trials.csv, column number.")
    if trial.score is None or trial.state in WHY_NOT:
        why = WHY_NOT.get(trial.state, "it has no score")
        raise InputError(
            "a trial must have been scored on all images", got=f"trial {number}: {why}",
            do="Choose one that is finished: nasimb pareto lists the best.",
        )  # fmt: skip
    return trial


def _provenance(run: RunDir, config: RunConfig, ground: assemble.Ground) -> dict[str, Any]:
    """As the winner tells it, where there is one."""
    if (run.best / DESCRIPTION).is_file():
        return load(run.best).description.provenance
    return {"seed": config.seed, "device": str(ground.device), "data": assemble.identity(ground)}
