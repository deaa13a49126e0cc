"""What a dry run found, as tables for a terminal and a page."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd

from nasimb.evaluate import SHOWN
from nasimb.onsite.dryrun import DryRun, class_shares
from nasimb.onsite.verdict import shares_by_reason
from nasimb.report.show import stdout, terminal_table
from nasimb.visible import visible

MOST_FLIPS, LEAST_P = 8, 1e-4


def tables(found: DryRun) -> dict[str, pd.DataFrame]:
    """Every table that has rows, by title, in the order in which they are read."""
    made = {
        "Accuracy on the labelled images": accuracy(found),
        "Batches by what was done": reasons(found),
        "Class mix": class_mix(found),
        "Changed predictions": flips(found),
        "Layers": layers(found),
    }
    return {title: table for title, table in made.items() if len(table)}


def accuracy(found: DryRun) -> pd.DataFrame:
    """The model as it is and adapted, and the paired gain, in points with 95 % intervals."""
    if found.tested is None or found.gains is None:
        return pd.DataFrame()
    rows = []
    for label, key in (("as it is", "source"), ("adapted", "adapted")):
        one = found.tested[key]
        values = {
            name.replace("_", " "): _points(getattr(one.metrics, name), *one.intervals[name])
            for name in SHOWN
            if name in one.intervals
        }
        rows.append({"model": label, **values})
    gains = {name.replace("_", " "): _points(*gain, sign="+") for name, gain in found.gains.items()}
    return pd.DataFrame([*rows, {"model": "gain", **gains}])


def reasons(found: DryRun) -> pd.DataFrame:
    """How many batches, and which share of the images, by reason."""
    adapted = {entry.reason.value for entry in found.entries if entry.adapted}
    return pd.DataFrame(
        [
            {
                "reason": reason,
                "adapted": "yes" if reason in adapted else "no",
                "batches": batches,
                "images": f"{images / len(found.site):.1%}",
            }
            for reason, (batches, images) in shares_by_reason(found.entries).items()
        ]
    )


def class_mix(found: DryRun) -> pd.DataFrame:
    """A row a class: training images, shares predicted before and after, and true ones where labels are known."""
    counts_K = found.model.description.class_counts_K
    titles = {"expected": "predicted in training", "predicted": "as it is", "adapted": "adapted", "labels": "labels"}
    rows = {
        title: [f"{share:.1%}" for share in shares]
        for key, shares in class_shares(found).items()
        if (title := titles.get(key)) is not None
    }
    return pd.DataFrame({"class": found.model.classes, "training images": counts_K, **rows})


def flips(found: DryRun) -> pd.DataFrame:
    """The commonest changes of class; last the rest."""
    flipped_N, classes = found.flipped_N, found.model.classes
    before_N, after_N = found.source_NK.argmax(1)[flipped_N], found.adapted_NK.argmax(1)[flipped_N]
    counted = Counter(zip(before_N.tolist(), after_N.tolist(), strict=True)).most_common()
    rows = [(classes[a], classes[b], count) for (a, b), count in counted[:MOST_FLIPS]]
    if len(counted) > MOST_FLIPS:
        rows.append(("others", "", sum(count for _, count in counted[MOST_FLIPS:])))
    return pd.DataFrame(rows, columns=["class as it is", "class adapted", "images"])


def layers(found: DryRun) -> pd.DataFrame:
    """The diagnostics, as people read them; see `nasimb.adapt.diagnostics.layer_table`."""
    table = found.layers
    shown = pd.DataFrame({"layer": table["layer"], "channels": table["channels"]})
    shown["shift"] = [_number(value, "{:.2f}") for value in table["shift"]]
    shown["limit of noise"] = [_number(value, "{:.2f}") for value in table["limit"]]
    shown["p"] = [f"< {LEAST_P:.4f}" if value < LEAST_P else _number(value, "{:.4f}") for value in table["p_value"]]
    shown["tail"] = table["tail"]
    shown["explained by class mix"] = [_number(value, "{:.0%}") for value in table["explained"]]
    shown["skewness"] = [_number(value, "{:.1f}") for value in table["skewness"]]
    shown["images"] = table["images"]
    shown["effective n"] = [_number(value, "{:,.0f}") for value in table["effective_n"]]
    shown["weight"] = [_number(value, "{:.2f}") for value in table["weight"]]
    return shown


def summary(found: DryRun) -> list[str]:
    """Sentences beside the tables."""
    rolled_back = sum(entry.rolled_back for entry in found.entries)
    lines = [
        f"{count_of(len(found.site), 'image')} in {count_of(len(found.entries), 'batch', 'batches')}, "
        f"{len(found.site.labelled_M):,} labelled; strategy {found.watched.strategy}",
        f"adaptation changes the predicted class of {found.flipped_N.mean():.1%} of the images"
        if any(entry.adapted for entry in found.entries)
        else "no image was adapted to: what is called adapted is the model as it is",
    ]
    if rolled_back:
        lines.append(f"statistics were put back {count_of(rolled_back, 'time')}")
    return [*lines, *(f"note: {note}" for note in found.watched.notes)]


def text(found: DryRun) -> str:
    """Verdict, tables and sentences, as standard output shows them."""
    console = stdout()
    with console.capture() as captured:
        for title, table in tables(found).items():
            console.print(terminal_table(table, title=title))
    lines = "\n".join(map(visible, summary(found)))
    return f"{visible(found.verdict.sentence)}\n{captured.get()}{lines}"


def count_of(count: int, one: str, many: str = "") -> str:
    """As text: 1 batch, 2 batches; without `many` an s is added."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _points(value: float, low: float, high: float, sign: str = "") -> str:
    return f"{100 * value:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def _number(value: float, form: str) -> str:
    return form.format(value) if np.isfinite(value) else ""
