"""A search from Python: `nasimb.search(...)`, in one call what `nasimb search` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nasimb.config import as_typed
from nasimb.errors import InputError
from nasimb.export import Model, load, model_folder
from nasimb.phases.sharing import Sharing
from nasimb.pipeline import run_search
from nasimb.progress import Watcher
from nasimb.report.findings import findings, number_tables

__all__ = ["Found", "search"]


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found.

    Attributes:
        folder: of the run; every `nasimb` command takes it.
        model: the winner, ready to predict.
        result: the contents of result.json.
        report: tables by name ("models", "steps", "candidates", "pareto", "spend", "classes", ...): fractions, seconds
            and counts, as `nasimb report --tables` writes them.

    Example:
        >>> quick = ["training_steps=3", "heads.penalties=[0.01]"]
        >>> found = search(data="digits:0-2", budget="2trials", run="runs/digits", assign=quick)
        >>> found.report["classes"][["class", "group", "training_images"]]
          class   group  training_images
        0     0  medium               60
        1     1     few               13
        2     2     few                3
        >>> found.result["winner"]["head"] in {"gda", "ridge", "balanced_softmax"}
        True
    """

    folder: Path
    model: Model
    result: dict[str, Any]
    report: dict[str, pd.DataFrame]


def search(
    *,
    data: str | Mapping[str, Any] | None = None,
    source: str | Mapping[str, Any] | None = None,
    supernet: str | Path | None = None,
    imbalance_factor: float | None = None,
    profile: str | None = None,
    budget: str | None = None,
    space: str | Path | None = None,
    objective: str | None = None,
    max_macs: int | str | None = None,
    max_params: int | str | None = None,
    sampler: str | None = None,
    sampling: str | None = None,
    calibration: str | Sequence[str] | None = None,
    head_crops: int | None = None,
    validation: str | None = None,
    seed: int | None = None,
    run: str | Path | None = None,
    workers: int = 0,
    storage: str | None = None,
    config: str | None = None,
    assign: Sequence[str] = (),
    device: str | None = None,
    skip_bad_images: bool | None = None,
    download: bool | None = None,
    watcher: Watcher | None = None,
) -> Found:
    """Search the best network for imbalanced images within a budget.

    Every option means what `nasimb search --help` says of it; None is its default there. The same call on the same run
    folder goes on with an interrupted run, or reads a finished one. Ctrl-C raises KeyboardInterrupt.

    Args:
        assign: any other option, as for --set: ["training_steps=50"].
        watcher: is shown every step; None keeps silent.

    Returns:
        The winner's model, the result, and the tables of the report.

    Raises:
        InputError: an option is wrong, or two do not go together.

    Example:
        >>> import nasimb
        >>> quick = ["training_steps=3", "heads.penalties=[0.01]"]
        >>> found = nasimb.search(data="digits:0-2", budget="2trials", run="runs/digits", assign=quick)
        >>> found.model.classes
        ('0', '1', '2')
        >>> bool(found.result["winner"]["test"]["balanced_accuracy"] > 0.5)
        True
        >>> sorted(found.report["models"]["model"])
        ['largest', 'largest_plain_head', 'smallest', 'winner']
    """
    if workers < 0:
        raise InputError("workers must be a number of processes", got=workers, do="Give 0 for this one alone.")
    chosen = as_typed(
        data=_plain(data), source=_plain(source), supernet=supernet, imbalance_factor=imbalance_factor,
        profile=profile, budget=budget, space=None if space is None else str(space), objective=objective,
        max_macs=max_macs, max_params=max_params, sampler=sampler, sampling=sampling, calibration=calibration,
        head_crops=head_crops, validation=validation, seed=seed, config=config, assign=assign, device=device,
        skip_bad_images=skip_bad_images, download=download,
    )  # fmt: skip
    folder = Path("runs") / chosen.run_name() if run is None else Path(run)
    result = run_search(chosen, folder, watcher=watcher, sharing=Sharing(workers, storage))
    return Found(folder, load(model_folder(folder)), result, number_tables(findings([folder])))


def _plain(data: str | Mapping[str, Any] | None) -> str | dict[str, Any] | None:
    return dict(data) if isinstance(data, Mapping) else data
