"""A plan as tables: what each phase gets and buys, and what more devices would change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from nasimb.progress import clock_time
from nasimb.report.show import stdout, terminal_table

BUYS = {
    "prepare": "data loaded and checked, units of work measured",
    "head": "heads compared on the largest subnet and on the finalists",
    "evaluate": "winner and baselines refitted, timed and tested",
}


def print_plan(plan: Mapping[str, Any]) -> None:
    """The plan for the first number of devices, all of them side by side, and what to know, on stdout.

    Args:
        plan: as `nasimb.plan.plan_run` returns it.
    """
    first = plan["plans"][0]
    title = f"{plan['budget']} on {_devices(first['devices'], plan)}"
    stdout().print(terminal_table(phases(first), title=title))
    if len(plan["plans"]) > 1:
        stdout().print(terminal_table(devices(plan), title="More devices of this kind"))
    for line in sentences(plan):
        print(line)


def phases(one: Mapping[str, Any]) -> pd.DataFrame:
    """A row a phase: seconds on the clock, share, and what they buy; the last row adds up."""
    buys = {**BUYS, "search": _candidates(one), "supernet": f"{one['training_steps']:,} training steps"}
    if not one["training_steps"]:
        buys["supernet"] = "trained before"
    rows = [(phase, seconds["wall_seconds"], buys[phase]) for phase, seconds in one["phases"].items()]
    if one["unspent_seconds"] and one["unspent_seconds"] > 0.005 * one["wall_seconds"]:
        rows.append(("left over", one["unspent_seconds"], "nothing is left to do with it"))
    total = sum(seconds for _, seconds, _ in rows)
    rows.append(("in all", total, ""))
    return pd.DataFrame(
        [
            {"phase": phase, "time": clock_time(seconds), "share": f"{seconds / total:.1%}", "buys": text}
            for phase, seconds, text in rows
        ]
    )


def devices(plan: Mapping[str, Any]) -> pd.DataFrame:
    """A row a number of devices: time on the clock, device time, candidates, money."""
    rows = []
    for one in plan["plans"]:
        row = {
            "devices": one["devices"],
            "on the clock": clock_time(one["wall_seconds"]),
            "devices x time": clock_time(one["device_seconds"]),
            "candidates": _range(one["candidates"]),
        }
        if one["money"] is not None:
            row[f"costs at {plan['price']}"] = f"{one['money']:,.2f}"
        rows.append(row)
    return pd.DataFrame(rows)


def sentences(plan: Mapping[str, Any]) -> list[str]:
    """What the reader of the tables must know besides."""
    first, units = plan["plans"][0], plan["seconds"]
    lines = []
    if first["money"] is not None:
        lines.append(f"cost: {first['money']:,.2f} at {plan['price']}")
    lines.append(f"smallest useful budget here: {plan['smallest_budget']}")
    alone = ", ".join(f"{name} {_short(seconds)}" for name, seconds in units["candidate_alone"].items())
    lines.append(f"one candidate on all images, alone: {alone}")
    scored = units["candidate_screened"] or units["candidate_in_a_batch"]
    what = "screened" if units["candidate_screened"] else "scored"
    lines.append(
        f"{what} in batches, a candidate takes {_short(scored['small'])} if small networks win, "
        f"{_short(scored['any'])} if size does not matter, {_short(scored['large'])} if large ones win"
    )
    heads = sum(units["head_comparison"].values())
    lines.append(f"heads compared on one candidate: {_short(heads)}; test of the winner and its baselines: "
                 f"{_short(units['test'])}")  # fmt: skip
    if len(plan["plans"]) > 1:
        lines.append(
            "The search divides over devices (nasimb search --workers, nasimb worker); the super-network, the heads "
            "and the test have one. One that several train (nasimb supernet train under torchrun) is searched with "
            "--supernet."
        )
    return lines


def _devices(number: int, plan: Mapping[str, Any]) -> str:
    holding = plan["holding"]
    one = f"{plan['device']}, {holding['threads']} thread{'s' if holding['threads'] != 1 else ''}"
    return f"this machine ({one})" if number == 1 else f"{number} machines like this one ({one})"


def _candidates(one: Mapping[str, Any]) -> str:
    text = f"{_range(one['candidates'])} candidate{'' if one['candidates']['high'] == 1 else 's'}"
    return text if one["promoted"] is None else f"{text}; {_range(one['promoted'])} of them see all images"


def _range(found: Mapping[str, int]) -> str:
    if found["low"] == found["high"]:
        return f"{found['expected']:,}"
    return f"{_rounded(found['low'])} to {_rounded(found['high'])} (about {_rounded(found['expected'])})"


def _rounded(number: int) -> str:
    """Two digits, since there are no more to it."""
    if number < 100:
        return str(number)
    step = int(10 ** (len(str(number)) - 2))
    return f"{round(number / step) * step:,}"


def _short(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
