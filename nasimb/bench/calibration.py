"""What every calibration policy costs or gains against `source`, overall and few-shot: the ablation of statistics.

The smallest, the median and the largest subnet under every policy, for several draws of the target; judged as a search
judges them (held out), and on the test split with the closed-form head that was best there. A unit of work is one
subnet under one policy and draw; its row is written before the next begins.

Shapes: N images, M test images, D features.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray

from nasimb.bench.base import Conditions, Figure, made_with, spread
from nasimb.bench.provenance import identity
from nasimb.bench.rows import Rows
from nasimb.bench.testbed import Testbed, features_for_truth, load_testbed, warn_untrained
from nasimb.errors import NotFiniteError
from nasimb.metrics import measure
from nasimb.search.candidate import Features, judge
from nasimb.search.trial import Candidate
from nasimb.supernet.calibrate import CALIBRATIONS

DRAWS, QUICK_DRAWS = 3, 1
BASE = "source"
SPLITS, METRICS = ("test", "held_out"), ("balanced_accuracy", "few")
FILE = "calibration_rows.csv"


def calibration(conditions: Conditions) -> Iterator[Figure]:
    """calibration_*: points that each policy gains against source, on the same subnets and draws."""
    draws = QUICK_DRAWS if conditions.quick else DRAWS
    policies = tuple(CALIBRATIONS)
    testbeds = [load_testbed(conditions, draw=draw, calibrations=policies, content=True) for draw in range(draws)]
    warn_untrained(testbeds[0], conditions)
    file = None if conditions.folder is None else conditions.folder / FILE
    rows = Rows(file, ("draw", "size", "calibration"), identity(testbeds, conditions))
    units = list(product(range(draws), testbeds[0].named_subnets.items(), policies))
    for position, (draw, (size, subnet), policy) in enumerate(units):
        if rows.has(draw=draw, size=size, calibration=policy):
            continue
        candidate = Candidate(subnet, policy)
        conditions.tick("calibration", position / len(units), str(candidate))
        rows.append({"draw": draw, "size": size, "calibration": policy, **measure_policy(testbeds[draw], candidate)})
    yield from made_with(figures(rows, policies, draws), data=testbeds[0].data)


def measure_policy(testbed: Testbed, candidate: Candidate) -> dict[str, float | str | None]:
    """One row; its accuracies are empty where the statistics let numbers overflow."""
    scoring, task = testbed.scoring, testbed.task
    columns = [f"{split}_{metric}" for split in SPLITS for metric in METRICS]
    try:
        features_ND, test_MD = features_for_truth(testbed, candidate)
    except NotFiniteError:
        return {"head": None, **dict.fromkeys(columns)}
    ranking = judge(scoring, Features(features_ND, None))
    spec = next(head for head in scoring.heads if head.name == ranking.head).chosen(ranking.tau)
    labels_N = task.target.labels_N.to(features_ND.device)
    head = spec.fit(features_ND, labels_N, task.target.num_classes, ranking.setting)
    predicted_M = head.logits(test_MD).argmax(1).cpu().numpy()
    tested = measure(predicted_M, task.test.labels_N.numpy(), scoring.class_counts_K.numpy())
    found = {"test": tested, "held_out": ranking.metrics}
    values = {f"{split}_{metric}": getattr(found[split], metric) for split in SPLITS for metric in METRICS}
    return {"head": ranking.head, **{column: values[column] for column in columns}}


def figures(rows: Rows, policies: tuple[str, ...], draws: int) -> Iterator[Figure]:
    """Of all rows: mean and quartiles over subnets and draws of what each policy gains against `BASE`."""
    for policy, metric in product([policy for policy in policies if policy != BASE], METRICS):
        name = f"calibration_{policy}{'' if metric == METRICS[0] else f'_{metric}'}"
        what = "balanced accuracy" if metric == METRICS[0] else "few-shot recall"
        against = f"test {what}, {policy} - {BASE}, same subnet and draw; mean and quartiles"
        gained = _gained(rows, policy, f"test_{metric}")
        if not np.isfinite(gained).all():
            lost = int((~np.isfinite(gained)).sum())
            reason = f"{lost} of {len(gained)} pairs have no number: features overflow, or there is no such class."
            yield Figure(name, None, against, unit="points", repetitions=len(gained), reason=reason)
            continue
        found, held_out = spread(gained.tolist()), _gained(rows, policy, f"held_out_{metric}")
        by_draw = {f"draw{draw}": float(_gained(rows, policy, f"test_{metric}", draw).mean()) for draw in range(draws)}
        yield Figure(
            name, float(gained.mean()), against, unit="points", low=found.low, high=found.high,
            repetitions=len(gained), detail={"held_out": float(held_out.mean()), **by_draw},
        )  # fmt: skip


def _gained(rows: Rows, policy: str, column: str, draw: int | None = None) -> NDArray[np.float64]:
    """Points by which `policy` is better, subnet by subnet and draw by draw (all of them, or one)."""
    found = {name: _by_unit(rows, name, column) for name in (policy, BASE)}
    units = [unit for unit in sorted(found[BASE]) if draw is None or unit[0] == str(draw)]
    return np.array([100 * (found[policy][unit] - found[BASE][unit]) for unit in units], dtype=np.float64)


def _by_unit(rows: Rows, policy: str, column: str) -> dict[tuple[str, str], float]:
    """A column's numbers under one policy, by draw and size."""
    draws, sizes = rows.texts("draw", calibration=policy), rows.texts("size", calibration=policy)
    return dict(zip(zip(draws, sizes, strict=True), rows.numbers(column, calibration=policy), strict=True))
