"""Which model an export is of: the best of a run, one of its trials, or that of a model folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from nasimb.data.base import ImageSet
from nasimb.deliver.trial import trial_model
from nasimb.errors import InputError
from nasimb.export import Model, load, model_folder
from nasimb.onsite.images import Order, load_site
from nasimb.onsite.profiles import TARGET, images_of_run
from nasimb.rundir import RunDir

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Found:
    """A model to export, on the CPU.

    Attributes:
        folder: where it lies, or for a trial the best of its run.
    """

    model: Model
    folder: Path


def found_model(source: str) -> Found:
    """The model that `source` names: RUN, RUN#NUMBER or a model folder.

    Raises:
        InputError: there is none, or it cannot be made.

    Example:
        >>> winner, first = found_model("runs/digits"), found_model("runs/digits#0")
        >>> str(first.model.description.subnet)
        'r8 d1-1-1 w8-16-32 k3-3-3 bn-bn-bn t1'
        >>> winner.folder == first.folder == Path("runs/digits/best")
        True
    """
    path, number = run_and_trial(source)
    if number is not None:
        return Found(trial_model(path, number, CPU), RunDir(path).best)
    folder = model_folder(path)
    return Found(load(folder), folder)


def run_and_trial(source: str) -> tuple[Path, int | None]:
    """The folder and the trial that RUN#NUMBER means; None where no trial is named.

    Raises:
        InputError: behind # stands no number.

    >>> run_and_trial("runs/photos#7")[1]
    7
    """
    run, mark, number = source.rpartition("#")
    if not mark or Path(source).exists():
        return Path(source), None
    if not number.isdecimal():
        do = "Write RUN#7 for trial 7."
        raise InputError("behind # must stand the number of a trial", got=repr(number), do=do)
    return Path(run), int(number)


def images_to_check(found: Found, data: str | None, *, skip_bad_images: bool = False) -> ImageSet:
    """Images as the model takes them: those of `data`, or the training images of its own run.

    Args:
        skip_bad_images: of `data`.

    Raises:
        InputError: they cannot be read, or the model lies in no run.
    """
    if data is not None:
        return load_site(data, found.model, order=Order.given, device=CPU, skip_bad_images=skip_bad_images).images
    try:
        return images_of_run(found.folder, TARGET, CPU)
    except InputError as error:
        do = "Name images with --data."
        raise InputError("a check needs images", got=f"none ({error.must_hold}; got {error.got})", do=do) from None
