"""The super-network phase: train within a share of the budget, survive a kill, leave a folder others can use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from nasimb.data.base import ImageSet
from nasimb.errors import DataError, InputError, Interrupted
from nasimb.ledger import Ledger
from nasimb.session import Session
from nasimb.supernet.base import Supernet
from nasimb.supernet.checkpoint import load_supernet, read_tensors, save_supernet, write_tensors
from nasimb.supernet.ranks import LostRank, Ranks
from nasimb.supernet.smallbatch import small_batch_note
from nasimb.supernet.train import STATE_FILE, Training

PHASE = "supernet"
CALIBRATION_FILE = "calibration.safetensors"
SAVE_EVERY_SECONDS, SAVE_EVERY_SHARE = 10.0, 0.02
"""What a kill may cost, the smaller of both: the schedule goes on with the time that is lost, the weights do not."""
SMALLEST_STEPS = 30
"""Training steps below which a super-network is noise (heuristic)."""


class Trainable(Protocol):
    """What `train_until` needs of a training."""

    @property
    def ranks(self) -> Ranks:
        """Which of several processes this is."""

    steps_done: int
    device: torch.device

    def step(self, progress: float) -> Tensor:
        """One step, at this share of the schedule; the loss."""

    def save(self, folder: Path) -> None:
        """A snapshot."""


@dataclass(frozen=True, eq=False)
class Frozen:
    """A super-network ready to be searched.

    Attributes:
        supernet: frozen, on the device.
        source_images_BCHW: class-balanced images of its source, uint8 on the CPU; they calibrate BN statistics.
        source_hashes: content hash of every image it was trained on, to find leaks.
        info: how it was trained.
    """

    supernet: Supernet
    source_images_BCHW: Tensor
    source_hashes: frozenset[str]
    info: dict[str, Any]

    def fingerprint(self) -> str:
        """16 hex digits that identify the weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.supernet.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def check_unseen(self, images: ImageSet, split: str) -> None:
        """Raise DataError if the super-network was trained on an image of `images`."""
        if (images.size, images.channels) != (self.supernet.space.max_resolution, self.supernet.in_channels):
            return
        seen = [position for position, digest in enumerate(images.hashes()) if digest in self.source_hashes]
        if seen:
            raise DataError(
                f"a ready super-network must not have been trained on images of the {split} split",
                got=f"{len(seen)} of {len(images)}, for example {images.name(seen[0])}",
                do="Train one within this run (leave --supernet out), so that a hold-out is kept from it.",
            )


def training_seconds(ledger: Ledger, planned_seconds: float, share: float) -> float:
    """What training may take in all: as planned, or its share of what the phases before it have left, if that is less.

    To start takes as long for a short budget as for a long one, and a run that was stopped started more than once.
    """
    return min(planned_seconds, share * (ledger.remaining() + ledger.spent(PHASE)))


def train(
    session: Session, training: Training, folder: Path, *, seconds: float | None, steps: int, info: Mapping[str, Any],
    source_images_BCHW: Tensor, phase: str = PHASE,
) -> Frozen:  # fmt: skip
    """Train until the phase's share is spent (or for so many steps), then write the folder.

    Continues from the last snapshot if there is one; time lost with a kill stays charged. Of several ranks the first
    decides by its own ledger how far training is, takes snapshots and writes; a signal to one of them stops all.

    Args:
        seconds: what the phase may spend in all; None: `steps` decides.
        info: kept in supernet.json.
    """
    ranks = training.ranks
    with ranks.alike():
        if ranks.first and (folder / STATE_FILE).exists():
            training.resume(folder)
    training.share()
    if ranks.first and (note := small_batch_note(training.supernet.space, training.recipe, ranks)):
        session.watcher.say(note)

    def progress() -> float:
        if seconds is None:
            return training.steps_done / steps
        return session.ledger.spent(phase) / seconds if seconds > 0 else 1.0

    loss = train_until(session, training, folder, phase, progress, seconds)
    supernet = training.finished()
    last = {} if loss is None else {"last_loss": round(float(loss), 4)}
    more = {"steps": training.steps_done, "precision": training.precision, **last}
    hashes = frozenset(training.source.hashes())
    if ranks.first:
        metadata = {"source_hashes": json.dumps(sorted(hashes))}
        write_tensors(folder / CALIBRATION_FILE, {"images": source_images_BCHW}, metadata)
        save_supernet(supernet, folder, {**info, **more})
        # The snapshot is of no more use; without it, a finished super-network is what a resumed run finds.
        (folder / STATE_FILE).unlink(missing_ok=True)
    return Frozen(supernet, source_images_BCHW.cpu(), hashes, {**info, **more})


def train_until(
    session: Session, training: Trainable, folder: Path, phase: str, progress: Callable[[], float],
    seconds: float | None, *, least_steps: int = SMALLEST_STEPS,
) -> Tensor | None:  # fmt: skip
    """All steps, with snapshots between them; returns the last loss, None where there was nothing left to do.

    Args:
        least_steps: that are done even if they take longer than `seconds`.
    """
    save_every_seconds = SAVE_EVERY_SECONDS if seconds is None else min(SAVE_EVERY_SECONDS, SAVE_EVERY_SHARE * seconds)
    ranks, saved_at, loss = training.ranks, session.clock(), None
    # All leave after the same step, whichever of them was told to.
    together = replace(session, stop=lambda: int(ranks.highest(session.stop())))
    try:
        # A kill may have cost a large part of a small share: fewer steps than these are noise, whatever they cost.
        while (done := ranks.number_from_first(progress())) < 1 or (
            seconds is not None and training.steps_done < least_steps
        ):
            loss = training.step(done)
            together.tick(phase, done, f"step {training.steps_done}")
            if ranks.first and session.clock() - saved_at >= save_every_seconds:
                training.save(folder)
                saved_at = session.clock()
    except Interrupted as signalled:
        if ranks.first:
            training.save(folder)
        ranks.total(0)  # torchrun ends them all as soon as one has left
        raise ranks.said_once(signalled) from None
    except LostRank:
        # No step is half done. On a GPU, though, the reduction that waits for the lost one would hold the snapshot up.
        if training.device.type == "cpu":
            training.save(folder)
        raise
    return loss


def load(folder: Path, device: torch.device) -> Frozen:
    """A super-network that `train` left.

    Raises:
        InputError: a file is missing or damaged.
    """
    supernet, info = load_supernet(folder)
    tensors, metadata = read_tensors(folder / CALIBRATION_FILE)
    try:
        hashes = frozenset(json.loads(metadata["source_hashes"]))
        images_BCHW = tensors["images"]
    except (KeyError, ValueError) as error:
        raise InputError(f"{folder / CALIBRATION_FILE} must be whole", got=error, do="Copy the folder again.") from None
    return Frozen(supernet.to(device), images_BCHW, hashes, info)


def is_finished(folder: Path) -> bool:
    """Whether `train` has finished here."""
    return (folder / "supernet.safetensors").exists()
