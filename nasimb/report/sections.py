"""What stands in each section of the page: sentences, figures and their tables, from the findings of one run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import yaml

from nasimb.metrics import Difference
from nasimb.report import figures
from nasimb.report.classes import class_table, confusion, shown_classes
from nasimb.report.drawing import Drawing, drawing
from nasimb.report.findings import Findings, norm_table
from nasimb.report.future import sentence
from nasimb.report.steps import is_significant, start
from nasimb.report.tables import amount, calibrations, models, pareto, spaced
from nasimb.search.trial import best_first, failure_counts

MOST_CLASS_ROWS, MOST_FRONT_ROWS = 200, 100


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure, what it says in words, and the numbers behind it.

    Attributes:
        key: unique on the page, with the run's number.
        shut: whether the table is folded away at first.
    """

    key: str
    plot: go.Figure
    alt: str
    table: pd.DataFrame
    shut: bool = True


@dataclass(frozen=True)
class Tile:
    """One of the four figures on top."""

    name: str
    value: str
    detail: str
    share: float | None = None


@dataclass(frozen=True, eq=False)
class Section:
    """One section: sentences first, then what it shows, as far as it has it."""

    key: str
    title: str
    about: str
    lines: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[tuple[str, pd.DataFrame], ...] = ()
    drawing: Drawing | None = None
    examples: tuple[Mapping[str, Any], ...] = ()
    preformatted: tuple[tuple[str, tuple[str, ...]], ...] = ()


def answer(one: Findings) -> str:
    """The run in one sentence."""
    result = one.run.finished_result()
    winner, test = result["winner"], result["winner"]["test"]
    gained = ""
    if one.steps:
        gain = one.steps[-1].gains["balanced_accuracy"]
        points, verdict = 100 * gain.difference, "" if is_significant(gain) else ", which is not significant"
        gained = ", as many as the largest subnet with a plain head"
        if abs(points) >= 0.05:
            words = "more" if points > 0 else "fewer"
            gained = f", {abs(points):.1f} points {words} than the largest subnet with a plain head{verdict}"
    few = "" if test["few"] is None else f" ({_percent(test['few'])} of the rare ones, few-shot)"
    return (
        f"The network found recognises {_percent(test['balanced_accuracy'])} of the test images, classes counted "
        f"alike{few}{gained}; it takes {amount(winner['cost']['macs'])} MACs an image, "
        f"{_cheaper(winner, result['baselines'].get('largest'))}."
    )


def tiles(one: Findings) -> tuple[Tile, ...]:
    """Balanced accuracy, recall of the rarest group, cost, spend."""
    result = one.run.finished_result()
    winner, spent = result["winner"], result["spend"]
    test, cost = winner["test"], winner["cost"]
    rarest = next(group for group in ("few", "medium", "many") if test[group] is not None)
    note = "" if rarest == "few" else "; no few-shot classes"
    latency = cost["latency_seconds"]
    timed = "latency not measured" if latency is None else f"{1000 * latency:.2f} ms an image, measured"
    limit, seconds = spent["limit_seconds"], spent["spent_seconds"]
    used = spent.get("used_seconds", seconds)
    allowed = f"of {spent['limit']}"
    if limit is not None:
        over = f"{used - limit:.0f} s more than {spent['limit']}"
        allowed = f"{used / limit:.1%} {allowed}" if used <= limit else over
    return (
        Tile("Balanced accuracy", _percent(test["balanced_accuracy"]), _interval(test, "balanced_accuracy")),
        Tile(f"{rarest.capitalize()}-shot recall", _percent(test[rarest]), _interval(test, rarest) + note),
        Tile("Cost", f"{amount(cost['macs'])} MACs", f"{amount(cost['params'])} params, {timed}"),
        Tile(
            "Spent, by the clock", f"{seconds:.0f} s", allowed, None if limit is None else min(1.0, used / limit),
        ),
    )  # fmt: skip


def bought(one: Findings) -> Section:
    """What each step bought."""
    about = (
        "Points on the test split, each step against the one before, on the same images: 95 % paired bootstrap "
        "intervals, which reach to zero where a test of chance cannot tell the two apart. Not significant: it has zero."
    )
    table = models(one.run)
    if one.split is None or not one.steps:
        why = "The run did not test the largest subnet with a plain head, where the steps begin."
        lines = tuple(one.missing) if one.split is None else (why,)
        return Section("bought", "What each step bought", about, lines, tables=(("Winner and baselines", table),))
    lines = tuple(
        f"{step.name.capitalize()}: {_told(step.gains['balanced_accuracy'])}." + (f" {step.note}" if step.note else "")
        for step in one.steps
    )
    begin = start(one.split)
    end = begin["balanced_accuracy"] + one.steps[-1].gains["balanced_accuracy"].difference
    alt = f"From {100 * begin['balanced_accuracy']:.1f} to {100 * end:.1f} points, a bar a step."
    shown = pd.DataFrame(
        [
            {"step": step.name, **{figures.METRIC_WORDS[name]: _told(gain) for name, gain in step.gains.items()}}
            for step in one.steps
        ]
    )
    return Section(
        "bought", "What each step bought", about, lines,
        (
            Figure("waterfall", figures.waterfall(begin, one.steps), alt, shown),
            Figure("gains", figures.gains(one.steps), "Gains by step and shot group.", shown, shut=False),
        ),
        (("Winner and baselines (test split)", table),),
    )  # fmt: skip


def costs(one: Findings) -> Section:
    """Cost against accuracy."""
    result, scored = one.run.finished_result(), one.run.trials_within_limits()
    tested = [result["winner"], *result["baselines"].values()]
    held_out = sorted({str(entry["validation"]["estimator"]) for entry in tested})
    about = (
        "Every candidate that was scored on all images, by what it costs. Held-out scores of the closed-form head that "
        f"ranked it, except where it says full head: those, held out by {', '.join(held_out)}, went to the test."
    )
    table = pareto(one.run, most=MOST_FRONT_ROWS)
    plot = figures.cost_and_accuracy(scored, result, one.cost, one.objective)
    count = len(best_first(scored))
    alt = f"{count:,} candidates, of which the table lists those that no other beats in both score and cost."
    if len(table) == MOST_FRONT_ROWS:
        alt = f"{count:,} candidates; the table lists {len(table)} of those that no other beats. --tables has all."
    return Section("costs", "Cost against accuracy", about, (), (Figure("costs", plot, alt, table),))


def by_class(one: Findings) -> Section:
    """Recall by class, confusion, and examples of the worst."""
    title, about = "Class by class", "The winner on the test split; intervals of a class are Wilson's, 95 %."
    if one.split is None:
        return Section("classes", title, about, tuple(one.missing))
    split, table = one.split, class_table(one.split)
    shown = shown_classes(split)
    images_KK = confusion(split)
    names = [split.classes[k] for k in shown]
    lines = []
    if len(shown) < len(split.classes):
        lines.append(
            f"The matrix shows the {len(shown)} of {len(split.classes)} classes with the lowest recall; images taken "
            "for others count in its shares, and have no cell."
        )
    if len(table) > MOST_CLASS_ROWS:
        lines.append(f"The table below lists the {MOST_CLASS_ROWS} classes with the lowest recall; --tables has all.")
    if split.worst is None:
        lines.append("This run kept no example images.")
    mistakes = _mistakes(table)
    worst = _words(table.nsmallest(MOST_CLASS_ROWS, "recall") if len(table) > MOST_CLASS_ROWS else table)
    matrix = figures.confusion_matrix(images_KK[shown][:, shown], images_KK.sum(1)[shown], names)
    alt = f"Recall of {len(table)} classes against their training images. {_lowest(table)}."
    return Section(
        "classes", title, about, tuple(lines),
        (
            Figure("recalls", figures.recall_by_count(table), alt, worst),
            Figure("confusion", matrix, "What is taken for what.", mistakes),
        ),
        examples=tuple(_examples(split.classes, split.worst or [], table)),
    )  # fmt: skip


def budget(one: Findings) -> Section:
    """Where the budget went, and what more would buy."""
    result = one.run.finished_result()
    spent, counts = result["spend"], result["trials"]
    failed = failure_counts(one.run.trials)
    lines = [
        f"{counts['finished']:,} candidates scored on all images, {counts['screened_out']:,} screened out on a part of "
        f"them, {counts['cached']:,} repeats at no cost, {counts['infeasible']:,} over a limit, {counts['failed']:,} "
        f"failed{f' ({failed})' if failed else ''}."
    ]
    screening = result.get("screening")
    if screening is not None:
        lines.append(
            f"Screening on {screening['images']:,} of {screening['of_images']:,} images saved about "
            f"{screening['saved_seconds']:.1f} s."
        )
    lines.append(sentence(one.future))
    seconds = pd.DataFrame({"phase": list(spent["by_phase"]), "seconds": list(spent["by_phase"].values())})
    plots = [Figure("spend", figures.spend_bars(spent["by_phase"], _left_over(spent)), "Seconds by phase.", seconds)]
    if len(one.future.score_T):
        ends = pd.DataFrame({"seconds": one.future.seconds_T, "best so far": one.future.best_T})
        rises = ends[ends["best so far"].diff().fillna(1) > 0]
        plots.append(Figure("future", figures.best_so_far(one.future, one.objective), sentence(one.future), rises))
    about = "Phases by the clock."
    if not one.future.why_not:
        about += (
            " The band asks how good the best of more candidates would be, if they were like the latest half of those "
            "so far. It is of held-out scores, and no promise about the test split."
        )
    return Section("budget", "Where the budget went, and what more would buy", about, tuple(lines), tuple(plots))


def chosen(one: Findings) -> Section:
    """The architecture and what it depended on."""
    winner = one.run.finished_result()["winner"]
    classes = None if one.split is None else len(one.split.classes)
    norms = norm_table(one.run.trials_within_limits())
    for name in ("mean_score", "best_score"):
        norms[name] = [f"{100 * score:.1f}" for score in norms[name]]
    tables = [("Norms by stage, over all scored candidates (points, held out)", norms.rename(columns=spaced))]
    ablation = calibrations(one.run)
    if not ablation.empty:
        tables.append(("Calibration of the winner's subnet (held out)", ablation))
    plots: tuple[Figure, ...] = ()
    lines = [f"{winner['name']}, calibration {winner['calibration']}, head {winner['head']}."]
    if one.why_no_importances:
        lines.append(one.why_no_importances)
    else:
        alt = "Shares of the variance of the held-out score that each choice explains."
        plots = (Figure("importances", figures.importance_bars(one.importances), alt, one.importances),)
    about = "Norms are compared over candidates that differ in other choices too: a mean is no effect by itself."
    return Section(
        "chosen", "The chosen network", about, tuple(lines), plots, tuple(tables), drawing=drawing(winner, classes)
    )


def receipt(one: Findings) -> Section:
    """Everything that is needed to run it again, and to check what was paid."""
    result = one.run.finished_result()
    told, spent = result["provenance"], result["spend"]
    rows = {
        "seed": told["seed"],
        "device": told["device"],
        "inference precision": told.get("inference_precision"),
        "commit": told.get("commit") or "an installed package",
        "reads of the test split": result.get("test_reads"),
        **{f"data: {name}": digest for name, digest in told["data"].items()},
        **{f"version: {name}": version for name, version in told["versions"].items()},
        "limit": spent["limit"],
        "spent (s)": spent["spent_seconds"],
        "GPU seconds": spent.get("gpu_seconds"),
        "CPU seconds": spent.get("cpu_seconds"),
        "down, not charged (s)": round(one.run.down_seconds, 1),
    }
    table = pd.DataFrame({"what": list(rows), "value": ["" if v is None else str(v) for v in rows.values()]})
    command = shlex.join(map(str, told.get("command") or []))
    config = yaml.safe_dump(one.run.config, sort_keys=False, allow_unicode=True)
    return Section(
        "receipt", "Receipt", "What was run, on what, with what.", tuple(f"Note: {note}" for note in result["notes"]),
        tables=(("Provenance and ledger", table),),
        preformatted=(
            ("Command", (command or "not kept",)), ("Configuration", tuple(config.splitlines())),
            ("Subnet", (json.dumps(result["winner"]["subnet"]),)),
        ),
    )  # fmt: skip


def _examples(
    classes: Sequence[str], worst: Sequence[Mapping[str, Any]], table: pd.DataFrame
) -> list[Mapping[str, Any]]:
    """Example images with words: the class, its recall, and what each image was taken for."""
    recalls = dict(zip(table["class"], table["recall"], strict=True))
    return [
        {
            "class": classes[one["class"]],
            "recall": _percent(recalls[classes[one["class"]]]),
            "images": [
                {
                    "png": image["png"],
                    "name": image["image"],
                    "words": f"{classes[image['predicted']]} (softmax {image['probability']:.2f})",
                }
                for image in one["images"]
            ],
        }
        for one in worst
    ]


def _mistakes(table: pd.DataFrame) -> pd.DataFrame:
    rows = table[table["times"] > 0].sort_values("times", ascending=False)
    return rows[["class", "most_taken_for", "times", "test_images"]].rename(columns=spaced)


def _words(table: pd.DataFrame) -> pd.DataFrame:
    shown = table.copy()
    for name in ("recall", "low", "high"):
        shown[name] = ["" if pd.isna(value) else f"{100 * value:.1f} %" for value in table[name]]
    return shown.rename(columns=spaced)


def _lowest(table: pd.DataFrame) -> str:
    rows = table[table["recall"] < 1].nsmallest(3, "recall")
    words = [f"{row['class']} {100 * row['recall']:.0f} %" for row in rows.to_dict("records")]
    return f"Lowest: {', '.join(words)}" if words else "All are recognised"


def _told(gain: Difference) -> str:
    verdict = "" if is_significant(gain) else ", not significant"
    return f"{100 * gain.difference:+z.1f} [{100 * gain.low:+z.1f}, {100 * gain.high:+z.1f}]{verdict}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _interval(test: Mapping[str, Any], name: str) -> str:
    ends = test["ci95"].get(name)
    if ends is None or ends[0] == ends[1]:
        return "" if ends is None else "every image alike: no interval"
    return f"95 % interval {100 * ends[0]:.1f} to {100 * ends[1]:.1f}"


def _left_over(spent: Mapping[str, Any]) -> float | None:
    """Seconds of the limit that nobody used; None where there is none, or where several processes paid.

    By the clock of one process, nothing can be said of what others have left.
    """
    limit, seconds = spent["limit_seconds"], spent["spent_seconds"]
    used = spent.get("used_seconds", seconds)
    return None if limit is None or abs(used - seconds) > 0.01 * limit else float(limit - used)


def _cheaper(winner: Mapping[str, Any], largest: Mapping[str, Any] | None) -> str:
    if largest is None:
        return "without a largest subnet to compare with"
    share = winner["cost"]["macs"] / largest["cost"]["macs"]
    return "as many as the largest subnet" if share == 1 else f"{share:.0%} of the largest subnet's"
