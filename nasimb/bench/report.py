"""Running benchmarks, and what is shown and kept of them: a table, JSON, one CSV file a benchmark."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from nasimb.bench.base import Conditions, Figure, Measure, Skipped
from nasimb.data import parse_dataset
from nasimb.errors import InputError, Interrupted
from nasimb.rundir import environment

COLUMNS = (
    "benchmark", "figure", "value", "low", "high", "unit", "target", "met", "repetitions", "against", "reason",
    "data", "supernet", "device", "threads", "seed", "quick", "clock", "commit",
)  # fmt: skip
VERSIONS = ("python", "torch", "numpy", "scipy", "scikit-learn", "optuna", "nasimb")


def run_measures(measures: Mapping[str, Measure], conditions: Conditions) -> Iterator[Figure]:
    """Figures one by one; what fails or is left out becomes a figure without value that says why.

    Raises:
        InputError: what was asked is wrong. Interrupted: a signal has come.
    """
    for name, measure in measures.items():
        try:
            for figure in measure(conditions):
                # Small sizes are all overhead: they are not to be held against what is asked of real ones.
                yield replace(figure, at_most=None, at_least=None) if conditions.quick else figure
        except (InputError, Interrupted):
            raise
        except Skipped as reason:
            yield Figure(name, None, "", reason=str(reason))
        except Exception as error:  # whatever one measurement breaks on, the others are still worth having
            yield Figure(name, None, "", reason=f"{type(error).__name__}: {' '.join(str(error).split())}", failed=True)


def provenance(conditions: Conditions, clock: str) -> dict[str, Any]:
    """What every figure carries besides its number: device, versions, seed, kind of data; no paths."""
    found = environment(_device(conditions.device), ())
    kept = {key: found[key] for key in ("commit", "device", "machine", "system", "cpu_count", "versions")}
    config = conditions.config
    return {
        **kept, "threads": torch.get_num_threads(), "seed": config.seed, "quick": conditions.quick, "clock": clock,
        "data": "synthetic" if conditions.synthetic else parse_dataset(config.data).name,
        "supernet": "fresh weights" if config.supernet is None else "trained",
    }  # fmt: skip


def table(figures: Sequence[Figure]) -> pd.DataFrame:
    """The figures as a reader wants them, the ones with a target and without side by side."""
    return pd.DataFrame(
        [
            {
                "figure": figure.figure,
                "value": "" if figure.value is None else f"{_short(figure.value)}",
                "quartiles": "" if figure.low is None or figure.high is None
                else f"{_short(figure.low)} .. {_short(figure.high)}",
                "unit": figure.unit,
                "target": figure.target,
                "met": {True: "yes", False: "NO", None: ""}[figure.met],
                "n": figure.repetitions,
                "what": figure.against or f"{'failed' if figure.failed else 'left out'}: {figure.reason}",
            }
            for figure in figures
        ]
    )  # fmt: skip


def write_json(file: Path, figures: Mapping[str, Sequence[Figure]], shared: Mapping[str, Any]) -> None:
    """One list of records over all benchmarks; the file is replaced as a whole."""
    records = [{"benchmark": name, **figure.to_record(shared)} for name, some in figures.items() for figure in some]
    _replace(file, json.dumps(records, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(folder: Path, name: str, figures: Sequence[Figure], shared: Mapping[str, Any]) -> None:
    """folder/NAME.csv: a row a figure, conditions and versions in columns; what is behind it as JSON in the last."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*COLUMNS, *(f"{library}_version" for library in VERSIONS), "detail"])
    for figure in figures:
        record = {"benchmark": name, **figure.to_record(shared)}
        cells = [record[column] for column in COLUMNS] + [shared["versions"][library] for library in VERSIONS]
        cells.append(json.dumps(record["detail"], ensure_ascii=False, allow_nan=False))
        writer.writerow(["" if cell is None else cell for cell in cells])
    _replace(folder / f"{name}.csv", out.getvalue())


def _replace(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _device(device: torch.device) -> str:
    """The name of the GPU or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} ({os.cpu_count()} threads)"
    return f"{platform.processor() or platform.machine()} ({os.cpu_count()} threads)"
