"""From a configuration to the objects of a run: images, super-network, what is asked and how it is scored."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nasimb.config import RunConfig
from nasimb.data import parse_dataset
from nasimb.data.base import ImageSet, LoadRequest
from nasimb.data.splits import split_images
from nasimb.data.task import Task, load_task
from nasimb.errors import InputError, ResumeError
from nasimb.heads import parse_head
from nasimb.metrics import check_objective
from nasimb.phases.heads import Comparison
from nasimb.phases.prepare import check_space_fits
from nasimb.phases.supernet import Frozen, is_finished, load, train, training_seconds
from nasimb.rundir import RunDir
from nasimb.search.candidate import Scoring
from nasimb.search.limits import Limits
from nasimb.search.screening import Screen, class_capped
from nasimb.search.study import Question
from nasimb.session import Session
from nasimb.space import SearchSpace
from nasimb.supernet import build_supernet
from nasimb.supernet.base import images_at_a_time
from nasimb.supernet.calibrate import check_target, make_calibrations, source_images
from nasimb.supernet.pixels import pixel_mean_and_std
from nasimb.supernet.precision import Precision
from nasimb.supernet.ranks import ONE_PROCESS, Ranks
from nasimb.supernet.sampling import generator_for
from nasimb.supernet.train import Training

PROBE_FILE = "probe.json"
NOT_BY_CLASS = ("accuracy", "macro_f1")
"""Objectives that the class shares of the judged images enter."""


@dataclass(frozen=True, eq=False)
class Ground:
    """What a run stands on.

    Attributes:
        ready: a super-network trained before; None: this run trains one.
    """

    task: Task
    space: SearchSpace
    device: torch.device
    ready: Frozen | None


def load_ground(config: RunConfig, device: torch.device) -> Ground:
    """Load and check everything that can be wrong before time is spent.

    Raises:
        InputError: the images, the space, the objective or the ready super-network are not fit for each other.
    """
    ready = None if config.supernet is None else load(Path(config.supernet), device)
    space = _space(config, ready)
    task = load_task(
        parse_dataset(config.data),
        _source(config),
        request=_request(config, space, ready, device),
        imbalance_factor=config.imbalance_factor,
        profile=config.profile,
        seed=config.seed,
        test_fraction=config.test_fraction,
        validation_fraction=config.validation_fraction,
    )
    check_space_fits(space, task)
    check_objective(config.metric, task.target.class_counts_K.numpy())
    if ready is not None:
        ready.check_unseen(task.test, "test")
        ready.check_unseen(task.target, "target")
    if config.validation == "leave-one-out" and task.source_is_target:
        raise InputError(
            "leave-one-out needs a super-network that has not seen the target",
            got="validation leave-one-out with the target as source",
            do="Use --validation holdout, or give a --source of other images.",
        )
    check_target(
        config.calibrations, lambda: _judged(config, task)[0], seed=config.seed, limit=config.calibration_images
    )
    return Ground(task, space, device, ready)


def load_source(config: RunConfig, device: torch.device) -> Ground:
    """What training a super-network alone stands on: every set of the task is the source.

    Raises:
        InputError: the images or the space are not fit for each other.
    """
    assert config.space is not None
    space, spec = SearchSpace.load(config.space), parse_dataset(config.data)
    parts = spec.load(_request(config, space, None, device))
    source = parts.source or parts.train
    task = Task(source, False, source, source, None, spec.flip, ())
    check_space_fits(space, task)
    return Ground(task, space, device, None)


def identity(ground: Ground) -> dict[str, str]:
    """Of everything a run depends on besides its configuration: the images, the space, a ready super-network."""
    space = hashlib.sha256(ground.space.model_dump_json().encode()).hexdigest()[:16]
    found = {**ground.task.fingerprints(), "space": space}
    if ground.ready is None:
        return found
    # The source of a ready super-network is not here; what it was trained on stands in its own description.
    return {**found, "source": ground.ready.info["source_fingerprint"], "supernet": ground.ready.fingerprint()}


def check_unchanged(run: RunDir, ground: Ground) -> None:
    """Raise ResumeError where the data are not those a run was started with: scores would not compare."""
    before, now = (run.read_json("splits.json") or {}).get("fingerprints"), identity(ground)
    changed = [name for name in now if before is None or before.get(name) != now[name]]
    if changed:
        raise ResumeError(
            "a run must be continued with the data it was started with",
            got=f"another {' and another '.join(changed)}",
            do="Restore it, or start a new run with --run.",
        )


def new_training(
    config: RunConfig,
    ground: Ground,
    seconds: float | None,
    precision: Precision | None = None,
    ranks: Ranks = ONE_PROCESS,
) -> Training:
    """A super-network with fresh weights, ready to be trained on the source.

    Args:
        precision: what measuring found before, so that it need not be measured twice.
        seconds: what training may take; None: steps are counted, and runs are to repeat bit for bit, which a
            precision chosen by measuring would not allow.
    """
    recipe = config.training.suited(device_type=ground.device.type, seconds=seconds)
    if recipe.precision == "auto":
        found = precision if seconds is not None else "float32"
        recipe = recipe.model_copy(update={} if found is None else {"precision": found})
    source = ground.task.source
    mean_C, std_C = pixel_mean_and_std(source)
    supernet = build_supernet(
        ground.space, source.channels, source.num_classes, mean_C, std_C, generator_for(config.seed, 0)
    )
    return Training(
        supernet, source, recipe, seed=config.seed, device=ground.device, flip=ground.task.flip, ranks=ranks
    )


def frozen_supernet(
    session: Session, config: RunConfig, ground: Ground, folder: Path, share: float,
    *, limit_seconds: float | None = None,
) -> Frozen:  # fmt: skip
    """The ready super-network, the one that was trained in `folder`, or the one trained there now.

    Args:
        share: of a time limit, less what the other phases have spent already.
        limit_seconds: of the budget that the run was started with; None where it was not extended since.
    """
    if ground.ready is not None:
        return ground.ready
    if is_finished(folder):
        return load(folder, ground.device)
    # The recipe follows from the share alone, so that a resumed run, whose other phases took longer, has the same one.
    limit_seconds = limit_seconds or session.ledger.limit_seconds
    planned = None if limit_seconds is None else share * limit_seconds
    seconds = None if planned is None else training_seconds(session.ledger, planned, share)
    return trained_supernet(session, config, ground, folder, planned, seconds)


def trained_supernet(
    session: Session, config: RunConfig, ground: Ground, folder: Path, planned_seconds: float | None,
    seconds: float | None, ranks: Ranks = ONE_PROCESS,
) -> Frozen:  # fmt: skip
    """The super-network trained in `folder` now, by one process or several.

    Args:
        planned_seconds: that the recipe is made for; None where steps are counted.
        seconds: that training may take in all.
    """
    task = ground.task
    info = {
        "classes": list(task.source.classes),
        "source": config.source or ("target" if task.source_is_target else str(config.data)),
        "source_fingerprint": task.source.fingerprint(),
        "seed": config.seed,
        "processes": ranks.size,
    }
    images_BCHW = source_images(
        task.source, seed=config.seed, device=torch.device("cpu"), limit=config.calibration_images
    )
    probed = session.run.read_json(PROBE_FILE) if ranks.first else None
    precision = ranks.from_first((probed or {}).get("precision"))
    return train(
        session,
        new_training(config, ground, planned_seconds, precision, ranks),
        folder,
        seconds=seconds,
        steps=config.training_steps,
        info=info,
        source_images_BCHW=images_BCHW,
    )


def load_trained(run: RunDir, device: torch.device) -> Frozen:
    """The super-network that a run has trained.

    Raises:
        InputError: it has not, or the file is damaged.
    """
    return load(run.supernet, device)


def inference_precision(run: RunDir, config: RunConfig) -> Precision:
    """As measured before the run, so that a resumed one goes on in it; float32 without a time limit, to repeat."""
    measured = (run.read_json(PROBE_FILE) or {}).get("inference_precision")
    return measured or (config.precision if config.precision != "auto" else "float32")


def make_scoring(config: RunConfig, ground: Ground, frozen: Frozen, precision: Precision = "float32") -> Scoring:
    """How candidates are scored in this run."""
    scoring = bare_scoring(config, ground, frozen.supernet)
    calibrations = make_calibrations(
        config.calibrations, frozen.supernet, frozen.source_images_BCHW, scoring.fitted, seed=config.seed,
        device=ground.device, limit=config.calibration_images,
    )  # fmt: skip
    screen = _screen(config, scoring)
    return replace(scoring, dtype=getattr(torch, precision), screen=screen, calibrations=calibrations)


def screening_notes(config: RunConfig, scoring: Scoring) -> list[str]:
    """What the reader should know where screening was asked for and is not done."""
    options = config.screening
    if scoring.screen is not None or not options.enabled:
        return []
    if config.metric in NOT_BY_CLASS:
        return [f"Candidates are not screened: {config.metric} on a part with other class shares is another figure."]
    if options.images_per_class is not None:
        return [f"Candidates are not screened: {options.images_per_class} images a class are most of the target."]
    return []


def _screen(config: RunConfig, scoring: Scoring) -> Screen | None:
    """The part of the images that screens candidates; None where it is not wanted or would not pay."""
    options = config.screening
    if not options.enabled or config.metric in NOT_BY_CLASS:
        return None
    fitted_M = class_capped(scoring.fitted.labels_N, seed=config.seed, cap=options.images_per_class)
    if fitted_M is None or scoring.validation is None:
        return None if fitted_M is None else Screen(fitted_M, None, options.eta)
    labels_N = scoring.validation.labels_N
    held_M = class_capped(labels_N, seed=config.seed, cap=options.images_per_class)
    return Screen(fitted_M, torch.arange(len(labels_N)) if held_M is None else held_M, options.eta)


def make_question(config: RunConfig, ground: Ground) -> Question:
    """What the study searches."""
    limits = Limits(config.max_macs, config.max_params)
    return Question(ground.space, config.calibrations, limits, config.sampler, config.cost, config.seed)


def make_comparison(config: RunConfig) -> Comparison:
    """How heads are compared on the finalists."""
    heads = config.heads
    return Comparison(heads.finalists, heads.count, heads.folds, heads.penalties, config.seed, heads.crops)


def bare_scoring(config: RunConfig, ground: Ground, supernet: Any) -> Scoring:
    """`make_scoring` without screening, in float32, and with nothing to calibrate with."""
    task = ground.task
    fitted, validation = _judged(config, task)
    return Scoring(
        supernet=supernet,
        fitted=fitted,
        validation=validation,
        class_counts_K=task.target.class_counts_K,
        calibrations={},
        heads=tuple(parse_head(head) for head in config.heads.ranking),
        objective=config.metric,
        batch_size=config.batch_size or images_at_a_time(supernet.space, ground.device),
        device=ground.device,
        memory_mib=config.memory_mib,
    )


def _judged(config: RunConfig, task: Task) -> tuple[ImageSet, ImageSet | None]:
    """What heads are fitted to and candidates calibrated on, and what is held out of it to rank them."""
    fitted, validation = (task.source, task.validation) if task.source_is_target else (task.target, None)
    if config.validation == "holdout" and validation is None:
        # Copies of held-out images are left out of what is fitted.
        fitted, validation, _ = split_images(task.target, config.validation_fraction, config.seed)
    return fitted, validation


def _request(config: RunConfig, space: SearchSpace, ready: Frozen | None, device: torch.device) -> LoadRequest:
    return LoadRequest(
        size=space.max_resolution,
        channels=None if ready is None else ready.supernet.in_channels,
        device=device,
        skip_bad_images=config.skip_bad_images,
        download=config.download,
        memory_mib=config.memory_mib,
    )


def _space(config: RunConfig, ready: Frozen | None) -> SearchSpace:
    if ready is None:
        assert config.space is not None
        return SearchSpace.load(config.space)
    space = ready.supernet.space
    if config.space is not None and SearchSpace.load(config.space) != space:
        raise InputError(
            f"--space must be the one the super-network in {config.supernet} was trained for",
            got=f"{config.space}, but it was {space.name}",
            do="Leave --space out.",
        )
    return space


def _source(config: RunConfig) -> Any:
    """As `load_task` takes it."""
    if config.supernet is not None:
        return "elsewhere"
    if config.source is None or config.source == "target":
        return config.source
    return parse_dataset(config.source)
