"""`nasimb adapt`: what adapting a finished model to a site would change, and whether it should be.

Shapes: N images of the site, M of them labelled, K classes.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from nasimb.adapt import Entry
from nasimb.adapt.diagnostics import diagnose
from nasimb.adapt.strategies import named
from nasimb.budget import Clock
from nasimb.errors import InputError, Interrupted
from nasimb.evaluate import Tested, assess
from nasimb.export import Model, save
from nasimb.learned import keep_learned, learned_by
from nasimb.metrics import Difference, paired_difference
from nasimb.nn.mixing import Sampled, pooled_samples
from nasimb.onsite.images import Site
from nasimb.onsite.records import Record
from nasimb.onsite.verdict import Verdict, decide, shares_by_reason
from nasimb.onsite.watched import Watched
from nasimb.progress import Progress, Watcher
from nasimb.session import Stop

RESAMPLES = 2000
SEED = 0
"""Of the bootstrap: intervals of the same predictions are the same."""


@dataclass(frozen=True, eq=False)
class DryRun:
    """What came of it.

    Attributes:
        watched: the model as it is, the images, and the adapter after the last of them.
        entries: what the adapter did with every batch; records: what is told of it.
        source_NK, adapted_NK: probabilities of the model as it is, and of the adapter along the stream.
        layers: see `nasimb.adapt.diagnostics.layer_table`, of all images.
        tested: {"source", "adapted"}, and gains: of the second over the first, on the labelled images; None without
            labels.
    """

    watched: Watched
    entries: tuple[Entry, ...]
    records: tuple[Record, ...]
    source_NK: np.ndarray
    adapted_NK: np.ndarray
    layers: pd.DataFrame
    tested: dict[str, Tested] | None
    gains: dict[str, Difference] | None
    verdict: Verdict

    @property
    def model(self) -> Model:
        """As it is."""
        return self.watched.model

    @property
    def site(self) -> Site:
        """The images."""
        return self.watched.site

    @property
    def flipped_N(self) -> np.ndarray:
        """Whether the adapted model gives an image another class."""
        return np.asarray(self.source_NK.argmax(1) != self.adapted_NK.argmax(1))

    def to_dict(self) -> dict[str, Any]:
        """For programs; what is not known is null."""
        classes, shares = self.model.classes, class_shares(self)
        return {
            "schema": 1,
            "model": str(self.watched.folder),
            "data": self.watched.data,
            "strategy": self.watched.strategy,
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
            "notes": list(self.watched.notes),
        }  # fmt: skip


def dry_run(
    watched: Watched, *, watcher: Watcher | None = None, stop: Stop = lambda: 0, clock: Clock = time.monotonic
) -> DryRun:
    """Show all images to the model and to its adapter; the model stays as it is.

    Args:
        watcher: shown every batch.

    Raises:
        Interrupted: `stop` gave a signal.
    """
    site, adapter, begun = watched.site, watched.adapter, clock()
    entries, records, shown = list[Entry](), list[Record](), 0
    pooled: dict[str, Sampled] = {}
    source_NK, adapted_NK = (np.empty((len(site), len(watched.model.classes)), np.float32) for _ in range(2))
    for seen, record in watched.batches(stop):
        entries.append(seen.entry)
        records.append(record)
        source_NK[seen.positions_B], adapted_NK[seen.positions_B] = seen.source_BK, seen.adapted_BK
        for name, sample in seen.layers.items():
            pooled[name] = sample if name not in pooled else pooled_samples(pooled[name], sample)
        shown += seen.entry.images
        if watcher is not None:
            done = shown / len(site)
            watcher.show(Progress("looking at images", done, clock() - begun, None, record.reason.value))
    if stop():
        raise Interrupted(
            stop(), must_hold="a dry run must see all the images", kept="nothing is kept of it",
            resume="Give the same command again.",
        )  # fmt: skip
    shares_K = torch.from_numpy(source_NK.mean(0)).to(watched.device)
    layers = diagnose(adapter, pooled, shares_K=shares_K, source_images=watched.known.images)
    tested, gains = compare(watched.model, site, source_NK.argmax(1), adapted_NK.argmax(1))
    verdict = decide(entries, watched.safety, float(layers["shift"].max()), gains)
    return DryRun(
        watched, tuple(entries), tuple(records), source_NK, adapted_NK, layers, tested, gains, verdict
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
    if found.watched.adapter.profile is not None:
        shares["expected"] = found.watched.adapter.profile.predicted_K.double().cpu().numpy()
    shares |= {"predicted": found.source_NK.mean(0), "adapted": found.adapted_NK.mean(0)}
    labels_M = found.site.labels_N[found.site.labelled_M].numpy()
    if len(labels_M):
        shares["labels"] = np.bincount(labels_M, minlength=len(counts_K)) / len(labels_M)
    return {name: [round(float(value), 6) for value in values_K] for name, values_K in shares.items()}


def save_adapted(found: DryRun, folder: Path) -> None:
    """Write the model with the statistics that it has after the last image, as a new model folder.

    Raises:
        InputError: see `check_can_be_saved`; or the norms are not batch norms, or nothing was adapted to in the end.
    """
    check_can_be_saved(found.watched.strategy, folder)
    if not found.watched.adapter.state.adapting:
        do = "There is nothing to save: the last images were not adapted to, and the model is as it was."
        raise InputError("a model to save must have adapted statistics", got=f"those of {found.watched.folder}", do=do)
    adapted = found.watched.adapter.adapted_model()
    assert isinstance(adapted, Model)
    before = found.model.description
    watched = found.watched
    about = {
        "strategy": watched.strategy, "data": watched.data, "images": len(found.site), "of": str(watched.folder),
    }  # fmt: skip
    metrics = {key: value for key, value in before.metrics.items() if key == "cost"}  # others are of the old statistics
    description = replace(
        before,
        calibration=f"{before.calibration}, adapted",
        metrics=metrics,
        provenance={**before.provenance, "adapted": about},
    )
    learned = learned_by(watched.folder)
    save(Model(adapted.backbone, adapted.head, description), folder)
    keep_learned(folder, learned)


def check_can_be_saved(strategy: str, folder: Path) -> None:
    """Before anything takes time.

    Raises:
        InputError: the folder exists, or the strategy has only the statistics of the last batch to give.
    """
    if folder.exists():
        raise InputError("a new model needs a new folder", got=f"{folder}, which exists", do="Choose another --save.")
    if not named(strategy).learns:
        do = "Use --strategy mixed or ema."
        raise InputError("a model is saved with the statistics of a whole stream", got=f"strategy {strategy}", do=do)
