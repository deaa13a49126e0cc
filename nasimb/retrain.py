"""A finished model on new images: the backbone stays, to the bit, and only the head is fitted again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nasimb.cost.macs import macs_and_params
from nasimb.data import parse_dataset
from nasimb.data.base import ImageSet, LoadRequest
from nasimb.data.task import Task, load_task
from nasimb.durable import making_folder, replace_whole
from nasimb.errors import DataError, InputError, unknown_name
from nasimb.evaluate import Tested, assess, gain, predict_test
from nasimb.export import Model, load, model_folder, save
from nasimb.heads import HEADS, Head
from nasimb.heads.compare import HeldOut, Named, by_folds
from nasimb.learned import Learned, keep_learned, learned_by, seen
from nasimb.losses import LOSSES, parse_loss
from nasimb.metrics import measure
from nasimb.phases.comparison import FOLDS, PENALTIES, PLAIN
from nasimb.phases.crops import Crops, solver_notes

BATCH_SIZE = 512
COMPARISON = "comparison.json"


def retrain_head(
    source: Path,
    data: str | Mapping[str, Any],
    loss: str = "balanced_softmax",
    *,
    imbalance_factor: float | None = None,
    profile: str = "exponential",
    seed: int = 0,
    out: Path | None = None,
    device: torch.device,
    skip_bad_images: bool = False,
    crops: int = 1,
) -> dict[str, Any]:
    """Fit a new head for new (long-tailed) images and say what that changed.

    Args:
        source: a run folder or a model folder.
        data: the new images, as `parse_dataset` takes them; their classes need not be the old ones.
        loss: of the reweighted head, or a closed-form head's name. Its penalty is chosen by stratified folds.
        out: folder of the new model; None is the next free `source/heads/NUMBER`. Never overwrites, and never takes
            the old model's place: that is for whoever reads the comparison, which is kept beside the new one.
        crops: of every image, that the plain and the new head are fitted to once their penalties are chosen.

    Returns:
        "before" (the old head; it can only name classes it knows), "plain_head" and "after": the "test" part of
        result.json each ("before" without F1 where the classes differ); "gains": of "after" over the other two on the
        same test images, {metric: [difference, low, high]}; "saved", "classes", "test_images", "notes".

    Raises:
        InputError: the model, the images or the loss are not fit for each other, or `out` exists.
        DataError: the backbone was trained on test images.
    """
    _check_asked(loss, out)
    old = load(model_folder(source)).to(device)
    request = LoadRequest(
        size=old.description.size, channels=old.description.channels, device=device, skip_bad_images=skip_bad_images
    )
    task = load_task(
        parse_dataset(data), "elsewhere", request=request, imbalance_factor=imbalance_factor, profile=profile, seed=seed
    )
    target, test = task.target, task.test
    learned = learned_by(source)
    seen_notes = _check_unseen(learned, test)
    alone_ND = _features(old, target, device)
    views = Crops(crops, task.flip, seed).fitting(*alone_ND.shape)
    features_ND = views.features(
        lambda images: alone_ND if images is target else _features(old, images, device), target
    )
    wanted = (("plain_head", PLAIN), ("after", loss))
    heads = {name: _fitted(head, features_ND, target, views, seed) for name, head in wanted}
    results = _tested(old, heads, test, target.class_counts_K.numpy(), device, seed)
    known = [name for name in target.classes if name in old.classes]
    result = {
        **_compared(results, task, same_classes=set(old.classes) == set(target.classes), seed=seed),
        "loss": loss,
        "setting": heads["after"].setting,
        "solver": heads["after"].solver,
        "classes": list(target.classes),
        "known_before": known,
        "class_counts": target.class_counts_K.tolist(),
        "test_images": len(test),
        "crops": views.count,
        "notes": [
            *task.notes,
            *seen_notes,
            *views.notes(crops),
            *_solver_notes(heads["after"], target),
            f"The old head knows {len(known)} of the {len(target.classes)} classes.",
        ],
    }
    model = _new_model(old, heads["after"], target, results["after"], views.count)
    saved = _kept(model, Learned(learned.backbone, frozenset(target.hashes())), result, source, out)
    return {**result, "saved": str(saved)}


def head_table(result: dict[str, Any]) -> pd.DataFrame:
    """Before and after, side by side, in points with 95 % intervals."""
    labels = {"before": "old head", "plain_head": "new head, plain", "after": f"new head, {result['loss']}"}
    rows = []
    for key, label in labels.items():
        test = result[key]
        row = {"head": label}
        for name in ("balanced_accuracy", "many", "medium", "few"):
            if test[name] is not None:
                low, high = test["ci95"][name]
                row[name.replace("_", " ")] = f"{100 * test[name]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        rows.append(row)
    return pd.DataFrame(rows)


def verdict(result: dict[str, Any]) -> str:
    """One sentence on whether the new head is better than the old one."""
    gained, low, high = (100 * value for value in result["gains"]["before"]["balanced_accuracy"])
    clear = "" if low > 0 or high < 0 else ", which may be chance"
    return f"Balanced accuracy, new head less old: {gained:+z.1f} points [{low:+z.1f}, {high:+z.1f}]{clear}."


def _check_asked(loss: str, out: Path | None) -> None:
    """Raise InputError where `loss` names neither a loss nor a closed-form head, or `out` exists."""
    if out is not None and out.exists():
        raise _taken(out)
    if loss not in HEADS:
        if loss not in LOSSES and ":" not in loss:
            raise unknown_name("the loss", loss, [*LOSSES, *HEADS])
        parse_loss(loss)


@torch.no_grad()
def _features(model: Model, images: ImageSet, device: torch.device) -> Tensor:
    parts = [model.backbone(images_BCHW) for images_BCHW, _ in images.batches(BATCH_SIZE, device)]
    return torch.cat(parts)


def _check_unseen(learned: Learned, test: ImageSet) -> list[str]:
    """Notes on whether the old model has seen the test images, as they are at its size and channels.

    Raises:
        DataError: its backbone was trained on some.
    """
    if learned.backbone is None:
        return ["What the backbone was trained on is not at hand: test images were not compared with it."]
    if positions := seen(test, learned.backbone):
        raise DataError(
            "the backbone must not have been trained on images of the test split",
            got=f"{len(positions)} of {len(test)}, for example {test.name(positions[0])}",
            do="Test on other images; where the run held out its own test images, give its data and its --seed.",
        )
    fitted = seen(test, learned.head or ())
    return [f"The old head was fitted to {len(fitted)} of the test images: its figures flatter it."] if fitted else []


def _tested(
    old: Model, heads: dict[str, Head], test: ImageSet, counts_K: np.ndarray, device: torch.device, seed: int
) -> dict[str, Tested]:
    """The old head as "before", and every new one, from one pass over the test images."""
    modules = {"before": old.head, **{name: head.to_module().to(device) for name, head in heads.items()}}
    predicted = predict_test(old.backbone, modules, test, batch_size=BATCH_SIZE, device=device)
    said = {name: one.predicted_N for name, one in predicted.items()}
    said["before"] = _renumbered(old, said["before"], test)
    labels_N = test.labels_N.numpy()
    return {name: assess(predicted_N, labels_N, counts_K, seed=seed) for name, predicted_N in said.items()}


def _compared(results: dict[str, Tested], task: Task, *, same_classes: bool, seed: int) -> dict[str, Any]:
    """Every head on the test images, and what the new one gains there."""
    counts_K = task.target.class_counts_K.numpy()
    gains = {
        name: gain(results["after"], one, task.test, counts_K, seed=seed)
        for name, one in results.items()
        if name != "after"
    }
    shown = {name: one.to_dict() for name, one in results.items()}
    return {**shown, "before": _before(results["before"], same_classes=same_classes), "gains": gains}


def _before(tested: Tested, *, same_classes: bool) -> dict[str, Any]:
    """As `Tested.to_dict`; F1 also depends on which wrong class was named, which has no number if the data lack it."""
    unknown = {} if same_classes else {"macro_f1": None, "weighted_f1": None}
    return {**tested.to_dict(), **unknown}


def _renumbered(old: Model, predicted_N: np.ndarray, test: ImageSet) -> np.ndarray:
    """Old predictions in the numbering of the new classes; a class the data do not have is always wrong."""
    names = [old.classes[k] for k in predicted_N.tolist()]
    number = {name: k for k, name in enumerate(test.classes)}
    labels = test.labels_N.tolist()
    # Any class but the true one says "wrong" to every recall; which one does not matter.
    wrong = [1 if label == 0 else 0 for label in labels]
    return np.array([number.get(name, other) for name, other in zip(names, wrong, strict=True)])


def _fitted(head: Named, features_ND: Tensor, target: ImageSet, crops: Crops, seed: int) -> Head:
    """The head with the setting that does best out of fold (ties by its loss), fitted to every crop of every image.

    Folds see the images alone: two crops of one image on both sides of a fold would tell its label.
    """
    labels_N = target.labels_N.to(features_ND.device)
    found = by_folds(
        head, features_ND[: len(target)], labels_N, target.num_classes, penalties=PENALTIES, folds=FOLDS, seed=seed
    )
    plain = [one for one in found if one.head == head]
    counts_K = target.class_counts_K

    def merit(one: HeldOut) -> tuple[float, float]:
        return measure(one.predicted_M, target.labels_N, counts_K).balanced_accuracy, -one.balanced_loss

    best = max(plain, key=merit)
    return crops.fit(head, features_ND, labels_N, target.num_classes, best.setting, PENALTIES)


def _solver_notes(head: Head, target: ImageSet) -> list[str]:
    compared = len(target) - len(target) // FOLDS
    notes = solver_notes(head, compared, head.weight_KD.shape[1], target.class_counts_K)
    return [f"{head.name}: {note}" for note in notes]


def _new_model(old: Model, head: Head, target: ImageSet, after: Tested, crops: int) -> Model:
    macs, params = macs_and_params(old.description.space, old.description.subnet, old.description.channels)
    macs, params = macs + head.weight_KD.numel(), params + head.weight_KD.numel() + head.bias_K.numel()
    description = replace(
        old.description,
        classes=target.classes,
        class_counts_K=tuple(target.class_counts_K.tolist()),
        head={"name": head.name, "setting": head.setting, "crops": crops, "solver": head.solver},
        metrics={"test": after.to_dict(), "cost": {"macs": macs, "params": params}},
        provenance={**old.description.provenance, "head_data": target.fingerprint()},
    )
    return Model(old.backbone, head.to_module(), description)


def _kept(model: Model, learned: Learned, result: dict[str, Any], source: Path, out: Path | None) -> Path:
    """The new folder with the model and what it was compared with: whole, or not there."""
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    while True:
        folder = out or next(one for number in count(1) if not (one := source / "heads" / f"{number:03d}").exists())
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            with making_folder(folder) as part:
                replace_whole(part / COMPARISON, text.encode())
                keep_learned(part, learned)
                save(model, part)
            return folder
        except (InputError, OSError):
            if not folder.exists():
                raise
            if out is not None:
                raise _taken(out) from None
            # Another process took the number meanwhile.


def _taken(out: Path) -> InputError:
    return InputError("a new model needs a new folder", got=f"{out}, which exists", do="Choose another --out.")
