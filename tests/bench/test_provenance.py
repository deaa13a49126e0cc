"""What figures and rows say about where they come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_run import tiny_config

import nasimb
from nasimb.bench import provenance
from nasimb.bench.base import Conditions
from nasimb.bench.testbed import load_testbed
from nasimb.config import HeadOptions
from nasimb.search.screening import Screen


def test_the_kind_of_images_is_that_of_those_looked_at(quick: Callable[..., Conditions]) -> None:
    assert load_testbed(quick()).data == "synthetic"
    assert load_testbed(quick(), content=True).data == "digits"
    assert provenance.provenance(quick())["data"] == "synthetic"
    assert provenance.provenance(quick(synthetic=False))["data"] == "digits"


def test_the_version_is_that_of_the_code_that_runs_installed_or_not(quick: Callable[..., Conditions]) -> None:
    assert provenance.provenance(quick())["versions"]["nasimb"] == nasimb.__version__


def test_the_same_again_is_the_same(quick: Callable[..., Conditions]) -> None:
    first, again = (provenance.identity([load_testbed(quick())], quick(), sampler="tpe") for _ in range(2))
    assert first == again
    assert provenance.identity([load_testbed(quick())], quick(), sampler="random") != first


@pytest.mark.parametrize(
    "changes",
    [
        {"heads": HeadOptions(ranking=("ridge",))},
        {"objective": "worst_recall"},
        {"seed": 1},
        {"batch_size": 7},
        {"memory_mib": 77},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_rows_of_another_configuration_are_others(
    quick: Callable[..., Conditions], tmp_path, changes: dict[str, Any]
) -> None:
    def of(config: Any) -> str:
        conditions = quick(config=config)
        return provenance.identity([load_testbed(conditions)], conditions)

    config = tiny_config(tmp_path)
    assert of(config.model_copy(update=changes)) != of(config)


def test_rows_of_other_conditions_are_others(quick: Callable[..., Conditions], monkeypatch: pytest.MonkeyPatch) -> None:
    testbed = load_testbed(quick())
    parts = [torch.arange(0, 60, 2), torch.arange(0, 60, 3)]
    screened = [replace(testbed.scoring, screen=Screen(part, None, eta)) for part in parts for eta in (4, 8)]
    low = replace(testbed.scoring, dtype=torch.bfloat16)
    found = [provenance.identity([replace(testbed, scoring=scoring)], quick()) for scoring in (*screened, low)]
    found += [provenance.identity([testbed], quick(clock_name=name)) for name in ("wall clock", "processor time")]
    found.append(provenance.identity([testbed, testbed], quick()))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    found.append(provenance.identity([testbed], quick()))
    monkeypatch.setattr(provenance, "device_name", lambda device: "abacus")
    found.append(provenance.identity([testbed], quick()))
    shared = provenance.provenance(quick())
    for library in ("nasimb", "torch"):
        versions = {**shared["versions"], library: "0.0"}
        monkeypatch.setattr(provenance, "provenance", lambda conditions, new=versions: {**shared, "versions": new})
        found.append(provenance.identity([testbed], quick()))
    assert len(set(found)) == len(found) == 12
