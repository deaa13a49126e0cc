"""The shipped search spaces are what their headers say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from nasimb.cost.macs import macs_and_params
from nasimb.nn import moments
from nasimb.space import SearchSpace
from nasimb.supernet import build_supernet
from nasimb.supernet.calibrate import calibrate

FILES = sorted((Path(__file__).parent.parent / "search_spaces").glob("*.yaml"))


def header(path: Path) -> dict[str, str]:
    """`# key: value` lines in front of the data."""
    return dict(re.findall(r"^# (\w+): (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    assert isinstance(request.param, Path)
    return request.param


def test_the_header_states_size_and_macs(path: Path) -> None:
    space, said = SearchSpace.load(str(path)), header(path)
    assert int(said["subnets"]) == space.size()
    for which, subnet in (("smallest", space.smallest()), ("largest", space.largest())):
        macs, _ = macs_and_params(space, subnet, int(said["channels"]))
        assert said[which] == f"{macs / 1e6:.3g}M MACs"


def test_smallest_and_largest_bound_every_subnet(path: Path) -> None:
    space, rng = SearchSpace.load(str(path)), np.random.default_rng(0)
    lowest, highest = (macs_and_params(space, subnet, 3) for subnet in (space.smallest(), space.largest()))
    for _ in range(500):
        macs, params = macs_and_params(space, space.sample(rng), 3)
        assert lowest[0] <= macs <= highest[0]
        assert lowest[1] <= params <= highest[1]


def test_every_choice_is_searched_and_builds(path: Path) -> None:
    space = SearchSpace.load(str(path))
    assert len(space.choices()["resolution"]) > 1
    for number in range(1, len(space.stages) + 1):
        assert set(space.choices()[f"stage{number}.norm"]) >= {"bn", "nbn"}
        assert all(len(space.choices()[f"stage{number}.{what}"]) > 1 for what in ("depth", "width", "kernel_size"))
    one_C = torch.ones(1)
    supernet = build_supernet(space, 1, 5, one_C, one_C, torch.Generator().manual_seed(0))
    images_BCHW = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 255
    for subnet in (space.smallest(), space.largest()):
        statistics = calibrate(supernet, subnet, images_BCHW)
        with torch.no_grad():
            features_BD = supernet.extract(subnet, statistics)(images_BCHW)
            assert torch.equal(features_BD, supernet.features(images_BCHW, subnet, moments.given(statistics)))
        assert bool(torch.isfinite(features_BD).all())


def test_the_space_for_cifar_has_several_million_subnets() -> None:
    assert SearchSpace.load("cifar-resnet").size() > 3_000_000
