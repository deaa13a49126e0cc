"""`nasimb adapt`: what adapting a finished model to a site would change, and whether it should be.

Shapes: N images of the site, M of them labelled, K classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from nasimb.adapt.adapter import BatchNormAdapter, Entry
from nasimb.adapt.diagnostics import layer_table
from nasimb.adapt.safety import Safety
from nasimb.adapt.strategies import strategy as strategy_named
from nasimb.budget import Clock
from nasimb.errors import InputError, Interrupted
from nasimb.evaluate import Tested, assess
from nasimb.export import Model, load, save
from nasimb.metrics import Difference, paired_difference
from nasimb.nn.mixing import Sampled, pooled_samples
from nasimb.onsite.images import Order, Site, load_site
from nasimb.onsite.profiles import known_training
from nasimb.onsite.records import Record, Recorder
from nasimb.onsite.stream import Seen, stream
from nasimb.onsite.verdict import Verdict, decide, shares_by_reason
from nasimb.progress import Progress, Silent, Watcher
from nasimb.session import Stop

RESAMPLES = 2000
SEED = 0
"""Of the bootstrap: intervals of the same predictions are the same."""


@dataclass(frozen=True, eq=False)
class DryRun:
    """What came of it.

    Attributes:
        model: as it is; adapter: after the last image.
        records: one a batch; entries: what the adapter did with it.
        source_NK, adapted_NK: probabilities of the model as it is, and of the adapter along the stream.
        layers: see `nasimb.adapt.diagnostics.layer_table`, of all images.
        tested: {"source", "adapted"}, and gains: of the second over the first, on the labelled images; None without
            labels.
    """

    folder: Path
    data: str
    strategy: str
    model: Model
    adapter: BatchNormAdapter
    site: Site
    records: tuple[Record, ...]
    entries: tuple[Entry, ...]
    source_NK: np.ndarray
    adapted_NK: np.ndarray
    layers: pd.DataFrame
    tested: dict[str, Tested] | None
    gains: dict[str, Difference] | None
    verdict: Verdict
    notes: tuple[str, ...]

    @property
    def flipped_N(self) -> np.ndarray:
        """Whether the adapted model gives an image another class."""
        return np.asarray(self.source_NK.argmax(1) != self.adapted_NK.argmax(1))

    def to_dict(self) -> dict[str, Any]:
        """For programs; what is not known is null."""
        classes, shares = self.model.classes, class_shares(self)
        return {
            "schema": 1,
            "model": str(self.folder),
            "data": self.data,
            "strategy": self.strategy,
            "adapt": self.verdict.adapt,
            "verdict": self.verdict.sentence,
            "images": len(self.site),
            "labelled": len(self.site.labelled_M),
            "batches": len(self.entries),
            "reasons": {
                reason: {"batches": batches, "images": images}
                for reason, (batches, images) in shares_by_reason(self.entries).items()
            },
            "rolled_back": sum(entry.rolled_back for entry in self.entries),
            "flips": float(self.flipped_N.mean()),
            "class_mix": {name: dict(zip(classes, values, strict=True)) for name, values in shares.items()},
            "layers": [
                {key: None if isinstance(value, float) and not math.isfinite(value) else value
                 for key, value in row.items()}
                for row in self.layers.to_dict(orient="records")
            ],
            "tests": None if self.tested is None else {name: one.to_dict() for name, one in self.tested.items()},
            "gains": None if self.gains is None else {name: list(gain) for name, gain in self.gains.items()},
            "notes": list(self.notes),
        }  # fmt: skip


def dry_run(
    folder: Path,
    data: str,
    strategy: str = "mixed",
    *,
    batch_size: int = 64,
    profile_data: str | None = None,
    order: Order = Order.auto,
    seed: int = 0,
    device: torch.device,
    skip_bad_images: bool = False,
    watcher: Watcher | None = None,
    stop: Stop = lambda: 0,
    clock: Clock = time.monotonic,
) -> DryRun:
    """Show the images of a site to a model and to its adapter; nothing is changed but the profile kept beside it.

    Args:
        folder: of the model, or of a finished run.
        data, order, seed: see `load_site`.
        profile_data: see `known_training`.

    Raises:
        InputError: the model, the images or the strategy are not fit for each other. Interrupted: by a signal.
    """
    strategy_named(strategy)  # before anything takes time
    folder = model_folder(folder)
    model = load(folder).to(device)
    site = load_site(data, model, order=order, seed=seed, device=device, skip_bad_images=skip_bad_images)
    known = known_training(folder, model, profile_data, device=device)
    safety = Safety()
    adapter = BatchNormAdapter(model, strategy, profile=known.profile, safety=safety)
    seen, begun = [], clock()
    for batch in stream(model, adapter, site, batch_size=batch_size, device=device, stop=stop):
        seen.append(batch)
        done = sum(len(one.positions_B) for one in seen) / len(site)
        (watcher or Silent()).show(Progress("looking at images", done, clock() - begun, None, batch.entry.reason.value))
    if stop():
        raise Interrupted(stop(), resume="Nothing was written; give the same command again.")
    entries = tuple(batch.entry for batch in seen)
    records, recorder = [], Recorder.begin(adapter, model.classes, model.description.class_counts_K)
    for batch in seen:
        record, recorder = recorder.record(batch, site)
        records.append(record)
    source_NK, adapted_NK = (
        np.concatenate([getattr(batch, name).numpy() for batch in seen]) for name in ("source_BK", "adapted_BK")
    )
    layers = layers_of(adapter, seen, source_NK, known.images)
    tested, gains = compare(model, site, source_NK.argmax(1), adapted_NK.argmax(1))
    verdict = decide(entries, safety, float(layers["shift"].max()), gains)
    return DryRun(
        folder, data, strategy, model, adapter, site, tuple(records), entries, source_NK, adapted_NK, layers, tested,
        gains, verdict, (known.note, *site.notes),
    )  # fmt: skip


def model_folder(folder: Path) -> Path:
    """Of a model, given it or the run that it is the winner of."""
    return folder / "best" if (folder / "best").is_dir() else folder


def layers_of(
    adapter: BatchNormAdapter, seen: Sequence[Seen], source_NK: np.ndarray, source_images: int | None
) -> pd.DataFrame:
    """The table of all batches together."""
    pooled: dict[str, Sampled] = {}
    for batch in seen:
        for name, sample in batch.layers.items():
            pooled[name] = sample if name not in pooled else pooled_samples(pooled[name], sample)
    source = {name: adapter.source_moments(name) for name in pooled}
    shares_K = torch.from_numpy(source_NK.mean(0)).to(next(iter(source.values())).mean_C.device)
    return layer_table(
        source, pooled, weights=adapter.state.weights, profile=adapter.profile, shares_K=shares_K,
        source_images=source_images,
    )  # fmt: skip


def compare(
    model: Model, site: Site, source_N: np.ndarray, adapted_N: np.ndarray
) -> tuple[dict[str, Tested] | None, dict[str, Difference] | None]:
    """Both models on the labelled images, and the gains of the adapted one, with 95 % intervals."""
    labelled_M = site.labelled_M.numpy()
    if not len(labelled_M):
        return None, None
    labels_M, counts_K = site.labels_N.numpy()[labelled_M], np.asarray(model.description.class_counts_K)
    source_M, adapted_M = source_N[labelled_M], adapted_N[labelled_M]
    tested = {
        "source": assess(source_M, labels_M, counts_K, seed=SEED),
        "adapted": assess(adapted_M, labels_M, counts_K, seed=SEED),
    }
    return tested, paired_difference(adapted_M, source_M, labels_M, counts_K, resamples=RESAMPLES, seed=SEED)


def class_shares(found: DryRun) -> dict[str, list[float]]:
    """Shares of the classes, by name: `training` images, mean prediction of the model on them (`expected`, with a
    profile), `predicted` on the site as it is and `adapted`, and `labels` of the site (where there are any)."""
    counts_K = np.asarray(found.model.description.class_counts_K, dtype=np.float64)
    shares = {"training": counts_K / counts_K.sum()}
    if found.adapter.profile is not None:
        shares["expected"] = found.adapter.profile.predicted_K.double().cpu().numpy()
    shares |= {"predicted": found.source_NK.mean(0), "adapted": found.adapted_NK.mean(0)}
    labels_M = found.site.labels_N[found.site.labelled_M].numpy()
    if len(labels_M):
        shares["labels"] = np.bincount(labels_M, minlength=len(counts_K)) / len(labels_M)
    return {name: [round(float(value), 6) for value in values_K] for name, values_K in shares.items()}


def save_adapted(found: DryRun, folder: Path) -> None:
    """Write the model with the statistics that it has after the last image, as a new model folder.

    Raises:
        InputError: see `check_can_be_saved`; or the norms are not batch norms.
    """
    check_can_be_saved(found.strategy, folder)
    adapted = found.adapter.adapted_model()
    assert isinstance(adapted, Model)
    before = found.model.description
    about = {"strategy": found.strategy, "data": found.data, "images": len(found.site), "of": str(found.folder)}
    metrics = {key: value for key, value in before.metrics.items() if key == "cost"}  # others are of the old statistics
    description = replace(
        before,
        calibration=f"{before.calibration}, adapted",
        metrics=metrics,
        provenance={**before.provenance, "adapted": about},
    )
    save(Model(adapted.backbone, adapted.head, description), folder)


def check_can_be_saved(strategy: str, folder: Path) -> None:
    """Before anything takes time.

    Raises:
        InputError: the folder exists, or the strategy has only the statistics of the last batch to give.
    """
    if folder.exists():
        raise InputError("a new model needs a new folder", got=f"{folder}, which exists", do="Choose another --save.")
    if not strategy_named(strategy).learns:
        do = "Use --strategy mixed or ema."
        raise InputError("a model is saved with the statistics of a whole stream", got=f"strategy {strategy}", do=do)
