"""A finished model, its adapter and the images it is shown: what `nasimb adapt` and `nasimb monitor` begin with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from nasimb.adapt.adapter import BatchNormAdapter
from nasimb.adapt.safety import Safety
from nasimb.adapt.strategies import named
from nasimb.export import Model, load, model_folder
from nasimb.onsite.images import Order, Site, load_site
from nasimb.onsite.profiles import Known, known_training
from nasimb.onsite.records import Record, Recorder
from nasimb.onsite.stream import Seen, stream
from nasimb.session import Stop


@dataclass(frozen=True, eq=False)
class Watched:
    """What `watch` loaded; the images go through once.

    Attributes:
        folder: of the model.
        data, strategy: as they were asked for.
        known: of the training images.
    """

    folder: Path
    data: str
    strategy: str
    model: Model
    site: Site
    known: Known
    safety: Safety
    adapter: BatchNormAdapter
    batch_size: int
    device: torch.device

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on the training images and on those of the site."""
        return (self.known.note, *self.site.notes)

    def batches(self, stop: Stop) -> Iterator[tuple[Seen, Record]]:
        """Each batch, and what is told of it; ends early once `stop` gives a signal."""
        model = self.model
        counts_K, profile_images = model.description.class_counts_K, self.known.images
        recorder = Recorder.begin(self.adapter, model.classes, counts_K, profile_images)
        batches = stream(model, self.adapter, self.site, batch_size=self.batch_size, device=self.device, stop=stop)
        for seen in batches:
            record, recorder = recorder.record(seen, self.site)
            yield seen, record


def watch(
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
) -> Watched:
    """Load and check everything before the first batch.

    Args:
        folder: of the model, or of a finished run.
        data, order, seed: see `load_site`.
        profile_data: see `known_training`.

    Raises:
        InputError: the model, the images or the strategy are not fit for each other.
    """
    named(strategy)  # before anything takes time
    folder = model_folder(folder)
    model = load(folder).to(device)
    site = load_site(data, model, order=order, seed=seed, device=device, skip_bad_images=skip_bad_images)
    known, safety = known_training(folder, model, profile_data, device=device), Safety()
    adapter = BatchNormAdapter(model, strategy, profile=known.profile, safety=safety)
    return Watched(folder, data, strategy, model, site, known, safety, adapter, batch_size, device)
