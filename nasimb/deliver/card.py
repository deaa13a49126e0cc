"""A model card in Markdown: what a model is, what it was trained and tested on, and what it is not for.

(Mitchell et al. 2019 describe the parts.) Names of classes and files are data: nothing in them is read as markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from nasimb.export import Description
from nasimb.metrics import FEW_BELOW, MANY_ABOVE, shot_groups
from nasimb.report.show import markdown_text

GROUPS = ("balanced_accuracy", "accuracy", "many", "medium", "few")
MOST_NAMED = 10
WEAK = 0.5
"""A recall below it is named among the limits: more images of the class are missed than found."""


def model_card(description: Description, *, use: Sequence[str], notes: Sequence[str] = ()) -> str:
    """The whole card.

    Args:
        use: Markdown lines on how the files beside the card are read.
        notes: sentences on the export.
    """
    parts = [
        f"# Image classifier of {len(description.classes)} classes",
        _summary(description),
        "## Use",
        *use,
        "## Training images",
        _data(description),
        "## How good it is",
        *_quality(description),
        "## Limits",
        "\n".join(f"- {limit}" for limit in _limits(description)),
        "## Where it comes from",
        "\n".join(f"- {line}" for line in (*_provenance(description), *map(markdown_text, notes))),
    ]
    return "\n\n".join(parts) + "\n"


def _summary(description: Description) -> str:
    subnet = description.subnet
    cost = description.metrics.get("cost", {})
    size = f" of {cost['params']:,} parameters and {cost['macs']:,} multiply-accumulates an image" if cost else ""
    head = (
        "and all of it, a linear head included, trained on" if _fully(description) else "with a linear head fitted to"
    )
    return (
        f"A residual network{size}, {head} the training images below. It takes "
        f"{'grey' if description.channels == 1 else 'colour'} images at {subnet.resolution} x {subnet.resolution} "
        "pixels and gives one logit a class. nasimb found it by searching within a budget."
    )


def _fully(description: Description) -> bool:
    """Whether all weights were trained on the training images, and the head was not fitted to others since."""
    return "retrained" in description.provenance and "head_data" not in description.provenance


def _data(description: Description) -> str:
    counts_K = description.class_counts_K
    present = [count for count in counts_K if count]
    group_of = {int(k): name for name, members in shot_groups(counts_K).items() for k in members}
    recalls = description.metrics.get("test", {}).get("recalls") or [None] * len(counts_K)
    rows = [
        {
            "class": name,
            "training images": f"{count:,}",
            "group": f"{group_of[k]}-shot",
            "recall on test images": "" if recalls[k] is None else f"{100 * recalls[k]:.1f} %",
        }
        for k, (name, count) in enumerate(zip(description.classes, counts_K, strict=True))
    ]
    spread = f", from {max(present):,} to {min(present):,} a class" if present else ""
    table = pd.DataFrame(rows).map(markdown_text).to_markdown(index=False, disable_numparse=True)
    return (
        f"{sum(counts_K):,} images{spread}. Many-shot classes have more than {MANY_ABOVE} training images, few-shot "
        f"classes fewer than {FEW_BELOW}.\n\n{table}"
    )


def _quality(description: Description) -> list[str]:
    test, validation = (description.metrics.get(name) for name in ("test", "validation"))
    if not test and not validation:
        return ["It was not tested."]
    rows = [
        {
            "figure": name.replace("_", " ") + ("-shot classes" if name in ("many", "medium", "few") else ""),
            **({"test images": _share(test, name)} if test else {}),
            **({f"held out ({validation.get('estimator', '')})": _share(validation, name)} if validation else {}),
        }
        for name in GROUPS
        if (test or {}).get(name) is not None or (validation or {}).get(name) is not None
    ]
    table = str(pd.DataFrame(rows).map(markdown_text).to_markdown(index=False, disable_numparse=True))
    when = "once more, after the test of the search" if _fully(description) else "once, at the end"
    said = f"Test images were read {when}; the intervals are of 95 %, by bootstrap." if test else (
        "It was not tested: the held-out figures chose it among others, so they are somewhat too good."
    )  # fmt: skip
    return [table, said]


def _share(figures: Mapping[str, Any], name: str) -> str:
    value = figures.get(name)
    if value is None:
        return ""
    ends = figures.get("ci95", {}).get(name)
    return f"{100 * value:.1f} %" + (f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]" if ends else "")


def _limits(description: Description) -> list[str]:
    classes, counts_K = description.classes, description.class_counts_K
    test = description.metrics.get("test") or {}
    recalls = test.get("recalls") or [None] * len(classes)
    absent = [name for name, count in zip(classes, counts_K, strict=True) if not count]
    few = [name for name, count in zip(classes, counts_K, strict=True) if 0 < count < FEW_BELOW]
    weak = [name for name, recall in zip(classes, recalls, strict=True) if recall is not None and recall < WEAK]
    said = [
        "Every image gets one of the classes above, also one that shows none of them.",
        "The figures are of images like the test images: of another camera, place or season they say little. "
        "`nasimb evaluate` measures it on labelled images of a new site, `nasimb adapt` looks at unlabelled ones.",
        "Probabilities are not calibrated: `nasimb evaluate` tells how far they are off.",
    ]
    if few:
        said.append(f"Learned from fewer than {FEW_BELOW} images each: {_named(few)}. Intervals are widest there, and "
                    "too narrow where a class has only a handful of test images.")  # fmt: skip
    if absent:
        said.append(f"Never predicted, for want of training images: {_named(absent)}.")
    if weak:
        said.append(f"More images missed than found on the test images: {_named(weak)}.")
    return said


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(markdown_text(name) for name in names[:MOST_NAMED])
    return f"{shown} and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else shown


def _provenance(description: Description) -> list[str]:
    found, head = description.provenance, description.head
    setting = "" if head["setting"] is None else f" (setting {head['setting']:g})"
    statistics = f"batch norm statistics: {description.calibration}"
    lines = [f"Subnet {description.subnet}; {statistics}; head {head['name']}{setting}."]
    if "retrained" in found:
        first = "random ones" if found["from_scratch"] else "those of the super-network"
        recipe = ", ".join(f"{key} {value}" for key, value in found["retrained"].items() if value is not None)
        lines.append(f"All weights were trained after the search, beginning with {first}: {recipe}.")
    if found.get("command"):
        lines.append(f"Command: {' '.join(found['command'])}")
    for name, label in (("trial", "Trial"), ("seed", "Seed"), ("device", "Device"), ("commit", "Commit")):
        if found.get(name) is not None:
            lines.append(f"{label}: {found[name]}")
    for name, label in (("versions", "Versions"), ("data", "Fingerprints")):
        if found.get(name):
            lines.append(f"{label}: " + ", ".join(f"{key} {value}" for key, value in found[name].items()))
    if "head_data" in found:
        lines.append(f"The head was retrained on other images: {found['head_data']}")
    return [markdown_text(line) for line in lines]
