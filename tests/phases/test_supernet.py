"""The super-network phase: its share of the time, its snapshots, what it leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nasimb import assemble
from nasimb.errors import DataError, InputError, Interrupted
from nasimb.phases.supernet import CALIBRATION_FILE, SMALLEST_STEPS, is_finished, load, train
from nasimb.session import Session
from nasimb.supernet.train import STATE_FILE

Workshop = Callable[..., Any]


def trained(shop: Any, folder: Path, *, stop_after: int = 10**6, steps: int = 8, seconds: float | None = None) -> Any:
    left = [stop_after]

    def stop() -> int:
        left[0] -= 1
        return 15 if left[0] < 0 else 0

    session = Session(shop.run, shop.session.ledger, shop.clock, shop.watcher, stop)
    training = assemble.new_training(shop.config, shop.ground, seconds)
    if seconds is not None:
        original = training.step

        def step(progress: float) -> torch.Tensor:
            shop.clock.now += 1.0
            return original(progress)

        training.step = step  # type: ignore[method-assign]
    with session.ledger.phase("supernet"):
        images = shop.scoring.calibrations["source"].images()
        return train(session, training, folder, seconds=seconds, steps=steps, info={"a": 1}, source_images_BCHW=images)


def test_interrupted_training_goes_on_bit_for_bit(workshop: Workshop, tmp_path: Path) -> None:
    shop = workshop()
    whole = trained(shop, tmp_path / "whole")
    with pytest.raises(Interrupted):
        trained(shop, tmp_path / "parts", stop_after=3)
    assert (tmp_path / "parts" / STATE_FILE).exists()
    assert not is_finished(tmp_path / "parts")
    parts = trained(shop, tmp_path / "parts")
    assert parts.info == whole.info
    for name, tensor in whole.supernet.state_dict().items():
        assert torch.equal(parts.supernet.state_dict()[name], tensor), name
    assert not (tmp_path / "parts" / STATE_FILE).exists()


def test_what_is_left_loads_as_it_was(workshop: Workshop, tmp_path: Path) -> None:
    shop = workshop()
    made = trained(shop, tmp_path / "made")
    found = load(tmp_path / "made", torch.device("cpu"))
    assert found.info == made.info == {"a": 1, "steps": 8, "precision": "float32", "last_loss": made.info["last_loss"]}
    assert torch.equal(found.source_images_BCHW, made.source_images_BCHW)
    assert found.source_hashes == set(shop.ground.task.source.hashes())
    found.check_unseen(shop.ground.task.test, "test")
    with pytest.raises(DataError, match="source split"):
        found.check_unseen(shop.ground.task.source, "source")
    (tmp_path / "made" / CALIBRATION_FILE).write_bytes(b"half")
    with pytest.raises(InputError, match="whole"):
        load(tmp_path / "made", torch.device("cpu"))


def test_training_ends_with_its_share(workshop: Workshop, tmp_path: Path) -> None:
    shop = workshop("training.precision=float32", limit=100.0)
    made = trained(shop, tmp_path / "made", seconds=40.0)
    assert made.info["steps"] == 40
    assert shop.session.ledger.spent("supernet") == 40.0


def test_a_share_that_a_kill_has_used_up_still_buys_the_smallest_useful_training(
    workshop: Workshop, tmp_path: Path
) -> None:
    shop = workshop("training.precision=float32", limit=100.0)
    assert trained(shop, tmp_path / "made", seconds=-3.0).info["steps"] == SMALLEST_STEPS


def test_training_says_once_that_batch_norms_see_too_few_images(workshop: Workshop, tmp_path: Path) -> None:
    for batch_size, count in ((8, 1), (16, 0)):
        shop = workshop(f"training.batch_size={batch_size}", folder=f"run{batch_size}")
        trained(shop, tmp_path / f"made{batch_size}", steps=3)
        said = [line for line in shop.watcher.lines if line.startswith("Batch norms see")]
        assert len(said) == count
        assert all("gn, ln, in, frn and evonorm_s0" in line for line in said)
