"""The adaptation benchmark with stand-ins for adapters whose answers are known."""

from __future__ import annotations

import copy
import csv
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nasimb.bench import adaptation
from nasimb.bench.adaptation import FILE, STRATEGIES, TABLE, Adapt, Cell, Shown, Subject, load, measured, timed, wanted
from nasimb.bench.base import Conditions
from nasimb.bench.trained import NetworkRecipe
from nasimb.data.corruptions import CORRUPTIONS
from nasimb.data.digits import DigitsSpec
from nasimb.data.task import Task
from nasimb.errors import Interrupted, ResumeError


def batch_statistics(network: nn.Module) -> nn.Module:
    """The same network, normalised by the batch."""
    changed = copy.deepcopy(network)
    for norm in (module for module in changed.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.train()
        norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    return changed


def stand_ins(network: nn.Module, task: Task) -> Adapt:
    del task
    # "mixed" leaves everything as it is, so that its differences to the source are known: none.
    return lambda strategy: batch_statistics(network) if strategy == "batch" else network


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = NetworkRecipe(widths=(8, 16), depths=(1, 1), stem_width=8, batch_size=32, learning_rate=0.2)
    monkeypatch.setattr(adaptation, "SMALL", recipe)
    monkeypatch.setattr(adaptation, "QUICK_EPOCHS", 4)


@pytest.fixture
def digits(quick: Callable[..., Conditions]) -> Callable[..., Conditions]:
    """Quick conditions on all digits, as the command makes them."""

    def make(**changes: Any) -> Conditions:
        config = quick().config.model_copy(update={"imbalance_factor": DigitsSpec.default_imbalance_factor})
        return quick(**{"config": config, "images": None, **changes})

    return make


def test_the_cells_are_those_asked_for() -> None:
    cells = wanted(quick=False)
    assert len(cells) == len(set(cells)) == 3 + 5 * 3 * 3 + 6 * 3
    kinds = Counter(cell.stream for cell in cells)
    assert kinds == {"iid": 48, "sorted": 6, "runs": 6, "longtail": 6}
    assert {cell.corruption for cell in cells} == {"clean", *CORRUPTIONS}
    assert {cell.severity for cell in cells if cell.corruption != "clean"} == {1, 3, 5}
    assert {cell.batch_size for cell in cells if cell.stream != "iid"} == {64}
    changes = sum(a[:2] != b[:2] for a, b in pairwise(cells))
    assert changes == 15  # every corruption and severity is made once
    assert set(wanted(quick=True)) < {Cell(*cell) for cell in cells}


def test_figures_rows_and_table(digits: Callable[..., Conditions], tmp_path: Path) -> None:
    conditions = digits(folder=tmp_path / "out")
    found = {figure.figure: figure for figure in measured(conditions, stand_ins)}
    assert found["adaptation_worst_stream"].value == 0.0
    assert found["adaptation_worst_clean"].value == 0.0
    assert found["adaptation_gain"].value == 0.0
    assert found["adaptation_gain"].provenance["data"] == "digits"
    assert found["adaptation_worst_cell"].value is not None
    assert found["adaptation_worst_cell"].value < -5  # the batch's statistics undo lost contrast
    assert found["adaptation_worst_stream"].detail["batch_worst"] < -30  # and are fooled by sorted classes
    with (tmp_path / "out" / FILE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(wanted(quick=True)) * len(STRATEGIES)
    tails = [row for row in rows if row["stream"] == "longtail"]
    assert all(row["few"] and int(row["images"]) < 1000 for row in tails)
    assert (tmp_path / "out" / TABLE).read_text().count("\n") == 1 + len(rows)


def test_an_interrupted_one_goes_on(
    digits: Callable[..., Conditions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = list(measured(digits(), stand_ins))
    ticks = iter(range(100_000))
    stopping = digits(folder=tmp_path, stop=lambda: 15 if next(ticks) > 12 else 0)
    with pytest.raises(Interrupted):
        list(measured(stopping, stand_ins))
    begun = (tmp_path / FILE).read_text().count("\n")
    assert 1 < begun < 1 + len(wanted(quick=True)) * len(STRATEGIES)

    def untrained(*arguments: object, **options: object) -> nn.Module:
        raise AssertionError("the network is kept")

    monkeypatch.setattr("nasimb.bench.trained.train_network", untrained)
    assert list(measured(digits(folder=tmp_path), stand_ins)) == whole
    with pytest.raises(ResumeError, match="conditions it was begun with"):
        list(measured(digits(images=200, folder=tmp_path), stand_ins))


def test_every_strategy_sees_the_same_images_in_the_same_order(digits: Callable[..., Conditions]) -> None:
    seen: dict[str, list[Tensor]] = {}

    def recording(network: nn.Module, task: Task) -> Adapt:
        def adapt(strategy: str) -> Callable[[Tensor], Tensor]:
            def predictor(images_BCHW: Tensor) -> Tensor:
                seen.setdefault(strategy, []).append(images_BCHW)
                return network(images_BCHW)

            return predictor

        return adapt

    list(measured(digits(), recording))
    assert set(seen) == {"batch", "mixed"}
    assert all(torch.equal(a, b) for a, b in zip(seen["batch"], seen["mixed"], strict=True))
    assert max(map(len, seen["batch"])) == 64


def test_the_source_is_asked_once_whatever_the_order() -> None:
    asked: list[int] = []

    class Brightness(nn.Module):
        def forward(self, images_BCHW: Tensor) -> Tensor:
            asked.append(len(images_BCHW))
            bright_B = images_BCHW.float().mean((1, 2, 3)) > 127
            return torch.stack([~bright_B, bright_B], dim=1).float()

    images_NCHW = torch.tensor([10, 200, 30, 250], dtype=torch.uint8)[:, None, None, None].expand(4, 1, 8, 8)
    subject = Subject(Brightness(), lambda strategy: Brightness(), images_NCHW, np.array([0, 1, 0, 1]), np.ones(2), 0)
    shown = Shown(subject, "clean", 0)
    assert shown.predicted("source", np.array([3, 0, 1]), 1).tolist() == [1, 0, 1]
    assert shown.predicted("source", np.array([2]), 1).tolist() == [0]
    assert asked == [4]
    assert shown.predicted("mixed", np.array([3, 0, 1]), 2).tolist() == [1, 0, 1]
    assert asked == [4, 2, 1]


def test_time_is_taken_against_the_network_as_it_is(digits: Callable[..., Conditions]) -> None:
    class Twice(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, images_BCHW: Tensor) -> Tensor:
            return self.network(images_BCHW) + self.network(images_BCHW)

    found = list(timed(digits(clock=time.perf_counter, repetitions=5), lambda net, task: lambda s: Twice(net)))
    names = ("adaptation_over_plain", "adaptation_from_start_over_plain")
    assert [figure.figure for figure in found] == [f"{name}_{size}" for size in (64, 200) for name in names]
    assert all(1.4 < (figure.value or 0) < 2.8 for figure in found)
    assert [figure.detail["images"] for figure in found] == [512, 960, 600, 1000]


def test_images_are_as_they_come_unless_a_long_tail_is_asked_for(
    digits: Callable[..., Conditions], tmp_path: Path
) -> None:
    task, _ = load(digits())
    assert task.target.class_counts_K.tolist() == [74] * 10
    assert task.test.class_counts_K.tolist() == [100] * 10
    assert (task.target.size, task.flip) == (8, False)
    config = digits().config.model_copy(update={"imbalance_factor": 10.0})
    assert load(digits(config=config))[0].target.class_counts_K.tolist()[::9] == [74, 7]
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (count, 20, 20, 3), dtype=np.uint8) for count in (30, 10))
    np.savez(
        tmp_path / "made.npz", train_images=train, train_labels=np.arange(30) % 3, test_images=test,
        test_labels=np.arange(10) % 3,
    )  # fmt: skip
    config = digits().config.model_copy(update={"data": f"arrays:{tmp_path / 'made.npz'}", "imbalance_factor": None})
    task, recipe = load(digits(config=config, synthetic=False, quick=False))
    assert (len(task.target), len(task.test), task.target.size, task.target.channels) == (30, 10, 32, 3)
    assert recipe == adaptation.LARGE
