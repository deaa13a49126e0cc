"""The configuration: defaults that follow from the data, what wins over what, and errors that name the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nasimb.config import RunConfig, load_config, parse_amount
from nasimb.errors import BudgetError, InputError
from nasimb.spec import find_shipped, read_yaml


def test_defaults_follow_from_the_data() -> None:
    digits = load_config(None, {})
    assert (digits.space, digits.imbalance_factor, digits.budget) == ("digits-resnet", 20.0, "3min")
    assert not digits.on_target, "the digits have a source part"
    assert digits.training.sampling == "balanced"
    photos = load_config(None, {"data": "folder:photos"})
    assert (photos.space, photos.imbalance_factor) == ("cifar-resnet", None)
    assert photos.on_target
    assert photos.training.sampling == "natural"


@pytest.mark.parametrize(
    ("options", "on_target"),
    [
        ({"data": "digits", "source": "target"}, True),
        ({"data": "digits", "source": "cifar10:x"}, False),
        ({"data": {"name": "digits", "source_per_class": 0}}, True),
        ({"data": "folder:x", "source": "digits"}, False),
        ({"data": "folder:x", "supernet": "net"}, False),
    ],
)
def test_where_the_super_network_is_trained(options: dict[str, Any], on_target: bool) -> None:
    config = load_config(None, options)
    assert config.on_target is on_target
    assert config.training.sampling == ("natural" if on_target else "balanced")


def test_a_sampling_that_was_asked_for_is_kept() -> None:
    assert load_config(None, {"data": "folder:x"}, ["training.sampling=sqrt"]).training.sampling == "sqrt"


def test_a_ready_super_network_brings_its_space() -> None:
    assert load_config(None, {"supernet": "net"}).space is None


def test_options_win_over_the_file_and_assignments_over_both(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("seed: 1\nbudget: 1h\nheads: {folds: 3, count: 2}\n")
    config = load_config(str(file), {"seed": 2, "budget": None}, ["seed=3", "heads.folds=4", "training.batch_size=8"])
    assert (config.seed, config.budget, config.heads.folds, config.heads.count) == (3, "1h", 4, 2)
    assert config.training.batch_size == 8
    assert load_config(str(file), {"seed": 2}).seed == 2


@pytest.mark.parametrize("name", ["digits", "cifar10-lt", "plankton"])
def test_shipped_configurations_load(name: str) -> None:
    config = load_config(name, {})
    values = read_yaml(find_shipped("configs", name))
    assert {key: config.to_dict()[key] for key in values} == values
    assert load_config("digits", {}) == load_config(None, {})


def test_what_is_written_down_is_read_as_the_same(tmp_path: Path) -> None:
    config = load_config(
        None, {"data": "folder:x", "max_macs": "1.5M"}, ["heads.finalists=[{name: focal, gamma: 1.0}, gda]"]
    )
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.to_dict()))
    again = load_config(str(file), {})
    assert again == config
    assert again.to_dict() == config.to_dict()
    assert again.heads.finalists == ({"name": "focal", "gamma": 1.0}, "gda")


@pytest.mark.parametrize(
    ("text", "amount"), [("50M", 50_000_000), ("1.5M", 1_500_000), ("300k", 300_000), ("2 G", 2 * 10**9), (" 7 ", 7)]
)
def test_amounts(text: str, amount: int) -> None:
    assert parse_amount(text) == amount
    assert load_config(None, {"max_macs": text}).max_macs == amount


@given(st.integers(0, 10**9))
def test_a_plain_number_is_itself(number: int) -> None:
    assert parse_amount(str(number)) == number


@pytest.mark.parametrize("text", ["", "M", "-3M", "3T", "1,5M", "3MM"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(InputError, match="Write 50M"):
        parse_amount(text)


@pytest.mark.parametrize(
    ("objective", "metric", "cost"),
    [
        ("few", "few", None),
        ("balanced_accuracy,macs", "balanced_accuracy", "macs"),
        ("g_mean,params", "g_mean", "params"),
    ],
)
def test_an_objective_has_a_metric_and_perhaps_a_cost(objective: str, metric: str, cost: str | None) -> None:
    config = load_config(None, {"objective": objective})
    assert (config.metric, config.cost) == (metric, cost)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "digits-3min-seed0"),
        ({"data": "folder:a/my_photos/", "budget": "8gpu-h", "seed": 4}, "folder-my-photos-8gpu-h-seed4"),
        ({"data": "arrays:x/plankton32.npz"}, "arrays-plankton32-3min-seed0"),
        ({"data": "list:train.txt", "budget": "30min,200trials"}, "list-train-30min-200trials-seed0"),
        ({"data": "cifar10:data"}, "cifar10-data-3min-seed0"),
    ],
)
def test_a_run_is_named_after_data_budget_and_seed(options: dict[str, Any], name: str) -> None:
    assert load_config(None, options).run_name() == name


def test_a_run_on_the_folder_one_stands_in_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path / "photos")
    assert load_config(None, {"data": "folder:."}).run_name() == "folder-photos-3min-seed0"


@pytest.mark.parametrize(
    ("options", "assignments", "told"),
    [
        ({}, ["heads.fold=3"], "Did you mean 'folds'"),
        ({}, ["heads"], "key=value"),
        ({}, ["heads.folds=]"], "YAML"),
        ({}, ["seed.deep=3"], "seed"),
        ({"sampler": "tpee"}, [], "Did you mean 'tpe'"),
        ({"calibrations": ["source", "x"]}, [], "calibration"),
        ({"calibrations": ["source", "mixed", "source"]}, [], "Each calibration may be given once"),
        ({"objective": "few,latency"}, [], "macs, params"),
        ({"test_fraction": 1.0}, [], "test_fraction"),
        ({"data": {"name": "digits", "digts": [1, 2]}}, [], "Did you mean 'digits'"),
        ({}, ["heads.ranking=[knn]"], "ranking head"),
        ({}, ["heads.ranking=[{name: gda, tauss: [1]}]"], "Did you mean 'taus'"),
        ({}, ["heads.ranking=[{name: gda, taus: []}]"], "taus"),
        ({}, ["heads.ranking=[gda, {name: gda, taus: [1]}]"], "once"),
        ({}, ["heads.ranking=[{name: focal}]"], "ranking head"),
        ({}, ["heads.ranking=[{taus: [1]}]"], "ranking head"),
        ({}, ["heads.finalists=[{name: ridge, class_weightning: inverse_sqrt}]"], "Did you mean 'class_weighting'"),
        ({}, ["heads.penalties=[a]"], "heads.penalties"),
    ],
)
def test_errors_are_sentences(options: dict[str, Any], assignments: list[str], told: str) -> None:
    with pytest.raises(InputError) as refused:
        load_config(None, options, assignments)
    text = str(refused.value)
    assert told in text
    assert "\n" not in text
    assert not text.endswith("..")


def test_a_budget_without_unit_stays_a_budget_error() -> None:
    with pytest.raises(BudgetError, match="must have a unit"):
        load_config(None, {"budget": "30"})


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().seed = 3  # type: ignore[misc]
