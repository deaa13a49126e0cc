"""How well cheap scores rank candidates: against the test balanced accuracy of the full head, subnet by subnet.

Every closed-form head estimates twice, by exact leave-one-out over all target images and on a 20 % hold-out, under
statistics calibrated on the source and on the target as it is, for several draws of the target. A unit of work is one
subnet under one calibration and draw; its row is written before the next begins.

Shapes: N images, M test images, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nasimb.bench.base import Conditions, Figure, spread
from nasimb.bench.correlation import kendall_tau, regret
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
FILE = "ranking_rows.csv"


def ranking(conditions: Conditions) -> Iterator[Figure]:
    """Kendall tau, top-3 regret and bias of every cheap score."""
    draws = QUICK_DRAWS if conditions.quick else DRAWS
    testbeds = [load_testbed(conditions, draw=draw, calibrations=CALIBRATIONS, content=True) for draw in range(draws)]
    warn_untrained(testbeds[0], conditions)
    subnets = testbeds[0].random_subnets(QUICK_SUBNETS if conditions.quick else SUBNETS)
    file = None if conditions.folder is None else conditions.folder / FILE
    rows = Rows(file, ("draw", "number", "calibration"), " ".join(testbed.fingerprint() for testbed in testbeds))
    heads: list[ClosedFormSpec] = [spec() for spec in HEADS.values()]  # type: ignore[call-arg]
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
    yield from figures(rows, [head.name for head in heads], draws)


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
        row[f"{head.name}_loo"] = estimates[best]
        row[f"{head.name}_test"] = balanced_accuracy(fitted.logits(test_MD).argmax(1).cpu(), test, _all(test))
        row[f"{head.name}_holdout"] = _holdout(head, features_ND, target, testbed.seed)
    for way in ("loo", "holdout"):
        row[f"best_{way}"] = max(value for head in heads if (value := row[f"{head.name}_{way}"]) is not None)
    return row


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
    """Of all rows: taus and regrets by estimate and calibration, and the bias of every leave-one-out estimate."""
    for calibration in CALIBRATIONS:
        for estimate in [f"{head}_{way}" for way in ("loo", "holdout") for head in (*heads, "best")]:
            yield from _tau_and_regret(rows, estimate, calibration, draws)
    for head in heads:
        excess = 100 * (np.array(rows.numbers(f"{head}_loo")) - np.array(rows.numbers(f"{head}_test")))
        found = spread(excess.tolist())
        yield Figure(
            f"bias_{head}_loo", float(excess.mean()), f"{head}: leave-one-out balanced accuracy - its test accuracy",
            unit="points", low=found.low, high=found.high, repetitions=len(excess),
            detail={"median_seconds": float(np.median(rows.numbers(f"{head}_seconds")))},
        )  # fmt: skip


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
        yield Figure(f"tau_{name}", None, f"Kendall tau {over}", unit="tau", reason="All scores are equal.")
    found = spread(regrets)
    yield Figure(f"regret_{name}", float(np.mean(regrets)), f"top-{TOP} regret {over}", unit="points",
                 low=found.low, high=found.high, repetitions=draws)  # fmt: skip


def _all(images: ImageSet) -> Tensor:
    return torch.arange(len(images))
