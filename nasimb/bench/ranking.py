"""How well cheap scores rank candidates: against the test balanced accuracy of the full head, subnet by subnet.

Every head that can rank estimates twice, over all target images (by exact leave-one-out in closed form; the quick
logistic head out of fold) and on a 20 % hold-out, under statistics calibrated on the source and on the target as it is,
for several draws of the target. A unit of work is one subnet under one calibration and draw; its row is written before
the next begins.

Shapes: N images, M test images, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nasimb.bench.base import Conditions, Figure, made_with, spread
from nasimb.bench.correlation import NO_ORDER, kendall_tau, regret
from nasimb.bench.provenance import identity
from nasimb.bench.rows import Rows
from nasimb.bench.sgd import balanced_accuracy
from nasimb.bench.testbed import Testbed, features_for_truth, load_testbed, true_accuracy, warn_untrained
from nasimb.data.base import ImageSet
from nasimb.data.splits import stratified_split
from nasimb.heads import HEADS, ClosedFormSpec
from nasimb.search.trial import Candidate

SUBNETS, DRAWS = 40, 3
QUICK_SUBNETS, QUICK_DRAWS = 3, 1
CALIBRATIONS = ("source", "target-natural")
HOLDOUT, TOP = 0.2, 3
OUT_OF_FOLD = frozenset({"quick_logistic"})
"""Heads whose estimate over all images is not exact leave-one-out."""
FILE = "ranking_rows.csv"


def ranking(conditions: Conditions) -> Iterator[Figure]:
    """Kendall tau, top-3 regret and bias of every cheap score; and what calibration on the source gains."""
    draws = QUICK_DRAWS if conditions.quick else DRAWS
    testbeds = [load_testbed(conditions, draw=draw, calibrations=CALIBRATIONS, content=True) for draw in range(draws)]
    warn_untrained(testbeds[0], conditions)
    subnets = testbeds[0].random_subnets(QUICK_SUBNETS if conditions.quick else SUBNETS)
    file = None if conditions.folder is None else conditions.folder / FILE
    heads: list[ClosedFormSpec] = [spec() for spec in HEADS.values()]  # type: ignore[call-arg]
    ranked = " ".join(f"{head.name}({head.model_dump_json()})" for head in heads)
    rows = Rows(file, ("draw", "number", "calibration"), identity(testbeds, conditions, heads=ranked))
    units = list(product(range(draws), range(len(subnets)), CALIBRATIONS))
    for position, (draw, number, calibration) in enumerate(units):
        if rows.has(draw=draw, number=number, calibration=calibration):
            continue
        candidate = Candidate(subnets[number], calibration)
        conditions.tick("ranking", position / len(units), str(candidate))
        measured = measure_candidate(testbeds[draw], candidate, heads, conditions)
        rows.append(
            {"draw": draw, "number": number, "calibration": calibration, "subnet": str(candidate.subnet), **measured}
        )
    yield from made_with(figures(rows, [head.name for head in heads], draws), data=testbeds[0].data)


def measure_candidate(
    testbed: Testbed, candidate: Candidate, heads: list[ClosedFormSpec], conditions: Conditions
) -> dict[str, float | None]:
    """One row: the truth, and every head's estimates, its own test accuracy and its seconds."""
    features_ND, test_MD = features_for_truth(testbed, candidate)
    row: dict[str, float | None] = {
        "macs": testbed.scoring.cost_of(candidate.subnet)[0],
        "test": true_accuracy(testbed, features_ND, test_MD),
    }
    target = testbed.task.target
    labels_N = target.labels_N.to(features_ND.device)
    for head in heads:
        start = conditions.clock()
        results = head.score(features_ND, labels_N, target.num_classes)
        row[f"{head.name}_seconds"] = conditions.clock() - start
        estimates = [balanced_accuracy(found.predicted_N, target, _all(target)) for found in results]
        best = max(range(len(results)), key=lambda index: (estimates[index], -results[index].balanced_loss))
        fitted = head.fit(features_ND, labels_N, target.num_classes, results[best].setting)
        test = testbed.task.test
        row[estimate_of(head.name)] = estimates[best]
        row[f"{head.name}_test"] = balanced_accuracy(fitted.logits(test_MD).argmax(1).cpu(), test, _all(test))
        row[f"{head.name}_holdout"] = _holdout(head, features_ND, target, testbed.seed)
    for way, columns in _estimates([head.name for head in heads]).items():
        row[f"best_{way}"] = max(value for column in columns if (value := row[column]) is not None)
    return row


def estimate_of(head: str) -> str:
    """The column of the head's estimate over all images, named by how it leaves images out."""
    return f"{head}_oof" if head in OUT_OF_FOLD else f"{head}_loo"


def _estimates(heads: list[str]) -> dict[str, list[str]]:
    return {"loo": [estimate_of(head) for head in heads], "holdout": [f"{head}_holdout" for head in heads]}


def _holdout(head: ClosedFormSpec, features_ND: Tensor, images: ImageSet, seed: int) -> float:
    """Balanced accuracy at the best setting on a stratified hold-out, of the head fitted to the other images."""
    kept, held = stratified_split(images.labels_N, HOLDOUT, seed)
    device = features_ND.device
    kept_ND, held_MD, labels_N = features_ND[kept.to(device)], features_ND[held.to(device)], images.labels_N[kept]
    return max(
        balanced_accuracy(
            head.fit(kept_ND, labels_N.to(device), images.num_classes, setting).logits(held_MD).argmax(1).cpu(),
            images,
            held,
        )
        for setting in head.grid
    )


def figures(rows: Rows, heads: list[str], draws: int) -> Iterator[Figure]:
    """Of all rows: taus and regrets by estimate and calibration, the bias of every estimate over all images, and what
    calibration on the source gains over calibration on the target as it is."""
    for calibration in CALIBRATIONS:
        for way, columns in _estimates(heads).items():
            for estimate in (*columns, f"best_{way}"):
                yield from _tau_and_regret(rows, estimate, calibration, draws)
    for head in heads:
        column = estimate_of(head)
        excess = 100 * (np.array(rows.numbers(column)) - np.array(rows.numbers(f"{head}_test")))
        found = spread(excess.tolist())
        way = "out-of-fold" if head in OUT_OF_FOLD else "leave-one-out"
        yield Figure(
            f"bias_{column}", float(excess.mean()), f"{head}: {way} balanced accuracy - its test accuracy",
            unit="points", low=found.low, high=found.high, repetitions=len(excess),
            detail={"median_seconds": float(np.median(rows.numbers(f"{head}_seconds")))},
        )  # fmt: skip
    yield _source_minus_natural(rows)


def _source_minus_natural(rows: Rows) -> Figure:
    gained = np.array(_paired(rows, "source")) - np.array(_paired(rows, "target-natural"))
    found = spread((100 * gained).tolist())
    return Figure(
        "source_minus_natural", 100 * float(gained.mean()),
        "full head's test balanced accuracy, source calibration - target-natural, same subnet and draw; mean and "
        "quartiles over these pairs",
        unit="points", low=found.low, high=found.high, repetitions=len(gained),
        detail={"median_points": found.median, "share_above_zero": float((gained > 0).mean())},
    )  # fmt: skip


def _paired(rows: Rows, calibration: str) -> list[float]:
    """Test accuracies under one calibration, by draw and number of the subnet."""
    where = {"calibration": calibration}
    found = zip(rows.numbers("draw", **where), rows.numbers("number", **where), rows.numbers("test", **where),
                strict=True)  # fmt: skip
    return [test for _, _, test in sorted(found)]


def _tau_and_regret(rows: Rows, estimate: str, calibration: str, draws: int) -> Iterator[Figure]:
    taus, regrets = [], []
    for draw in range(draws):
        where: dict[str, Any] = {"draw": draw, "calibration": calibration}
        scores, truths = rows.numbers(estimate, **where), rows.numbers("test", **where)
        taus.append(kendall_tau(scores, truths))
        regrets.append(100 * regret(scores, truths, TOP))
    subnets = len(rows.numbers(estimate, draw=0, calibration=calibration))
    name = estimate if calibration == "source" else f"{estimate}_{calibration.replace('-', '_')}"
    over = f"against the full head's test balanced accuracy, {subnets} subnets, {calibration}; mean over target draws"
    defined = [tau for tau in taus if tau is not None]
    detail = {f"draw{draw}": tau for draw, tau in enumerate(taus)}
    if defined:
        found = spread(defined)
        mean = float(np.mean(defined))
        yield Figure(f"tau_{name}", mean, f"Kendall tau {over}", unit="tau", low=found.low, high=found.high,
                     repetitions=draws, detail=detail)  # fmt: skip
    else:
        yield Figure(f"tau_{name}", None, f"Kendall tau {over}", unit="tau", repetitions=draws,
                     reason=NO_ORDER, detail=detail)  # fmt: skip
    found = spread(regrets)
    yield Figure(f"regret_{name}", float(np.mean(regrets)), f"top-{TOP} regret {over}", unit="points",
                 low=found.low, high=found.high, repetitions=draws)  # fmt: skip


def _all(images: ImageSet) -> Tensor:
    return torch.arange(len(images))
