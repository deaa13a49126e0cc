"""The closed form counts what torch counts."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from nasimb.cost.macs import macs_and_params
from nasimb.nn.norms import NORMS
from nasimb.space import SearchSpace, Stage, Subnet
from nasimb.supernet import plain_backbone

SHIPPED = [("digits-resnet", 1), ("cifar-resnet", 3)]


def counted(space: SearchSpace, subnet: Subnet, in_channels: int) -> tuple[int, int]:
    """MACs of one image by torch's FLOP counter on two (group norm wants more than one value), parameters added up."""
    backbone = plain_backbone(space, subnet, in_channels)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone(torch.zeros(2, in_channels, subnet.resolution, subnet.resolution))
    flops = counter.get_total_flops()
    assert flops % 4 == 0
    return flops // 4, sum(parameter.numel() for parameter in backbone.parameters())


@pytest.mark.parametrize(("name", "in_channels"), SHIPPED)
def test_macs_and_parameters_are_exact_in_the_shipped_spaces(name: str, in_channels: int) -> None:
    space, rng = SearchSpace.load(name), np.random.default_rng(0)
    for subnet in [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(40))]:
        assert macs_and_params(space, subnet, in_channels) == counted(space, subnet, in_channels), subnet


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Any space with up to three stages: odd resolutions, strides up to 3, every norm."""

    def ascending(values: st.SearchStrategy[int]) -> tuple[int, ...]:
        return tuple(sorted(draw(st.sets(values, min_size=1, max_size=2))))

    stages = tuple(
        Stage(
            depths=ascending(st.integers(1, 3)),
            widths=ascending(st.integers(1, 9)),
            kernel_sizes=ascending(st.sampled_from([1, 3, 5, 7])),
            norms=tuple(NORMS),
            stride=draw(st.integers(1, 3)),
        )
        for _ in range(draw(st.integers(1, 3)))
    )
    return SearchSpace(
        name="any",
        backbone="resnet",
        stem_width=draw(st.integers(1, 7)),
        resolutions=ascending(st.integers(3, 19)),
        stages=stages,
        taps=(1,),
    )


@settings(deadline=None, max_examples=40)
@given(spaces(), st.integers(1, 4), st.integers(0, 1000))
def test_macs_and_parameters_are_exact_in_any_space(space: SearchSpace, in_channels: int, seed: int) -> None:
    subnet = space.sample(np.random.default_rng(seed))
    assert macs_and_params(space, subnet, in_channels) == counted(space, subnet, in_channels)


def with_norms(space: SearchSpace, norms: tuple[str, ...] = tuple(NORMS)) -> SearchSpace:
    stages = tuple(stage.model_copy(update={"norms": norms}) for stage in space.stages)
    return space.model_copy(update={"stages": stages})


@pytest.mark.parametrize("name", [name for name in NORMS if name != "bn"])
def test_parameters_are_exact_where_a_norm_is_everywhere(name: str) -> None:
    space = with_norms(SearchSpace.load("digits-resnet"), ("bn", "every_one"))
    options = space.model_dump() | {"norm_options": {"every_one": {"name": name, "where": "all"}}}
    for norms in (("bn", "every_one"), ("every_one",)):
        options["stages"][0]["norms"] = norms
        found = SearchSpace.model_validate(options)
        for seed in range(4):
            subnet = found.sample(np.random.default_rng(seed))
            assert macs_and_params(found, subnet, 1) == counted(found, subnet, 1)


def test_the_norm_of_a_stage_does_not_change_its_macs() -> None:
    space = SearchSpace.load("digits-resnet")
    values = space.values(space.largest())
    space = with_norms(space)
    macs = {norm: macs_and_params(space, space.subnet({**values, "stage2.norm": norm}), 1) for norm in NORMS}
    assert len({cost for cost, _ in macs.values()}) == 1
    # Three blocks' ends (two and the shortcut) of 32 channels; the vector v, or the threshold.
    assert {norm for norm, (_, params) in macs.items() if params == macs["bn"][1] + 96} == {
        "evonorm_s0", "evonorm_b0", "frn"
    }  # fmt: skip


def test_thousands_of_subnets_take_no_time() -> None:
    space, rng = SearchSpace.load("cifar-resnet"), np.random.default_rng(0)
    subnets = [space.sample(rng) for _ in range(200)]
    start = time.perf_counter()
    for subnet in subnets:
        macs_and_params(space, subnet, 3)
    assert (time.perf_counter() - start) / len(
        subnets
    ) < 1e-3  # a thousandth of a second; measured: a hundredth of that
