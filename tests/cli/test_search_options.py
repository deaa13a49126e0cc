"""What the options of a search ask for."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from nasimb.cli.search_options import configuration


def asked(**options: Any) -> Any:
    nothing = dict.fromkeys(inspect.signature(configuration).parameters)
    return configuration(**{**nothing, **options})[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [["source,mixed"], ["source", "mixed"]])
def test_calibrations_are_joined_by_commas_or_one_an_option(given: list[str]) -> None:
    assert asked(calibration=given).calibrations == ("source", "mixed")
    assert asked(calibration=[*given, "reset"]).calibrations == ("source", "mixed", "reset")
    assert asked().calibrations == ("source",)
