"""The profile of training images that a finished model is judged with: made once, then kept beside the model.

```
MODEL/profile.safetensors   see nasimb.adapt.ClassProfile
MODEL/profile.json          which weights it is of, and how many images of which data it was made from
```
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nasimb import seal
from nasimb.adapt.profile import ClassProfile, class_profile
from nasimb.assemble import check_unchanged, load_ground
from nasimb.config import RunConfig
from nasimb.data import parse_dataset
from nasimb.data.base import ImageSet, LoadRequest
from nasimb.durable import replace_whole
from nasimb.errors import DataError, InputError
from nasimb.export import WEIGHTS, Model
from nasimb.onsite.images import UNLABELLED, known_labels
from nasimb.rundir import RunDir
from nasimb.spec import parse

PROFILE, ABOUT = "profile.safetensors", "profile.json"
MOST_IMAGES = 8192
"""Of the training images, a random part of this size is enough."""

TARGET, SOURCE, NONE = "target", "source", "none"
CAUTIOUS = "limits are cautious guesses, and other class mixes are not told from other images"


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of a model's training images.

    Attributes:
        profile: None where there is none.
        images: that it was made from; data: which, as they were named.
        note: where it comes from, or why there is none; a sentence.
    """

    profile: ClassProfile | None
    images: int | None
    note: str
    data: str = NONE


def known_training(folder: Path, model: Model, wanted: str | None, *, device: torch.device) -> Known:
    """The profile kept beside a model, else one that is made now and kept there.

    What is asked for is made, and serves this time. It is kept if none is, or one of the same data; another one stays,
    since a question of today must not change what is answered tomorrow without it.

    Args:
        folder: of the model.
        wanted: a data set whose training images to use, as `parse_dataset` takes it; or `target` or `source`: of the
            run that the model is of; `none`: do without. None: the one that is kept, else `target` if that can be had.

    Raises:
        InputError: what `wanted` names cannot be had, or does not fit the model.
    """
    if wanted == NONE:
        return Known(None, None, f"No profile of training images was asked for: {CAUTIOUS}.")
    kept = _kept(folder)
    if wanted is not None:
        return _made(folder, model, wanted, kept, device)
    if kept is not None:
        return kept
    try:
        return _made(folder, model, TARGET, None, device)
    except InputError as error:
        reason = f"{error.must_hold}; got {error.got}"
        do = "Name training images with --profile-data."
        return Known(None, None, f"No profile of training images ({reason}): {CAUTIOUS}. {do}")


def _made(folder: Path, model: Model, wanted: str, kept: Known | None, device: torch.device) -> Known:
    """A new one, kept unless one of other data is."""
    images, labels_N = _training_images(folder, model, wanted, device)
    pixels_NCHW = torch.cat([batch.cpu() for batch, _ in images.batches(256, device)])
    profile = class_profile(model, pixels_NCHW, labels_N)
    note = f"Made a profile of {len(labels_N)} training images ({wanted})"
    file = folder / PROFILE
    if kept is not None and kept.data != wanted:
        stays = f"the one kept in {file} ({kept.data}) stays; to have another kept, remove it first"
        return Known(profile, len(labels_N), f"{note} for this time; {stays}.", wanted)
    try:
        _keep(folder, profile, wanted, len(labels_N))
    except OSError as error:
        return Known(profile, len(labels_N), f"{note}; it could not be kept ({error.strerror}).", wanted)
    return Known(profile, len(labels_N), f"{note}, kept in {file}.", wanted)


def _training_images(folder: Path, model: Model, wanted: str, device: torch.device) -> tuple[ImageSet, Tensor]:
    """(N images of the classes of the model, labels_N in its numbering); of very many a random part."""
    images = images_of_run(folder, wanted, device) if wanted in (TARGET, SOURCE) else _of_data(wanted, model, device)
    labels_N = known_labels(images, model.classes)
    known_M = (labels_N != UNLABELLED).nonzero().flatten()
    if not len(known_M):
        raise DataError(
            "training images must be of the classes of the model", got=f"none of them in {wanted}",
            do="Name the images that its head was fitted to.",
        )  # fmt: skip
    shuffle_M = known_M[torch.randperm(len(known_M), generator=torch.Generator().manual_seed(0))[:MOST_IMAGES]]
    return images.subset(shuffle_M), labels_N[shuffle_M]


def images_of_run(folder: Path, which: str, device: torch.device) -> ImageSet:
    """The training images of the run that a model is the winner of, or was retrained in, loaded as the run did.

    Args:
        folder: RUN/best or RUN/retrained/NAME/best.
        which: "target" or "source".

    Raises:
        InputError: it lies in no run, or the data are not what they were.
    """
    place = folder.resolve().parent
    retrained_in = RunDir(place.parent.parent)
    run = retrained_in if place.parent == retrained_in.retrained else RunDir(place)
    if (place / "splits.json").is_file():
        run = RunDir(place)  # whatever the folder is called that runs lie in
    if folder.resolve().name != "best" or not (run.path / "splits.json").is_file():
        do = "Name training images with --profile-data."
        raise InputError(
            "a model must lie in its run (RUN/best) for its training images to be found", got=folder, do=do
        )
    ground = load_ground(parse(RunConfig, run.config(), what=f"the configuration of {run.path}"), device)
    check_unchanged(run, ground)
    return ground.task.target if which == TARGET else ground.task.source


def _of_data(wanted: str, model: Model, device: torch.device) -> ImageSet:
    request = LoadRequest(size=model.description.size, channels=model.description.channels, device=device)
    return parse_dataset(wanted).read(request).train


def _keep(folder: Path, profile: ClassProfile, data: str, images: int) -> None:
    profile.save(folder / PROFILE)
    about = {"model": _digest(folder / WEIGHTS), "profile": _digest(folder / PROFILE), "data": data, "images": images}
    replace_whole(folder / ABOUT, (json.dumps(seal.sealed(about), indent=2, ensure_ascii=False) + "\n").encode())


def _kept(folder: Path) -> Known | None:
    """What is kept, if it is whole and of the weights that lie there now: a run that goes on replaces them."""
    try:
        about = json.loads((folder / ABOUT).read_bytes())
        if not (isinstance(about, dict) and seal.is_whole(about)):
            return None
        if (about["model"], about["profile"]) != (_digest(folder / WEIGHTS), _digest(folder / PROFILE)):
            return None
        profile = ClassProfile.load(folder / PROFILE)
    except (OSError, ValueError, KeyError):  # an InputError is a ValueError
        return None
    images, data = about["images"], about["data"]
    note = f"Shifts are counted from a profile of {images} training images ({data}), kept beside the model."
    return Known(profile, images, note, data)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
