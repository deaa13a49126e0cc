"""Whether normalised batch norm (NBN) helps rare classes: against batch norm, all else alike, seed by seed.

Every arm is one network family: batch norm everywhere but at the end of each block of the last stage (and of its
shortcut), where the arm's norm stands, as in the published residual networks. Two questions are asked of it: what a
search of frozen candidates finds (`norms_frozen`), and what training all weights on the long-tailed target gives
(`norms_trained`). The arms of NBN differ in how they treat the bias, which as published starts where its slope is a
million.

Shapes: C channels, K classes.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from nasimb.assemble import Ground, load_ground
from nasimb.bench.base import Conditions, Figure, Skipped, made_with, spread
from nasimb.bench.paired import holm, paired
from nasimb.bench.process import run_command
from nasimb.bench.provenance import identity
from nasimb.bench.rows import Rows
from nasimb.config import HeadOptions, RunConfig
from nasimb.data import parse_dataset
from nasimb.errors import InputError, WorkError
from nasimb.nn.norms.nbn import NBN_PUBLISHED, NormalisedBatchNormSpec, effective
from nasimb.space import SearchSpace

BASELINE = "bn"
ARMS: Mapping[str, NormalisedBatchNormSpec | None] = {
    BASELINE: None,
    "nbn_published": NBN_PUBLISHED,
    "nbn_weight_only": NBN_PUBLISHED.model_copy(update={"bias": "free"}),
    "nbn_random_beta": NBN_PUBLISHED.model_copy(update={"bias_start": "random"}),
    "nbn_default": NormalisedBatchNormSpec(),
}
"""The last stage's norm. Weight only: the bias is not normalised. Random beta: it starts from a random unit vector.
Default: nasimb's, a free bias and weights that start at 1, with a scalar a layer."""

TRIALS, STEPS = 30, 400
QUICK_TRIALS, QUICK_STEPS, QUICK_SEEDS = 2, 4, 1
HEADS = HeadOptions(finalists=("balanced_softmax", "gda"), count=2, folds=3, penalties=(1e-2, 1e-3, 1e-4))
QUICK_HEADS = HeadOptions(finalists=("gda",), count=1, folds=2, penalties=(1e-2,))
FROZEN_FILE = "norms_frozen_rows.csv"
GROUPS = ("balanced_accuracy", "many", "medium", "few", "tail")
SHOWN = ("balanced_accuracy", "few", "tail")
"""Kept in rows, and reported."""
TAIL_SHARE = 0.3
"""Of the classes, the rarest: a tail where no class is few-shot, as in CIFAR-10-LT."""


def arm_space(space: SearchSpace, arm: str) -> SearchSpace:
    """`space` with batch norm in every stage but the last, which has the arm's."""
    values = space.model_dump(mode="json") | {"name": f"{space.name}-{arm}", "norm_options": {}}
    for stage in values["stages"]:
        stage["norms"] = [BASELINE]
    spec = ARMS[arm]
    if spec is not None:
        values["stages"][-1]["norms"] = [arm]
        values["norm_options"] = {arm: spec.model_dump(mode="json")}
    return SearchSpace.model_validate(values)


def beta_slope(conditions: Conditions) -> Iterator[Figure]:
    """beta_slope_*: how far the bias that acts moves for a small step of the learned one, where training starts."""
    channels = space_of(conditions.config).stages[-1].widths[-1]
    for arm, spec in ARMS.items():
        if spec is not None:
            yield Figure(
                f"beta_slope_{arm}", slope_at_start(spec, channels),
                f"largest slope of the effective bias over the learned one at the start, {channels} channels",
                detail={"first_scale": spec.first_scale(channels)},
            )  # fmt: skip


def slope_at_start(spec: NormalisedBatchNormSpec, channels: int) -> float:
    """Largest singular value of d bias / d beta at the start."""
    weight_C, bias_C = torch.ones(channels), spec.first_bias(channels, torch.Generator().manual_seed(0))
    scale = torch.tensor(spec.first_scale(channels))

    def bias(beta_C: torch.Tensor) -> torch.Tensor:
        return effective(weight_C, beta_C, scale, normalises_bias=spec.bias == "normalised")[1]

    jacobian_CC = torch.func.jacrev(bias)(bias_C)
    return float(torch.linalg.matrix_norm(jacobian_CC, ord=2))


def norms_frozen(conditions: Conditions) -> Iterator[Figure]:
    """frozen_*: test recalls of what a search finds, arm minus batch norm; budgets count steps and trials.

    Each search is a command of its own, so that what is measured is what a user gets: a super-network of the arm's
    space trained on the source, its subnets searched, heads of the finalists compared, the test split read once.
    """
    config, ground = prepared(conditions)
    trials, steps = (QUICK_TRIALS, QUICK_STEPS) if conditions.quick else (TRIALS, STEPS)
    tail = rarest(ground.task.target.class_counts_K.tolist())
    how = f"{trials} trials after {steps} steps, {config.heads.model_dump_json()}"
    rows = rows_for(conditions, FROZEN_FILE, ground, how)
    for seed, arm, done in units_of(conditions, rows):
        changes = {"seed": seed, "budget": f"{trials}trials", "training_steps": steps}
        result = _searched(conditions, config.model_copy(update=changes), arm, done)
        rows.append({"seed": seed, "arm": arm, **_frozen_row(result, tail)})
    said = f"winner of {trials} trials after {steps} steps of training"
    found = figures(rows, "frozen", (*SHOWN, *(f"largest_{group}" for group in SHOWN)), said)
    yield from made_with(found, data=parse_dataset(config.data).name, supernet="trained")


def figures(rows: Rows, prefix: str, columns: Sequence[str], said: str) -> Iterator[Figure]:
    """Of every column that has numbers: the mean of batch norm, and every other arm's paired difference from it.

    Verdicts are corrected for the number of these differences that chance can be judged of (`holm`); intervals and
    "p_value" are of each by itself.

    Raises:
        Skipped: no seed has batch norm and another arm.
    """
    seeds = rows.texts("seed", arm=BASELINE)
    if not any(set(seeds) & set(rows.texts("seed", arm=arm)) for arm in ARMS if arm != BASELINE):
        raise Skipped("No seed has both batch norm and another norm.")
    shown = [column for column in columns if not np.isnan(rows.numbers(column)).any()]  # a group may have no classes
    points = {column: {arm: _points(rows, column, arm) for arm in ARMS} for column in shown}
    both = {arm: [seed for seed in rows.texts("seed", arm=arm) if seed in seeds] for arm in ARMS}
    compared = [(column, arm) for column in shown for arm in ARMS if arm != BASELINE and both[arm]]
    ours = {(column, arm): [points[column][arm][seed] for seed in both[arm]] for column, arm in compared}
    theirs = {(column, arm): [points[column][BASELINE][seed] for seed in both[arm]] for column, arm in compared}
    p_values = holm([paired(ours[one], theirs[one]).p_value for one in compared])
    corrected, judged = dict(zip(compared, p_values, strict=True)), int((~np.isnan(p_values)).sum())
    for column in shown:
        base = list(points[column][BASELINE].values())
        found = spread(base)
        yield Figure(
            f"{prefix}_{column}_{BASELINE}", float(np.mean(base)), f"test {column} of {BASELINE}; {said}",
            unit="points", low=found.low, high=found.high, repetitions=len(base),
        )  # fmt: skip
        for one in compared:
            if one[0] == column:
                yield _difference(prefix, *one, ours[one], theirs[one], corrected[one], judged, said)


def _points(rows: Rows, column: str, arm: str) -> dict[str, float]:
    """By seed."""
    numbers = rows.numbers(column, arm=arm)
    return dict(zip(rows.texts("seed", arm=arm), (100 * value for value in numbers), strict=True))


def _difference(
    prefix: str, column: str, arm: str, ours: Sequence[float], base: Sequence[float], corrected: float,
    comparisons: int, said: str,
) -> Figure:  # fmt: skip
    """One arm minus batch norm.

    Args:
        corrected: its p value, for the number of `comparisons`; NaN where it was none of them.
    """
    found, quartiles = paired(ours, base), spread([a - b for a, b in zip(ours, base, strict=True)])
    return Figure(
        f"{prefix}_{column}_{arm}_minus_{BASELINE}", found.mean,
        f"test {column}, {arm} - {BASELINE}, the same seeds; mean and quartiles; {said}", unit="points",
        low=quartiles.low, high=quartiles.high, repetitions=found.pairs,
        detail={
            "arm_points": float(np.mean(ours)), "deviation_points": found.deviation, "low95_points": found.low,
            "high95_points": found.high, "p_value": found.p_value, "p_value_holm": corrected,
            "comparisons": comparisons, "verdict": found.sentence(arm, BASELINE, corrected),
        },
    )  # fmt: skip


def _searched(conditions: Conditions, config: RunConfig, arm: str, done: float) -> dict[str, Any]:
    """The result of one search."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        space = arm_space(space_of(config), arm)
        _write(folder / "space.yaml", space.model_dump(mode="json", exclude={"name"}))
        _write(folder / "config.yaml", config.model_copy(update={"space": str(folder / "space.yaml")}).to_dict())
        words = ["search", "--config", str(folder / "config.yaml"), "--run", str(folder / "run")]
        said = f"{arm}, seed {config.seed}"
        code, last = run_command(words, folder / "log", lambda: conditions.tick("norms_frozen", done, said))
        if code != 0:
            raise WorkError("a search must end", got=last.rstrip(".") or "no word", do="Run it by hand.")
        found: dict[str, Any] = json.loads((folder / "run" / "result.json").read_text(encoding="utf-8"))
    return found


def _frozen_row(result: dict[str, Any], tail: Sequence[int]) -> dict[str, float | int | str | None]:
    winner, largest = result["winner"], result["baselines"]["largest"]
    return {
        **recalls(winner["test"], tail),
        **{f"largest_{group}": value for group, value in recalls(largest["test"], tail).items()},
        "winner": winner["name"], "head": winner["head"], "macs": winner["cost"]["macs"],
        "params": winner["cost"]["params"], "seconds": result["spend"]["spent_seconds"],
    }  # fmt: skip


def recalls(test: Mapping[str, Any], tail: Sequence[int]) -> dict[str, float | None]:
    """Fractions by group, and of the rarest classes; None for a group without classes."""
    recalls_K = test["recalls"]
    return {
        **{group: test[group] for group in GROUPS if group != "tail"},
        "tail": float(np.mean([recalls_K[k] for k in tail])),
    }  # fmt: skip


def rarest(class_counts_K: Sequence[int]) -> list[int]:
    """The rarest classes, at least one; of equally rare ones the later."""
    count = max(1, round(TAIL_SHARE * len(class_counts_K)))
    return sorted(np.argsort(-np.asarray(class_counts_K), kind="stable")[-count:].tolist())


def prepared(conditions: Conditions, seed: int | None = None) -> tuple[RunConfig, Ground]:
    """The configuration of every measurement but for its seed, space and budget; and the images.

    Args:
        seed: which draw of the target; None: that of the configuration, the first.

    Raises:
        InputError: the images or the space are not fit for each other, or there is a ready super-network.
    """
    config = conditions.config
    if config.supernet is not None:
        raise InputError(
            "every norm must have a super-network of its own", got=f"--supernet {config.supernet}",
            do="Leave --supernet out; name its images with --source.",
        )  # fmt: skip
    changes = {"heads": QUICK_HEADS if conditions.quick else HEADS, "device": str(conditions.device)}
    config = config.model_copy(update=changes if seed is None else changes | {"seed": seed})
    return config, load_ground(config, conditions.device)


def rows_for(conditions: Conditions, file: str, ground: Ground, how: str) -> Rows:
    """The rows of a file, one a seed and arm; `how` is what they depend on besides images, space and arms."""
    content = " ".join((*ground.task.fingerprints().values(), ground.space.model_dump_json()))
    arms = " ".join(f"{arm}({'' if spec is None else spec.model_dump_json()})" for arm, spec in ARMS.items())
    known = identity([], conditions, content=content, scoring=how, arms=arms)
    return Rows(None if conditions.folder is None else conditions.folder / file, ("seed", "arm"), known)


def units_of(conditions: Conditions, rows: Rows) -> Iterator[tuple[int, str, float]]:
    """Seed, arm and the share that is done, of every row that is not there; all arms of a seed before the next."""
    first, count = conditions.config.seed, QUICK_SEEDS if conditions.quick else conditions.seeds
    units = list(product(range(first, first + count), ARMS))
    for position, (seed, arm) in enumerate(units):
        if not rows.has(seed=seed, arm=arm):
            yield seed, arm, position / len(units)


def space_of(config: RunConfig) -> SearchSpace:
    """The space whose norms the arms replace."""
    assert config.space is not None  # a resolved configuration without a ready super-network has one
    return SearchSpace.load(config.space)


def _write(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(yaml.safe_dump(dict(values), sort_keys=False), encoding="utf-8")
