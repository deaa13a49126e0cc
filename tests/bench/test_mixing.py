"""The mixing benchmark: its errors against the reference's, and its figures in quick mode."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch

from nasimb.bench.base import Conditions
from nasimb.bench.mixing import (
    CELLS,
    QUICK_DRAWS,
    SEEDS,
    WEIGHTINGS,
    Cell,
    Drawn,
    drawn,
    errors,
    mixing,
    posterior_weight,
)
from nasimb.nn.mixing import Sampled, mixing_weight
from nasimb.nn.moments import Moments


def test_the_cells_are_those_of_the_reference() -> None:
    assert len(set(CELLS)) == 18
    assert {cell.name for cell in CELLS} >= {"C16_n4_d0.1", "C64_n64_d1"}


@pytest.mark.parametrize(
    ("cell", "known"),
    [
        (Cell(16, 4, 0.1), {"source": 0.010, "batch": 0.247, "oracle": 0.009, "pooled": 0.027, "james_stein": 0.034}),
        (Cell(64, 16, 0.3), {"source": 0.090, "batch": 0.063, "oracle": 0.025, "pooled": 0.038, "fixed_16": 0.038}),
    ],
)
def test_errors_are_those_that_were_measured_before(cell: Cell, known: dict[str, float]) -> None:
    found = errors(drawn(cell, "exponential", True, 4000, seed=0))
    for name, error in known.items():
        assert found[name] == pytest.approx(error, rel=0.05, abs=6e-4), name


def test_errors_by_hand() -> None:
    # The target's mean is 0; weights 0, 1 and 4 / 20 of the batch.
    batches = Drawn(torch.tensor([[1.0, 2.0]]), torch.tensor([[-0.5, 0.0]]), torch.full((1, 2), 0.25), 4)
    found = errors(batches)
    assert found["source"] == pytest.approx((1 + 4) / 2)
    assert found["batch"] == pytest.approx(0.25 / 2)
    assert found["fixed_16"] == pytest.approx(((0.8 - 0.1) ** 2 + 1.6**2) / 2)
    # Weights of the oracle: 1 / 1.25 and 4 / 4.25.
    assert found["oracle"] == pytest.approx(((0.2 - 0.4) ** 2 + (2 * 0.25 / 4.25) ** 2) / 2)


def test_every_draw_is_weighed_as_a_layer_is() -> None:
    batches = drawn(Cell(16, 4, 0.3), "exponential", False, 5, seed=1)
    one = Moments(batches.source_RC[3], torch.ones(16))
    target = Sampled(Moments(batches.batch_RC[3], torch.ones(16)), batches.noise_RC[3], batches.noise_RC[3], 4)
    assert posterior_weight(batches)[3, 0] == pytest.approx(float(mixing_weight(one, target, None)))


def test_estimated_noise_belongs_to_the_same_batches() -> None:
    cell = Cell(16, 16, 0.3)
    known, estimated = (drawn(cell, "gaussian", known, 500, seed=0) for known in (True, False))
    assert torch.equal(known.batch_RC, estimated.batch_RC)
    assert (known.noise_RC == 1 / 16).all()
    assert estimated.noise_RC.mean() == pytest.approx(1 / 16, rel=0.02)
    assert estimated.noise_RC.std() > 0.01


def test_the_weight_keeps_its_targets_where_others_do_not() -> None:
    """Fewer draws than the benchmark's, in the cells that are hardest."""
    for cell in (Cell(16, 4, 0.1), Cell(16, 4, 1.0), Cell(16, 16, 0.3)):
        found = errors(drawn(cell, "exponential", True, 3000, seed=7))
        fixed = min(found["source"], found["batch"], found["fixed_16"])
        assert found["nasimb"] < 1.18 * fixed, cell
    found = errors(drawn(Cell(16, 4, 0.1), "exponential", True, 3000, seed=7))
    assert min(found["pooled"], found["james_stein"]) > 2 * found["source"]


def test_figures_of_a_quick_look(quick: Callable[..., Conditions]) -> None:
    found = {figure.figure: figure for figure in mixing(quick())}
    assert set(list(found)[:2]) == {"mixing_worst", "mixing_oracle"}
    assert len(found) == 8
    worst = found["mixing_worst"]
    assert worst.target == "<= 1.15"
    assert found["mixing_oracle"].target == "<= 1.6"
    assert all(not figure.target for figure in list(found.values())[2:])
    assert len(worst.detail) == len(CELLS) * len(WEIGHTINGS)
    errors_S = [
        {cell: errors(drawn(cell, "exponential", True, QUICK_DRAWS, seed)) for cell in CELLS} for seed in range(SEEDS)
    ]
    assert worst.detail["C16_n4_d0.3_nasimb"] == pytest.approx(
        np.mean([one[Cell(16, 4, 0.3)]["nasimb"] for one in errors_S])
    )
    worsts = [max(e["nasimb"] / min(e["source"], e["batch"], e["fixed_16"]) for e in s.values()) for s in errors_S]
    assert worst.value == pytest.approx(np.median(worsts))
    oracles = [np.mean([e["nasimb"] / e["oracle"] for e in s.values()]) for s in errors_S]
    assert found["mixing_oracle"].value == pytest.approx(np.median(oracles))
    assert json.dumps(worst.to_record({"seed": 9}))
    assert worst.provenance["seed"] == "0..2"
