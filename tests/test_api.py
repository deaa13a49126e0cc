"""A search from Python, and the names that the package offers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_run import ASSIGNED, DATA, SPACE, tiny_config

import nasimb
import nasimb.api
from nasimb.config import as_typed
from nasimb.errors import InputError


def test_a_search_gives_model_result_and_report(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    options = {"space": tmp_path / "space.yaml", "budget": "3trials", "device": "cpu", "assign": ASSIGNED}
    found = nasimb.search(data=DATA, run=str(tmp_path / "run"), seed=2, **options)
    assert found.folder == tmp_path / "run"
    assert found.result == json.loads((tmp_path / "run" / "result.json").read_text())
    assert found.result["provenance"]["seed"] == 2
    assert found.model.predict(np.zeros((2, 8, 8), np.uint8)).shape == (2,)
    models = found.report["models"].set_index("model")
    assert isinstance(models, pd.DataFrame)
    assert models.loc["winner", "params"] == found.result["winner"]["cost"]["params"]
    again = nasimb.search(data=DATA, run=tmp_path / "run", seed=2, **options)
    assert again.result == found.result, "a finished run is read"


def test_its_options_are_those_of_the_command_line(tmp_path: Path) -> None:
    import inspect

    from nasimb.cli.search import search as command

    typed = set(inspect.signature(command).parameters) - {"context", "as_json"}
    assert set(inspect.signature(nasimb.api.search).parameters) - {"watcher"} == typed


def test_options_come_to_the_same_configuration(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    space = str(tmp_path / "tiny.yaml")
    asked = as_typed(data=DATA, space=space, budget="5trials", device="cpu", assign=ASSIGNED)
    assert asked == config
    more = as_typed(calibration=["source", "mixed,reset"], sampling="sqrt", head_crops=3, supernet=None)
    assert more.calibrations == ("source", "mixed", "reset")
    assert (more.training.sampling, more.heads.crops) == ("sqrt", 3)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"data": "digts"}, "Did you mean 'digits'"),
        ({"budget": "soon"}, "budget"),
        ({"workers": -1}, "workers"),
        ({"data": "digits", "assign": ["heads.fold=3"]}, "'fold"),
    ],
)
def test_what_cannot_be_leaves_nothing(tmp_path: Path, options: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        nasimb.search(run=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(TypeError, match="budgte"):
        nasimb.search(budgte="3min")


def test_names_come_on_first_use_and_the_room_of_search_stays_one() -> None:
    program = """
import sys, nasimb
assert "torch" not in sys.modules and "sklearn" not in sys.modules
from nasimb import NasimbClassifier, load
import nasimb.search.trial as trial
assert callable(nasimb.search) and nasimb.search.trial is trial
assert "budget" in NasimbClassifier().get_params()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'serch'"):
        nasimb.serch  # noqa: B018
