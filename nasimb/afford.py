"""Whether a run can be afforded: what it costs is measured first, and a budget or a disk too small is refused."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from nasimb.assemble import PROBE_FILE, Ground, bare_scoring, make_question, new_training
from nasimb.budget import Budget
from nasimb.config import RunConfig
from nasimb.metrics import check_objective
from nasimb.phases.disk import Writing, check_room
from nasimb.phases.prepare import Probe, check_affordable, measure_step, probe
from nasimb.phases.supernet import is_finished
from nasimb.search.candidate import Scoring
from nasimb.search.limits import cost_range
from nasimb.session import Session
from nasimb.supernet.calibrate import images_that_pass
from nasimb.supernet.precision import Precision, faster_inference
from nasimb.supernet.ranks import ONE_PROCESS, Ranks
from nasimb.supernet.train import Training


def check_training_budget(session: Session, config: RunConfig, ground: Ground, ranks: Ranks = ONE_PROCESS) -> None:
    """Refuse a time too short to train a super-network in; the first rank keeps what it measured.

    Raises:
        BudgetError: names the smallest budget that works.
    """
    limit = session.ledger.limit_seconds
    assert limit is not None
    training = new_training(config, ground, limit, ranks=ranks)
    step_seconds = measure_step(training, session.clock, ground.device)
    with ranks.alike():
        if ranks.first:
            probed = {"precision": training.precision, "step_seconds": step_seconds, "planned_seconds": limit}
            session.run.write_json(PROBE_FILE, probed)
            found = Probe(step_seconds, 0.0, 0.0)
            check_affordable(found, limit, session.ledger.spent(), config.budget, 0.0, buys="a trained super-network")


def check_budget(session: Session, config: RunConfig, ground: Ground) -> None:
    """Refuse limits nothing can meet, and a budget too small for the smallest useful run.

    Raises:
        InputError: says which, and what would do.
    """
    question, limit = make_question(config, ground), session.ledger.limit_seconds
    training, scoring = _not_yet_trained(config, ground, limit)
    check_objective(config.metric, scoring.judged_counts_K.numpy())
    rows = cost_range(ground.space, scoring.cost_of, question.limits)
    session.watcher.say(f"{ground.space.size():,} subnets in {ground.space.name}:")
    for row in rows:
        within = "" if row.within else "  (over the limit)"
        session.watcher.say(f"  {row.name:9}{row.macs / 1e6:9.2f}M MACs {row.params / 1e3:9.1f}k params{within}")
    if limit is None:
        return
    found = _probed(session, config, ground, training, scoring)
    inference = _inference_precision(config, scoring)
    check_affordable(found, limit, session.ledger.spent(), config.budget, config.supernet_share)
    precision = None if training is None else training.precision
    session.run.write_json(PROBE_FILE, {"precision": precision, "inference_precision": inference, **asdict(found)})


def probe_units(session: Session, config: RunConfig, ground: Ground) -> Probe:
    """What `check_budget` measures where a budget limits time, whatever the budget."""
    training, scoring = _not_yet_trained(config, ground, session.ledger.limit_seconds)
    return _probed(session, config, ground, training, scoring)


def _not_yet_trained(
    config: RunConfig, ground: Ground, limit_seconds: float | None
) -> tuple[Training | None, Scoring]:  # fmt: skip
    """A training before its first step, where there is one to come, and scoring on its super-network."""
    if ground.ready is not None:
        return None, bare_scoring(config, ground, ground.ready.supernet)
    training = new_training(config, ground, limit_seconds)
    return training, bare_scoring(config, ground, training.supernet)


def _probed(
    session: Session, config: RunConfig, ground: Ground, training: Training | None, scoring: Scoring
) -> Probe:  # fmt: skip
    return probe(
        scoring.supernet, training, ground.task, batch_size=scoring.batch_size,
        calibration=images_that_pass(config.calibrations, config.calibration_images), clock=session.clock,
        device=ground.device,
    )  # fmt: skip


def _inference_precision(config: RunConfig, scoring: Scoring) -> Precision:
    """Number format of the convolutions that score candidates: what was asked for, or the faster one here."""
    if config.precision != "auto":
        return config.precision
    batch = scoring.fitted.subset(torch.arange(min(len(scoring.fitted), scoring.batch_size)))
    images_BCHW = next(iter(batch.batches(len(batch), scoring.device)))[0]
    return faster_inference(scoring.supernet, images_BCHW)


def check_disk(session: Session, config: RunConfig, ground: Ground, *, trained_in: Path) -> None:
    """Refuse what will fill the disk of the run folder.

    Args:
        trained_in: where the super-network is, or will be.

    Raises:
        InputError: says how much is missing.
    """
    task, probed = ground.task, session.run.read_json(PROBE_FILE) or {}
    channels, size = task.source.channels, ground.space.max_resolution
    writing = Writing(
        space=ground.space, channels=channels, classes=task.target.num_classes,
        training=ground.ready is None and not is_finished(trained_in),
        images=len(task.source) + len(task.target) + len(task.test),
        calibration_bytes=min(config.calibration_images, len(task.source)) * channels * size * size,
        trials=Budget.parse(config.budget).trials, seconds=session.ledger.limit_seconds,
        trial_seconds=probed.get("trial_seconds", 0.0),
    )  # fmt: skip
    check_room(session.run.path, writing.needed_bytes())
