"""From a configuration to a run's objects: what is checked before time is spent, and what that takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_run import tiny_config

from nasimb import assemble
from nasimb.errors import InputError

CPU = torch.device("cpu")


def test_images_are_split_before_the_run_only_for_a_calibration_that_may_be_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes a hash of every image."""
    asked: list[int] = []
    split_images = assemble.split_images
    monkeypatch.setattr(assemble, "split_images", lambda *args: asked.append(1) or split_images(*args))
    assemble.load_ground(tiny_config(tmp_path, validation="holdout", calibrations=("source", "target-natural")), CPU)
    assert asked == []
    assemble.load_ground(tiny_config(tmp_path, validation="holdout", calibrations=("source", "mixed")), CPU)
    assert asked == [1]
    config = tiny_config(tmp_path, "calibration_images=1", validation="holdout", calibrations=("mixed",))
    with pytest.raises(InputError, match="mixed needs 2 independent images"):
        assemble.load_ground(config, CPU)
