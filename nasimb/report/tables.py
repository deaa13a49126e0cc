"""The tables of a report. Cells are text as a reader wants it; the numbers behind them are in result.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from nasimb.report.run import Run
from nasimb.search.trial import FINISHED, SCREENED, Trial, pareto_set

NAMES = {
    "winner": "winner",
    "random": "best of random",
    "largest_normalised": "largest, winner's norms",
    "largest": "largest",
    "largest_plain_head": "largest, plain head",
    "smallest": "smallest",
}
GROUPS = ("many", "medium", "few")


def models(run: Run) -> pd.DataFrame:
    """Winner and baselines on the test split: points (0..100) with 95 % intervals, cost, and the winner's gain.

    Example:
        >>> from pathlib import Path
        >>> run = Run.read(Path("runs/digits"))
        >>> found = models(run).set_index("model")
        >>> list(found.index)
        ['winner', 'largest', 'largest, plain head', 'smallest']
        >>> found["MACs"][["largest", "smallest"]].to_dict()
        {'largest': '6.69M', 'smallest': '243k'}
    """
    result = run.finished_result()
    entries = {"winner": result["winner"], **result["baselines"]}
    rows = [model_row(label, entries[key]) for key, label in NAMES.items() if key in entries]
    rows += [model_row(f"retrained: {name}", found["retrained"]) for name, found in run.retrained.items()]
    return _without_empty_columns(pd.DataFrame(rows))


def model_row(label: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """One model, from its entry in result.json."""
    test, cost = entry["test"], entry["cost"]
    return {
        "model": label,
        "balanced accuracy": _with_interval(test, "balanced_accuracy"),
        **{group: _with_interval(test, group) for group in GROUPS},
        "MACs": amount(cost["macs"]),
        "params": amount(cost["params"]),
        "ms/image": "" if cost["latency_seconds"] is None else f"{1000 * cost['latency_seconds']:.2f}",
        "head": entry["head"],
        "winner gains": _gain(entry.get("winner_gain"), "balanced_accuracy"),
        "gains few": _gain(entry.get("winner_gain"), "few"),
    }


def calibrations(run: Run) -> pd.DataFrame:
    """The winner's subnet under every calibration policy of the run: held-out points, and those gained against source.

    Besides, how many trials each policy had and the best of their scores. No rows where the run has one policy.

    Example:
        >>> from pathlib import Path
        >>> run = Run.read(Path("runs/digits"))
        >>> run.config["calibrations"], len(calibrations(run))
        (['source'], 0)
    """
    found = run.finished_result().get("calibrations")
    if found is None:
        return pd.DataFrame()
    rows = []
    for policy in run.config["calibrations"]:
        measured = found["policies"].get(policy)
        values, gains = (measured["validation"], measured["gain"] or {}) if measured else ({}, {})
        scores = [
            trial.score for trial in run.trials if trial.candidate.calibration == policy and trial.score is not None
        ]
        rows.append(
            {
                "calibration": policy,
                "balanced accuracy": _points(values.get("balanced_accuracy")),
                **{group: _points(values.get(group)) for group in GROUPS},
                f"against {found['base']}": _signed(gains.get("balanced_accuracy")),
                "few against it": _signed(gains.get("few")),
                "trials": len(scores),
                "best score": _points(max(scores, default=None)),
                "left out": found["left_out"].get(policy, ""),
            }
        )
    return _without_empty_columns(pd.DataFrame(rows))


def pareto(run: Run, most: int = 12) -> pd.DataFrame:
    """Trials that no other beats in held-out score and cost, cheapest first; thinned evenly to `most` rows.

    The cost is the one that the run's objective names, else MACs. Trials over the run's limits are no part of it.

    Example:
        >>> from pathlib import Path
        >>> run = Run.read(Path("runs/digits"))
        >>> pareto(run).loc[0, ["trial", "MACs", "subnet"]].to_dict()
        {'trial': 0, 'MACs': '243k', 'subnet': 'r8 d1-1-1 w8-16-32 k3-3-3 bn-bn-bn t1 source'}
    """
    front = pareto_set(run.trials_within_limits(), str(run.config["objective"]).partition(",")[2] or "macs")
    if len(front) > most:
        front = [front[round(i * (len(front) - 1) / (most - 1))] for i in range(most)]
    return trials_table(front)


def trials_table(trials: Sequence[Trial]) -> pd.DataFrame:
    """One row a trial: score and few-shot recall in points, cost, subnet."""
    return pd.DataFrame(
        [
            {
                "trial": trial.number,
                "score": _points(trial.score),
                "few": _points(trial.few),
                "MACs": amount(trial.macs),
                "params": amount(trial.params),
                "subnet": str(trial.candidate),
            }
            for trial in trials
        ]
    )


def spend(run: Run) -> pd.DataFrame:
    """Seconds on the clock by phase, and their share of the limit; the last row adds up.

    Where several processes paid, the shares are left out: the clock does not show what they paid.

    Example:
        >>> from pathlib import Path
        >>> run = Run.read(Path("runs/digits"))
        >>> sorted(spend(run)["phase"])
        ['evaluate', 'head', 'in all', 'prepare', 'search', 'supernet']
    """
    spent = (run.result or {}).get("spend", {})
    by_phase, limit = spent.get("by_phase", run.spent_seconds), spent.get("limit_seconds")
    rows = [*by_phase.items(), ("in all", sum(by_phase.values()))]
    frame = pd.DataFrame([{"phase": phase, "seconds": f"{seconds:.1f}"} for phase, seconds in rows])
    if limit and abs(spent.get("used_seconds", rows[-1][1]) - rows[-1][1]) < 0.01 * limit:
        frame["of the limit"] = [f"{seconds / limit:.1%}" for _, seconds in rows]
    return frame


def comparison(runs: Sequence[Run]) -> pd.DataFrame:
    """Several runs side by side, one row each.

    Example:
        >>> from pathlib import Path
        >>> run = Run.read(Path("runs/digits"))
        >>> comparison([run, run])[["run", "trials", "seed"]]  # winners with their intervals and costs stand there too
              run trials  seed
        0  digits      2     0
        1  digits      2     0
    """
    rows = []
    for run in runs:
        result = run.finished_result()
        winner = result["winner"]
        rows.append(
            {
                "run": run.name,
                "balanced accuracy": _with_interval(winner["test"], "balanced_accuracy"),
                **{group: _with_interval(winner["test"], group) for group in GROUPS},
                "MACs": amount(winner["cost"]["macs"]),
                "params": amount(winner["cost"]["params"]),
                "trials": _scored(run),
                "seconds": f"{result['spend']['spent_seconds']:.0f}",
                "seed": result["provenance"]["seed"],
                "subnet": winner["name"],
            }
        )
    return _without_empty_columns(pd.DataFrame(rows))


def numbers(runs: Sequence[Run]) -> pd.DataFrame:
    """The winner, the baselines and what was retrained of every run, one row each, as plain numbers for programs.

    Accuracies are fractions and missing where a group is empty; `_low` and `_high` are ends of 95 % intervals.

    Example:
        >>> from pathlib import Path
        >>> run = Run.read(Path("runs/digits"))
        >>> found = numbers([run]).set_index("model")
        >>> found.loc[["largest", "smallest"], "macs"].to_dict()
        {'largest': 6693456, 'smallest': 242784}
        >>> bool(found.loc["winner", "balanced_accuracy_low"] <= found.loc["winner", "balanced_accuracy"])
        True
    """
    rows = []
    for run in runs:
        result = run.finished_result()
        told = {name: (entry, result) for name, entry in {"winner": result["winner"], **result["baselines"]}.items()}
        told |= {f"retrained: {name}": (found["retrained"], found) for name, found in run.retrained.items()}
        for model, (entry, source) in told.items():
            test, cost, row = entry["test"], entry["cost"], {"run": run.name, "model": model}
            for metric in ("balanced_accuracy", "accuracy", *GROUPS):
                low, high = test["ci95"].get(metric) or (None, None)
                row |= {metric: test[metric], f"{metric}_low": low, f"{metric}_high": high}
            row |= {"macs": cost["macs"], "params": cost["params"], "latency_seconds": cost["latency_seconds"]}
            row |= {"head": entry["head"], "calibration": entry["calibration"], "subnet": entry["name"]}
            seed, seconds = source["provenance"]["seed"], source["spend"]["spent_seconds"]
            rows.append({**row, "seed": seed, "spent_seconds": seconds})
    return pd.DataFrame(rows)


def data_notes(run: Run) -> list[str]:
    """What was done to the data, and what the reader must know about the numbers.

    Example:
        >>> from pathlib import Path
        >>> run = Run.read(Path("runs/digits"))
        >>> print(data_notes(run)[0])
        The target was made long-tailed (exponential, imbalance factor 20, seed 0): 76 of 180 images, 60 to 3 a class.
    """
    return list(run.finished_result()["notes"])


def _scored(run: Run) -> str:
    """How many candidates were scored, and how many of them on a part of the images only."""
    finished, screened = (sum(trial.state == state for trial in run.trials) for state in (FINISHED, SCREENED))
    return f"{finished + screened:,}" + (f" ({screened:,} screened out)" if screened else "")


def _with_interval(test: Mapping[str, Any], name: str) -> str:
    if test[name] is None:
        return ""
    interval = test["ci95"].get(name)
    if interval is None or interval[0] == interval[1]:  # every resample alike: all right, or all wrong
        return _points(test[name])
    return f"{_points(test[name])} [{_points(interval[0])}, {_points(interval[1])}]"


def _gain(gains: Mapping[str, Sequence[float] | None] | None, name: str) -> str:
    row = None if gains is None else gains.get(name)
    if row is None:
        return ""
    difference, low, high = (100 * value for value in row)
    verdict = "" if low > 0 or high < 0 else " (n.s.)"
    return f"{difference:+z.1f} [{low:+z.1f}, {high:+z.1f}]{verdict}"


def _points(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.1f}"


def _signed(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:+z.1f}"


def amount(number: int) -> str:
    """Three digits of a cost, with its unit: 1.23M."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def spaced(name: str) -> str:
    """A name of code as words."""
    return name.replace("_", " ")


def _without_empty_columns(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.loc[:, (frame != "").any()]
