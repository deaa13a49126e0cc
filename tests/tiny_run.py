"""A whole run that takes a second: few digits, two small stages, a handful of training steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nasimb.config import RunConfig, load_config

SPACE = """\
backbone: resnet
stem_width: 4
resolutions: [6, 8]
stages:
  - {depths: [1, 2], widths: [4, 8], kernel_sizes: [3], norms: [bn, nbn], stride: 1}
  - {depths: [1], widths: [8, 12], kernel_sizes: [3, 5], norms: [bn, nbn], stride: 2}
taps: [1, 2]
"""
SIZE = 2 * 2 * 2 * 2 * 2 * 2 * 2 * 2
DATA = {"name": "digits", "source_per_class": 12, "target_per_class": 30, "test_per_class": 10}
ASSIGNED = (
    "training_steps=6",
    "training.batch_size=16",
    "calibration_images=32",
    "heads.count=2",
    "heads.folds=2",
    "heads.penalties=[0.01, 0.1]",
    "heads.finalists=[balanced_softmax, gda]",
)


def tiny_config(tmp_path: Path, *assigned: str, **options: Any) -> RunConfig:
    """The tiny run with anything changed; `assigned` are written as for --set."""
    space = tmp_path / "tiny.yaml"
    if not space.exists():
        space.write_text(SPACE)
    values = {"data": DATA, "space": str(space), "budget": "5trials", "device": "cpu", **options}
    return load_config(None, {key: value for key, value in values.items() if value != ""}, [*ASSIGNED, *assigned])
