"""What a figure was measured on and under: for whoever reads it, and for whoever would go on measuring."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nasimb import __version__
from nasimb.bench.base import Conditions
from nasimb.bench.testbed import Testbed
from nasimb.data import parse_dataset
from nasimb.rundir import environment

VERSIONS = ("python", "torch", "numpy", "scipy", "scikit-learn", "optuna", "nasimb")
MADE = "made"
"""Kind of data: numbers made up for the purpose."""


def provenance(conditions: Conditions) -> dict[str, Any]:
    """What every figure carries besides its number: device, versions, seed, kind of data; no paths."""
    found = environment(device_name(conditions.device), ())
    kept = {key: found[key] for key in ("commit", "device", "machine", "system", "cpu_count", "versions")}
    config = conditions.config
    return {
        **kept, "versions": {**found["versions"], "nasimb": __version__},
        "threads": torch.get_num_threads(), "seed": config.seed, "quick": conditions.quick,
        "clock": conditions.clock_name,
        "data": "synthetic" if conditions.synthetic else parse_dataset(config.data).name,
        "supernet": "fresh weights" if config.supernet is None else "trained",
    }  # fmt: skip


def on_processor(data: str, supernet: str) -> dict[str, str]:
    """What is put right for figures that look at no image of the command's data, and use no GPU."""
    return {"data": data, "supernet": supernet, "device": device_name(torch.device("cpu"))}


def identity(testbeds: Sequence[Testbed], conditions: Conditions, **more: object) -> str:
    """Everything that a row depends on besides its key, as "name=value; name=value".

    Two rows with one identity may stand in one table. The commit is left out: it changes more often than what is
    measured does.

    Args:
        more: what the rows of this benchmark depend on besides.
    """
    shared = provenance(conditions)
    named = {
        "content": " ".join(testbed.fingerprint() for testbed in testbeds),
        "scoring": " ".join(dict.fromkeys(testbed.scoring_options() for testbed in testbeds)),
        **{name: shared[name] for name in ("device", "threads", "clock", "seed", "quick")},
        **{library: shared["versions"][library] for library in VERSIONS},
        **more,
    }
    return "; ".join(f"{name}={value}" for name, value in named.items())


def device_name(device: torch.device) -> str:
    """The name of the GPU or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} ({os.cpu_count()} threads)"
    return f"{platform.processor() or platform.machine()} ({os.cpu_count()} threads)"
