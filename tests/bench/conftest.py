"""Conditions of a quick benchmark on a clock that a test moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import SPACE, tiny_config

from nasimb.bench.base import Conditions
from nasimb.progress import Silent


@dataclass
class FakeClock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def quick(tmp_path: Path, clock: FakeClock) -> Callable[..., Conditions]:
    """Quick conditions on digits with a tiny space; anything may be changed."""
    space = tmp_path / "space.yaml"
    # As plain networks are trained here: see `nasimb.nn.elastic` on strided 1x1 convolutions of fewer than 8 channels.
    space.write_text(SPACE.replace("widths: [4, 8]", "widths: [8, 12]"))

    def make(**changes: Any) -> Conditions:
        values: dict[str, Any] = {
            "config": tiny_config(tmp_path),
            "synthetic": True,
            "space": str(space),
            "images": 60,
            "device": torch.device("cpu"),
            "repetitions": 2,
            "quick": True,
            "large": False,
            "folder": None,
            "clock": clock,
            "watcher": Silent(),
            "stop": lambda: 0,
        }
        return Conditions(**{**values, **changes})

    return make
