"""`nasimb bench`: ratios that say whether nasimb is as fast, and its scores as good, as it claims."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from nasimb.errors import unknown_name

if TYPE_CHECKING:
    from nasimb.bench.base import Measure

BENCHES: dict[str, tuple[str, ...]] = {
    "candidate": (
        "candidate:candidate_over_forward",
        "candidate:tree_over_single",
        "candidate:tree_over_single_16",
        "sgd:score_over_sgd",
        "sgd:tau_over_sgd",
    ),
    "head": (
        "head:ridge_over_sklearn",
        "head:logistic_over_sklearn",
        "head:imagenet_lt_head",
        "head:inat18_head",
    ),
    "train": ("train:sandwich_over_plain", "train:norms_over_two"),
    "storage": ("storage:orchestration",),
    "workers": ("workers:storage_time", "workers:throughput"),
    "budgets": ("budgets:budgets",),
    "screening": ("screening:screening",),
    "ranking": ("ranking:ranking",),
    "mixing": ("mixing:mixing",),
    "calibration": ("calibration:calibration",),
    "norms": ("norms:beta_slope", "norms:norms_frozen", "norms_trained:norms_trained"),
    "predict": ("predict:predict_over_raw",),
    "adaptation": ("adaptation:adaptation", "adaptation:adaptation_over_plain"),
}
"""Benchmarks by name: what each measures, as module:function of this package. Loaded when asked for."""


def measures(names: tuple[str, ...], only: tuple[str, ...] = ()) -> dict[str, dict[str, Measure]]:
    """What these benchmarks measure, by benchmark and by what is measured.

    Args:
        only: leave everything else out; none: nothing is left out.

    Raises:
        InputError: a name stands in no table.
    """
    for name in names:
        if name not in BENCHES:
            raise unknown_name("a benchmark", name, BENCHES)
    known = {place.partition(":")[2] for name in names for place in BENCHES[name]}
    for wanted in only:
        if wanted not in known:
            raise unknown_name("--only", wanted, known)
    found: dict[str, dict[str, Measure]] = {}
    for name in names:
        for place in BENCHES[name]:
            module, _, function = place.partition(":")
            if not only or function in only:
                loaded = getattr(import_module(f"nasimb.bench.{module}"), function)
                found.setdefault(name, {})[function] = cast("Measure", loaded)
    return found
