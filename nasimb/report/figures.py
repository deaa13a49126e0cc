"""The figures of the page: values in, plotly figures out.

Every text that comes from users passes `label`: plotly reads a kind of HTML in texts. Colours are those of Okabe and
Ito, which colour-blind readers tell apart; what a colour says, a symbol or a text says too. Backgrounds are transparent
and fonts have no colour: the page sets both, for light, dark and paper.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nasimb.metrics import Integers
from nasimb.report.future import Future
from nasimb.report.steps import METRICS, Step, is_significant
from nasimb.report.tables import NAMES, amount, spaced
from nasimb.search.trial import Trial, best_first, pareto_set
from nasimb.visible import visible

BLUE, ORANGE, GREEN, PURPLE, SKY, RED, GREY = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a8a8a",
)  # fmt: skip
METRIC_WORDS = {
    "balanced_accuracy": "balanced accuracy",
    "many": "many-shot",
    "medium": "medium-shot",
    "few": "few-shot",
}
METRIC_COLOURS = {"balanced_accuracy": BLUE, "many": GREEN, "medium": ORANGE, "few": RED}
METRIC_SYMBOLS = {"balanced_accuracy": "circle", "many": "square", "medium": "diamond", "few": "triangle-up"}
GROUP_COLOURS = {"many": GREEN, "medium": ORANGE, "few": RED}
NORM_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
NORM_SYMBOLS = ("circle", "diamond", "square", "cross", "x", "star-triangle-up")
MOST_POINTS = 3000
"""Candidates in one figure: more are thinned evenly, those of the Pareto front apart."""


def label(text: object) -> str:
    """Text as plotly shows it as it is."""
    return html.escape(visible(str(text)), quote=False)


def figure(title: str, x: str, y: str, **layout: Any) -> go.Figure:
    """An empty figure with the names of its axes; its title, in `layout.meta`, is for the page to print above it."""
    made = go.Figure()
    made.update_layout(
        template="none", meta=title, margin={"t": 16, "r": 16}, paper_bgcolor="rgba(0,0,0,0)", height=420,
        plot_bgcolor="rgba(0,0,0,0)", font={"family": "system-ui, sans-serif", "size": 13},
        hoverlabel={"align": "left"},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
    )  # fmt: skip
    made.update_layout(**layout)
    for update, text in ((made.update_xaxes, x), (made.update_yaxes, y)):
        title_of_axis = {"text": text, "font": {"size": 13}, "standoff": 8}
        update(title=title_of_axis, automargin=True, zeroline=False)
    return made


def waterfall(begin: Mapping[str, float], found: Sequence[Step]) -> go.Figure:
    """Balanced accuracy from the plain largest subnet to the winner, a bar a step."""
    parts, metric = found[:-1], "balanced_accuracy"
    gained = [100 * step.gains[metric].difference for step in parts]
    base = 100 * begin[metric]
    totals = base + np.cumsum([0.0, *gained])
    floor, end = max(0.0, 5 * np.floor(totals.min() / 5) - 5), min(101.0, 5 * np.ceil(totals.max() / 5) + 1)
    names = [f"largest subnet,<br>plain head<br>{base:.1f}"]
    names += [f"+ {step.name}<br>{_gain_text(step, metric)}" for step in parts] + [f"winner<br>{totals[-1]:.1f}"]
    axis = f"balanced accuracy (points{f', axis begins at {floor:.0f}' if floor else ''})"
    made = figure("What each step bought: balanced accuracy", axis, "", height=90 + 62 * len(names))
    made.add_trace(
        go.Waterfall(
            y=names, x=[base - floor, *gained, 0.0], base=floor, orientation="h", showlegend=False,
            measure=["absolute", *["relative"] * len(parts), "total"], hovertemplate="%{y}<extra></extra>",
            increasing={"marker": {"color": GREEN}}, decreasing={"marker": {"color": RED}},
            totals={"marker": {"color": BLUE}}, connector={"line": {"color": GREY, "width": 1}},
        )
    )  # fmt: skip
    made.update_xaxes(range=[floor, end])
    made.update_yaxes(autorange="reversed")
    return made


def gains(found: Sequence[Step]) -> go.Figure:
    """Every step's gain with its interval, overall and by group; hollow where it is not significant."""
    made = figure("Gains of each step with 95 % intervals (hollow: not significant)", "gain (points)", "")
    metrics = [metric for metric in METRICS if metric in found[0].gains]
    for place, metric in enumerate(metrics):
        rows = [step.gains[metric] for step in found]
        shift = (place - (len(metrics) - 1) / 2) * 0.16
        made.add_trace(
            go.Scatter(
                x=[100 * row.difference for row in rows], y=[-number - shift for number in range(len(found))],
                error_x={
                    "type": "data", "symmetric": False, "array": [100 * (row.high - row.difference) for row in rows],
                    "arrayminus": [100 * (row.difference - row.low) for row in rows],
                },
                mode="markers", name=METRIC_WORDS[metric], text=[f"{s.name}: {_gain_text(s, metric)}" for s in found],
                hovertemplate="%{text}<extra>" + METRIC_WORDS[metric] + "</extra>",
                marker={
                    "color": METRIC_COLOURS[metric], "size": 10,
                    "symbol": [METRIC_SYMBOLS[metric] + ("" if is_significant(row) else "-open") for row in rows],
                },
            )
        )  # fmt: skip
    made.add_vline(x=0, line={"color": GREY, "dash": "dot"})
    made.update_yaxes(tickvals=[-number for number in range(len(found))], ticktext=[step.name for step in found])
    return made


def cost_and_accuracy(trials: Sequence[Trial], result: Mapping[str, Any], cost: str, objective: str) -> go.Figure:
    """Every scored candidate by norm, the Pareto front, the tested models, held out against cost.

    Args:
        objective: what scores are of; models whose full head was not measured by it are left out.
    """
    words = {"macs": "MACs of an image", "params": "parameters"}[cost]
    score = f"{spaced(objective)}, held out (points)"
    made = figure("Cost against held-out score; the legend shows and hides norms", f"{words} (log)", score)
    scored = best_first(list(trials))
    front = pareto_set(scored, cost)
    shown = scored[:: max(1, -(-len(scored) // MOST_POINTS))]
    for place, norm in enumerate(sorted({_norm(trial) for trial in shown})):
        group = [trial for trial in shown if _norm(trial) == norm]
        made.add_trace(_points(group, cost, norm, place))
    made.add_trace(
        go.Scatter(
            x=[getattr(trial, cost) for trial in front], y=[100 * (trial.score or 0.0) for trial in front],
            mode="lines+markers", name="Pareto front", line={"color": GREY, "shape": "hv"}, text=_hovers(front),
            marker={"size": 10, "symbol": "circle-open"}, hovertemplate="%{text}<extra>Pareto front</extra>",
        )
    )  # fmt: skip
    made.add_trace(
        _tested({"winner": result["winner"]}, cost, objective, "winner, full head", {"size": 16, "symbol": "star"})
    )
    baselines = {"size": 12, "symbol": "hexagon-open", "line": {"width": 2}}
    made.add_trace(_tested(result["baselines"], cost, objective, "baselines, full head", baselines))
    _log_axis(made, [getattr(trial, cost) for trial in shown], amount)
    made.update_layout(height=540)
    return made


def recall_by_count(table: pd.DataFrame) -> go.Figure:
    """Recall of every class against its training images: the long tail seen."""
    made = figure("Recall against training images, one point a class", "training images (log)", "recall (%)")
    for group in ("many", "medium", "few"):
        rows = table[(table["group"] == group) & table["recall"].notna()]
        if rows.empty:
            continue
        recall = rows["recall"].astype(float)
        made.add_trace(
            go.Scatter(
                x=rows["training_images"].tolist(), y=(100 * recall).tolist(), mode="markers", name=f"{group}-shot",
                marker={"color": GROUP_COLOURS[group], "symbol": METRIC_SYMBOLS[group], "size": 10},
                error_y={
                    "type": "data", "symmetric": False, "thickness": 1, "width": 3,
                    "array": (100 * (rows["high"].astype(float) - recall)).tolist(),
                    "arrayminus": (100 * (recall - rows["low"].astype(float))).tolist(),
                },
                text=[f"{label(row['class'])}<br>{row['training_images']} training images, "
                      f"{row['test_images']} test images<br>recall {100 * row['recall']:.1f} %"
                      for row in rows.to_dict("records")],
                hovertemplate="%{text}<extra></extra>",
            )
        )  # fmt: skip
    _log_axis(made, table["training_images"].tolist(), str)
    made.update_yaxes(range=[0, 105])
    return made


def confusion_matrix(images_KK: Integers, images_K: Integers, names: Sequence[str]) -> go.Figure:
    """Shares of each class's test images; the numbers on the cells where there are few classes.

    Args:
        images_K: test images of every class, those taken for classes that are not shown included.
    """
    totals_K1 = np.maximum(images_K, 1)[:, None]
    texts = [label(name) for name in names]
    ticks = {"tickvals": list(range(len(names))), "ticktext": [_short(name) for name in names]}
    made = figure("Confusion matrix (rows: true class, most training images first)", "predicted class", "true class")
    made.add_trace(
        go.Heatmap(
            z=(100 * images_KK / totals_K1).round(1).tolist(), colorscale="Cividis", zmin=0, zmax=100,
            colorbar={"title": {"text": "% of class"}, "thickness": 12}, text=images_KK.tolist(),
            customdata=[[f"{row} taken for {column}" for column in texts] for row in texts],
            hovertemplate="%{customdata}: %{text} images (%{z} %)<extra></extra>",
            **({"texttemplate": "%{text}"} if len(names) <= 15 else {}),
        )
    )  # fmt: skip
    made.update_xaxes(**ticks, tickangle=-45 if max(map(len, names)) > 2 else 0)
    made.update_yaxes(**ticks, autorange="reversed")
    made.update_layout(height=max(440, min(900, 120 + 22 * len(names))))
    return made


def best_so_far(found: Future, objective: str) -> go.Figure:
    """The best held-out score along the search, and the band of where it may go."""
    score = f"{spaced(objective)}, held out (points)"
    made = figure("Best so far, and what more search may find", "search time (s, charged to trials)", score)
    some = slice(None, None, max(1, -(-len(found.score_T) // MOST_POINTS)))
    made.add_trace(
        go.Scatter(
            x=found.seconds_T[some].tolist(), y=(100 * found.score_T[some]).tolist(), mode="markers", name="candidates",
            marker={"color": SKY, "size": 5, "opacity": 0.6},
        )
    )  # fmt: skip
    best = {"color": BLUE, "width": 3, "shape": "hv"}
    # Trials that failed last took time too: the line goes on to where the band begins.
    until, last = found.seconds_M[:1].tolist(), (100 * found.best_T[-1:]).tolist()
    rises = np.flatnonzero(np.diff(found.best_T, prepend=-1.0) > 0)
    corners = np.union1d(rises, [len(found.best_T) - 1])
    reached = [*(100 * found.best_T[corners]).tolist(), *(last if until else [])]
    made.add_trace(go.Scatter(x=[*found.seconds_T[corners].tolist(), *until], y=reached, name="best so far", line=best))
    if len(found.seconds_M):
        ends = found.seconds_M.tolist()
        band = (100 * np.concatenate([found.high_M, found.low_M[::-1]])).tolist()
        made.add_trace(
            go.Scatter(
                x=[*ends, *ends[::-1]], y=band, fill="toself", name="80 % band", fillcolor="rgba(230,159,0,0.25)",
                line={"width": 0}, hoverinfo="skip", mode="lines",
            )
        )  # fmt: skip
        middle = {"color": ORANGE, "dash": "dash"}
        made.add_trace(go.Scatter(x=ends, y=(100 * found.middle_M).tolist(), name="expected", line=middle))
    low = float(np.quantile(found.score_T, 0.1))
    top = max([float(found.best_T[-1]), *found.high_M.tolist()])
    made.update_yaxes(range=[100 * low - 1, min(100.5, 100 * top + 1)])
    return made


def spend_bars(by_phase: Mapping[str, float], left: float | None) -> go.Figure:
    """Seconds on the clock of every phase, one under the other, and what was left of the limit."""
    rows = {**by_phase, **({"left over": left} if left is not None and left > 0 else {})}
    made = figure("Where the budget went", "seconds", "", height=120 + 38 * len(rows))
    made.add_trace(
        go.Bar(
            x=list(rows.values()), y=list(rows), orientation="h",
            text=[f"{seconds:.1f} s" for seconds in rows.values()],
            marker={"color": [GREY if name == "left over" else BLUE for name in rows]}, showlegend=False,
            hovertemplate="%{y}: %{text}<extra></extra>", textposition="auto",
        )
    )  # fmt: skip
    made.update_yaxes(autorange="reversed")
    return made


def importance_bars(table: pd.DataFrame) -> go.Figure:
    """Shares of the score's variance by choice."""
    made = figure(
        "Which choices the score depended on (fANOVA)", "share of the variance", "", height=140 + 26 * len(table)
    )
    shares = (100 * table["importance"]).tolist()
    made.add_trace(
        go.Bar(
            x=shares, y=table["choice"].tolist(), orientation="h", marker={"color": BLUE}, showlegend=False,
            text=[f"{share:.0f} %" for share in shares], hovertemplate="%{y}: %{text}<extra></extra>",
        )
    )  # fmt: skip
    made.update_xaxes(ticksuffix=" %")
    made.update_yaxes(autorange="reversed")
    return made


def side_by_side(entries: Mapping[str, Mapping[str, Any]]) -> go.Figure:
    """The winners of several runs: every metric with its interval, one row a run."""
    made = figure("Winners side by side, with 95 % intervals", "points (test split)", "")
    for place, metric in enumerate(METRICS):
        rows = {name: test for name, test in entries.items() if test[metric] is not None}
        if not rows:
            continue
        values = [100 * test[metric] for test in rows.values()]
        ends = [test["ci95"].get(metric) or (test[metric], test[metric]) for test in rows.values()]
        numbers = [-list(entries).index(name) - (place - 1.5) * 0.16 for name in rows]
        made.add_trace(
            go.Scatter(
                x=values, y=numbers, mode="markers", name=METRIC_WORDS[metric],
                marker={"color": METRIC_COLOURS[metric], "symbol": METRIC_SYMBOLS[metric], "size": 10},
                error_x={
                    "type": "data", "symmetric": False,
                    "array": [100 * high - value for (_, high), value in zip(ends, values, strict=True)],
                    "arrayminus": [value - 100 * low for (low, _), value in zip(ends, values, strict=True)],
                },
                text=[label(name) for name in rows], hovertemplate="%{text}: %{x:.1f}<extra></extra>",
            )
        )  # fmt: skip
    made.update_yaxes(tickvals=[-i for i in range(len(entries))], ticktext=[_short(name) for name in entries])
    made.update_layout(height=220 + 70 * len(entries))
    return made


def _points(group: Sequence[Trial], cost: str, norm: str, place: int) -> go.Scatter:
    colour, symbol = NORM_COLOURS[place % len(NORM_COLOURS)], NORM_SYMBOLS[place % len(NORM_SYMBOLS)]
    return go.Scatter(
        x=[getattr(trial, cost) for trial in group], y=[round(100 * (trial.score or 0.0), 3) for trial in group],
        mode="markers", name=norm, marker={"color": colour, "symbol": symbol, "size": 7, "opacity": 0.65},
        text=_hovers(group), hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _hovers(trials: Sequence[Trial]) -> list[str]:
    return [
        f"trial {trial.number}: {100 * (trial.score or 0.0):.1f}<br>{label(trial.candidate)}<br>"
        f"{amount(trial.macs)} MACs, {amount(trial.params)} params"
        for trial in trials
    ]


def _norm(trial: Trial) -> str:
    """Norms of a candidate, and its calibration: which stages have which is in the hover."""
    norms = sorted(set(trial.candidate.subnet.norms))
    return " + ".join(map(label, norms)) + ("" if trial.candidate.calibration == "source" else
                                            f", {label(trial.candidate.calibration)}")  # fmt: skip


def _gain_text(step: Step, metric: str) -> str:
    difference, low, high = (100 * value for value in step.gains[metric])
    verdict = "" if is_significant(step.gains[metric]) else "<br>not significant"
    return f"{difference:+z.1f} [{low:+z.1f}, {high:+z.1f}]{verdict}"


def _short(name: str) -> str:
    name = visible(name)
    return label(name if len(name) <= 18 else f"{name[:17]}…")


def _tested(
    entries: Mapping[str, Mapping[str, Any]], cost: str, objective: str, name: str, marker: Mapping[str, Any]
) -> go.Scatter:
    """Models that went to the test, where the same was measured of them, held out."""
    known = {role: one for role, one in entries.items() if one["validation"].get(objective) is not None}
    return go.Scatter(
        x=[one["cost"][cost] for one in known.values()],
        y=[100 * one["validation"][objective] for one in known.values()],
        mode="markers", name=name, marker={"color": RED, **marker}, hovertemplate="%{text}<extra></extra>",
        text=[
            f"{NAMES.get(role, role)}<br>{label(one['name'])}<br>"
            f"{100 * one['validation'][objective]:.1f} held out<br>"
            f"{100 * one['test']['balanced_accuracy']:.1f} balanced accuracy on the test split"
            for role, one in known.items()
        ],
    )  # fmt: skip


def _log_axis(made: go.Figure, values: Sequence[float], text: Callable[[int], str]) -> None:
    """A logarithmic x axis with ticks at 1, 2 and 5; plotly's own leave out the powers of ten."""
    known = [value for value in values if value > 0] or [1]
    low, high = int(np.floor(np.log10(min(known)))), int(np.ceil(np.log10(max(known))))
    ticks = [digit * 10**power for power in range(low, high + 1) for digit in (1, 2, 5)]
    made.update_xaxes(type="log", tickvals=ticks, ticktext=[text(tick) for tick in ticks])
