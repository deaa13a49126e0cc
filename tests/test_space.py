"""Search spaces and subnets as values."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasimb.errors import IllegalSubnetError, InputError
from nasimb.space import SearchSpace, Stage, Subnet
from nasimb.spec import parse

STAGE = Stage(depths=(1, 2), widths=(8, 16), kernel_sizes=(3, 5), norms=("bn", "nbn"))
SPACE = SearchSpace(
    name="tiny", backbone="resnet", stem_width=8, resolutions=(8, 12), stages=(STAGE, STAGE), taps=(1, 2)
)
seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def test_the_size_is_the_number_of_different_subnets() -> None:
    choices = SPACE.choices()
    everything = {SPACE.subnet(dict(zip(choices, values, strict=True))) for values in product(*choices.values())}
    assert len(everything) == SPACE.size() == 2 * (2**4) ** 2 * 2


@given(seeds)
def test_a_sampled_subnet_is_legal_and_survives_every_notation(rng: np.random.Generator) -> None:
    subnet = SPACE.sample(rng)
    SPACE.check(subnet)
    assert SPACE.subnet(SPACE.values(subnet)) == subnet
    assert Subnet.from_dict(subnet.to_dict()) == subnet
    assert hash(Subnet.from_dict(subnet.to_dict())) == hash(subnet)


def test_different_subnets_have_different_names() -> None:
    choices = SPACE.choices()
    everything = [SPACE.subnet(dict(zip(choices, values, strict=True))) for values in product(*choices.values())]
    assert len({str(subnet) for subnet in everything}) == len(everything)


def test_smallest_and_largest_bound_every_dimension() -> None:
    low, high = SPACE.smallest(), SPACE.largest()
    assert (low.resolution, low.depths, low.widths, low.taps) == (8, (1, 1), (8, 8), 1)
    assert (high.resolution, high.depths, high.widths, high.taps) == (12, (2, 2), (16, 16), 2)
    assert low.norms == high.norms == ("bn", "bn")


def test_a_subnet_outside_the_space_is_refused_by_name() -> None:
    values = {**SPACE.values(SPACE.smallest()), "stage2.width": 9}
    with pytest.raises(IllegalSubnetError, match=r"stage2\.width must be one of \[8, 16\]"):
        SPACE.subnet(values)
    with pytest.raises(IllegalSubnetError, match="2 stages"):
        SPACE.check(Subnet(8, (1,), (8,), (3,), ("bn",), 1))


@pytest.mark.parametrize("name", ["digits-resnet", "cifar-resnet"])
def test_shipped_spaces_load_by_name(name: str) -> None:
    assert SearchSpace.load(name).name == name


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("resolutions: [12, 8]", "ascending"),
        ("taps: [1, 3]", "number of stages, 2"),
        ("stem_widht: 8", "Did you mean 'stem_width'"),
        ("stages: [{depths: [1], widths: [8], kernel_sizes: [4]}]", "odd"),
        ("stages: [{depths: [1], widths: [8], kernel_size: [3]}]", "Did you mean 'kernel_sizes'"),
        ("stages: [{depths: [], widths: [8]}]", "at least 1"),
        ("stages: [{depths: [0], widths: [8]}]", "greater than 0"),
        ("stages: [{depths: [1], widths: [8], norms: [bn, bn]}]", "differ"),
        ("stages: []", "at least 1"),
        ("[", "valid YAML"),
    ],
)
def test_a_wrong_space_file_is_a_sentence(tmp_path: Path, change: str, said: str) -> None:
    base = {
        "backbone": "backbone: resnet",
        "stem_width": "stem_width: 8",
        "resolutions": "resolutions: [8]",
        "stages": "stages: [{depths: [1], widths: [8]}, {depths: [1], widths: [8]}]",
    }
    base[change.partition(":")[0]] = change
    if change.startswith("stem_widht"):
        del base["stem_width"]
    file = tmp_path / "mine.yaml"
    file.write_text("\n".join(base.values()))
    with pytest.raises(InputError, match=said.replace("[", r"\[")):
        SearchSpace.load(str(file))


def test_an_unknown_space_names_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean 'cifar-resnet'"):
        SearchSpace.load("cifar-resnt")


def test_norm_options_are_data_that_hash_and_survive_json() -> None:
    options = {"mine_1": {"name": "gn", "group_size": 4, "eps": 1e-3}, "mine_2": {"name": "nbn", "start": "one"}}
    stage = {"depths": [1], "widths": [4], "norms": ["bn", "mine_1", "mine_2"]}
    values = {"name": "s", "backbone": "resnet", "stem_width": 4, "resolutions": [8], "stages": [stage]}
    space = SearchSpace.model_validate({**values, "norm_options": options})
    assert space.model_dump(mode="json")["norm_options"] == options
    again = SearchSpace.model_validate_json(space.model_dump_json())
    assert (again, hash(again)) == (space, hash(space))
    assert space.norm("mine_1") == options["mine_1"]
    assert space.norm("bn") == "bn"
    plain = SearchSpace.model_validate({**values, "stages": [{**stage, "norms": ["bn"]}]})
    assert "norm_options" not in plain.model_dump(mode="json"), "as it was written before there were options"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mine": {"group_size": 4}}, "must have a name"),
        ({"bn": {"name": "gn"}}, "leave the name bn alone"),
        ({"yours": {"name": "gn"}}, "listed among the norms of a stage"),
        ({"mine": "gn"}, "norm_options"),
        ({"mine": {"name": ["gn"]}}, "norm_options"),
    ],
)
def test_wrong_norm_options_are_refused_in_a_sentence(options: object, said: str) -> None:
    stage = {"depths": [1], "widths": [4], "norms": ["bn", "mine"]}
    values = {"name": "s", "backbone": "resnet", "stem_width": 4, "resolutions": [8], "stages": [stage]}
    with pytest.raises(InputError, match=said):
        parse(SearchSpace, {**values, "norm_options": options}, what="the space")
