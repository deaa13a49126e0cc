"""`nasimb evaluate`: how good a finished model is on labelled images, and whether another is better.

Shapes: N labelled images, B images of a batch, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nasimb.data.base import ImageSet
from nasimb.deliver.costs import read_costs
from nasimb.deliver.intervals import (
    calibration_interval,
    confusion,
    confusion_intervals,
    most_cost,
    recall_interval,
)
from nasimb.deliver.paired import Paired, compare
from nasimb.errors import DataError, InputError, Interrupted
from nasimb.evaluate import RESAMPLES, Tested, assess
from nasimb.export import Model, load, model_folder
from nasimb.learned import learned_by, seen
from nasimb.metrics import Interval, expected_calibration_error, mean_cost
from nasimb.onsite.images import Order, Site, load_site
from nasimb.progress import Progress, Silent, Watcher
from nasimb.session import Stop
from nasimb.supernet.base import images_at_a_time

FIGURES = (
    "balanced_accuracy",
    "accuracy",
    "many",
    "medium",
    "few",
    "macro_f1",
    "weighted_f1",
    "g_mean",
    "harmonic_mean",
    "worst_recall",
)


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class of the table.

    Attributes:
        trained_on: its training images.
        images: of it in the data; the rest is None where there are none.
        interval: Wilson's, of the recall.
        precision, f1: precision is None where nothing was taken for the class.
        taken_for: the class that its images were most often taken for by mistake.
    """

    name: str
    trained_on: int
    images: int
    recall: float | None
    interval: Interval | None
    precision: float | None
    f1: float | None
    taken_for: str | None


@dataclass(frozen=True, eq=False)
class Judged:
    """One model on the labelled images.

    Attributes:
        folder: of the model, as asked for.
        values: every figure by name; None where its group of classes is empty.
        intervals: 95 %, of those that are not None.
    """

    folder: Path
    tested: Tested
    values: Mapping[str, float | None]
    intervals: Mapping[str, Interval]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        data: as asked for.
        labels_N: in the numbering of `classes`.
        against: the other model, and both compared; None where none was named.
        notes: sentences on the images.

    Example:
        >>> found = evaluate(Path("runs/digits"), "digits:0-2", device=torch.device("cpu"))
        >>> found.confusion_KK.sum(1).tolist(), [row.name for row in found.rows()]
        ([60, 60, 60], ['0', '1', '2'])
        >>> sorted(found.to_dict())
        ['against', 'classes', 'confusion', 'data', 'images', 'model', 'notes', 'paired', 'schema']
    """

    data: str
    classes: tuple[str, ...]
    class_counts_K: tuple[int, ...]
    labels_N: NDArray[np.int64]
    model: Judged
    against: Judged | None
    paired: Paired | None
    notes: tuple[str, ...]

    @property
    def confusion_KK(self) -> NDArray[np.int64]:
        """Images of each true class (row) by the class that they were taken for."""
        return confusion(self.model.tested.predicted_N, self.labels_N, len(self.classes))

    def rows(self) -> list[ClassRow]:
        """One row a class, in the model's order."""
        counts_KK = self.confusion_KK
        return [_class_row(k, self.classes, self.class_counts_K, counts_KK) for k in range(len(self.classes))]

    def to_dict(self) -> dict[str, Any]:
        """For programs: fractions; what is not known is null."""
        return {
            "schema": 1,
            "data": self.data,
            "images": len(self.labels_N),
            "model": _judged_dict(self.model),
            "against": None if self.against is None else _judged_dict(self.against),
            "paired": None if self.paired is None else self.paired.to_dict(),
            "classes": [asdict(row) for row in self.rows()],
            "confusion": {"classes": list(self.classes), "images": self.confusion_KK.tolist()},
            "notes": list(self.notes),
        }


def evaluate(
    folder: Path,
    data: str | Mapping[str, Any],
    *,
    against: Path | None = None,
    costs: Path | None = None,
    seed: int = 0,
    device: torch.device,
    skip_bad_images: bool = False,
    watcher: Watcher | None = None,
    stop: Stop = int,
) -> Evaluation:
    """Measure everything on the images that have a label.

    Args:
        folder: a run or a model folder; `against` too, with the same classes.
        data: as `nasimb.data.parse_dataset` takes it. Of data with a test split that is taken, else all images.
        costs: see `read_costs`.
        seed: of the bootstrap.

    Raises:
        InputError: models, images and costs are not fit for each other. Interrupted: `stop` gave a signal.

    Example:
        >>> found = evaluate(
        ...     Path("runs/digits"), "digits:0-2", against=Path("runs/digits"), device=torch.device("cpu")
        ... )
        >>> low, high = found.model.intervals["balanced_accuracy"]
        >>> low <= found.model.values["balanced_accuracy"] <= high
        True
        >>> found.paired.only_first, found.paired.only_second, found.paired.mcnemar_p  # not better than itself
        (0, 0, 1.0)
        >>> print(found.notes[1])
        These are the test images of the run of runs/digits.
    """
    model = load(model_folder(folder)).to(device)
    other = None if against is None else load(model_folder(against)).to(device)
    if other is not None:
        _check_same_classes(model, other)
    cost_KK = None if costs is None else read_costs(costs, model.classes)
    watcher = watcher or Silent()

    def judge(one: Model, place: Path, site: Site) -> Judged:
        probabilities_NK = _probabilities(one, site.images.subset(site.labelled_M), device, watcher, stop)
        order_K = [one.classes.index(name) for name in model.classes]
        labels_N, counts_K = site.labels_N[site.labelled_M].numpy(), np.array(model.description.class_counts_K)
        return _judged(place, probabilities_NK[:, order_K], labels_N, counts_K, cost_KK, seed)

    site = _labelled_site(model, data, device, skip_bad_images)
    if cost_KK is not None:  # refused before every image is looked at
        most_cost(cost_KK, *np.unique(site.labels_N[site.labelled_M].numpy(), return_counts=True))
    judged, judged_other, paired = judge(model, folder, site), None, None
    labels_N = site.labels_N[site.labelled_M].numpy()
    other_notes: list[str] = []
    if other is not None and against is not None:
        other_site = _same_images(site, model, other, data, device, skip_bad_images)
        judged_other, other_notes = judge(other, against, other_site), _seen_notes(against, other, other_site)
        paired = compare(
            judged.tested.predicted_N, judged_other.tested.predicted_N, labels_N,
            np.array(model.description.class_counts_K), resamples=RESAMPLES, seed=seed,
        )  # fmt: skip
    notes = (*site.notes, *_seen_notes(folder, model, site), *other_notes)
    return Evaluation(
        str(data), model.classes, model.description.class_counts_K, labels_N, judged, judged_other, paired, notes
    )


def _labelled_site(model: Model, data: str | Mapping[str, Any], device: torch.device, skip_bad_images: bool) -> Site:
    site = load_site(data, model, order=Order.given, device=device, skip_bad_images=skip_bad_images)
    if not len(site.labelled_M):
        raise DataError(
            "images must have labels that the model knows",
            got=f"none of {len(site)} in {data}",
            do="Put them into folders named like the classes of the model, or name the classes in a list.",
        )
    return site


def _same_images(
    site: Site, model: Model, other: Model, data: str | Mapping[str, Any], device: torch.device, skip_bad_images: bool
) -> Site:
    """The images as the other model takes them: the same if it takes the same size and channels."""
    mine, theirs = model.description, other.description
    if (mine.size, mine.channels) == (theirs.size, theirs.channels):
        return replace(site, notes=())
    again = load_site(data, other, order=Order.given, device=device, skip_bad_images=skip_bad_images)
    # By name, so numbers have to be those of the first model.
    number_K = torch.tensor([*(model.classes.index(name) for name in other.classes), -1])
    again = replace(again, labels_N=number_K[again.labels_N])
    if not torch.equal(again.labels_N, site.labels_N):
        do = "Leave the data alone while they are read."
        raise DataError("both models must see the same images", got="files that changed meanwhile", do=do)
    return again


@torch.no_grad()
def _probabilities(
    model: Model, images: ImageSet, device: torch.device, watcher: Watcher, stop: Stop
) -> NDArray[np.float64]:
    """Softmax of every image, [N, K]."""
    begun, probabilities_NK = time.monotonic(), torch.empty(len(images), len(model.classes))
    done = 0
    for images_BCHW, positions_B in images.batches(images_at_a_time(model.description.space, device), device):
        if number := stop():
            raise Interrupted(
                number, must_hold="every image must be seen", kept=f"{done:,} of {len(images):,} images were seen",
                resume="Give the same command again to begin anew.",
            )  # fmt: skip
        probabilities_NK[positions_B] = model(images_BCHW).softmax(1).cpu()
        done += len(positions_B)
        detail = f"{done:,} of {len(images):,} images"
        watcher.show(Progress("evaluate", done / len(images), time.monotonic() - begun, None, detail))
    return probabilities_NK.double().numpy()


def _judged(
    folder: Path,
    probabilities_NK: NDArray[np.float64],
    labels_N: NDArray[np.int64],
    class_counts_K: NDArray[np.int64],
    cost_KK: NDArray[np.float64] | None,
    seed: int,
) -> Judged:
    predicted_N = probabilities_NK.argmax(1)
    tested = assess(predicted_N, labels_N, class_counts_K, seed=seed)
    values: dict[str, float | None] = {name: getattr(tested.metrics, name) for name in FIGURES}
    values["expected_calibration_error"] = expected_calibration_error(probabilities_NK, labels_N)
    if cost_KK is not None:
        present_P, images_P = np.unique(labels_N, return_counts=True)
        values["mean_cost"] = paid = mean_cost(predicted_N, labels_N, cost_KK)
        values["cost_weighted_accuracy"] = 1 - paid * len(labels_N) / most_cost(cost_KK, present_P, images_P)
    confusion_KK = confusion(predicted_N, labels_N, len(class_counts_K))
    intervals = {
        **{name: Interval(*ends) for name, ends in tested.intervals.items()},
        **confusion_intervals(confusion_KK, cost_KK=cost_KK, resamples=RESAMPLES, seed=seed),
        "expected_calibration_error": calibration_interval(probabilities_NK, labels_N, resamples=RESAMPLES, seed=seed),
    }
    return Judged(folder, tested, values, intervals)


def _check_same_classes(model: Model, other: Model) -> None:
    apart = sorted(set(model.classes) ^ set(other.classes))
    if apart:
        do = "Compare models of the same classes."
        raise InputError("both models must have the same classes", got=f"{apart[0]!r} in one of them alone", do=do)


def _seen_notes(folder: Path, model: Model, site: Site) -> list[str]:
    """Sentences on images that are not new to the model; `site` is as it takes them."""
    images, notes, provenance = site.images.subset(site.labelled_M), [], model.description.provenance
    data, fingerprint = provenance.get("data", {}), site.images.fingerprint()
    if fingerprint == data.get("test"):
        notes.append(f"These are the test images of the run of {folder}.")
    learned = learned_by(folder)
    parts = {"head": (learned.head, "fitted to"), "backbone": (learned.backbone, "trained on")}
    for part, (hashes, done) in parts.items():
        if hashes is not None and (count := len(seen(images, hashes))):
            notes.append(
                f"The {part} of {folder} was {done} {count:,} of these {len(images):,} images: figures flatter it."
            )
    unknown = [part for part, (hashes, _) in parts.items() if hashes is None]
    if learned.head is None and fingerprint == provenance.get("head_data", data.get("target")):
        notes.append(f"The head of {folder} was fitted to these images: figures flatter it.")
        unknown.remove("head")
    if unknown:
        notes.append(
            f"Which images the {' and the '.join(unknown)} of {folder} learned from is not known: whether these are "
            "among them cannot be told."
        )
    return notes


def _class_row(
    k: int, classes: tuple[str, ...], class_counts_K: tuple[int, ...], confusion_KK: NDArray[np.int64]
) -> ClassRow:
    images, hits, guesses = int(confusion_KK[k].sum()), int(confusion_KK[k, k]), int(confusion_KK[:, k].sum())
    precision = hits / guesses if guesses else None
    if not images:
        return ClassRow(classes[k], class_counts_K[k], 0, None, None, precision, None, None)
    wrong_K = confusion_KK[k].copy()
    wrong_K[k] = 0
    return ClassRow(
        name=classes[k],
        trained_on=class_counts_K[k],
        images=images,
        recall=hits / images,
        interval=recall_interval(hits, images),
        precision=precision,
        f1=2 * hits / (images + guesses),
        taken_for=classes[int(wrong_K.argmax())] if wrong_K.any() else None,
    )


def _judged_dict(judged: Judged) -> dict[str, Any]:
    intervals = {name: list(interval) for name, interval in judged.intervals.items()}
    return {"folder": str(judged.folder), **judged.values, "ci95": intervals}
