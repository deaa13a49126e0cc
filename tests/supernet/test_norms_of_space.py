"""Every norm, with and without options, in a super-network: what it trains, extracts, folds, saves and counts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nasimb.cost.macs import macs_and_params
from nasimb.data.base import ImageSet
from nasimb.errors import InputError
from nasimb.export import Description, Model, load, save
from nasimb.nn.moments import given
from nasimb.nn.norms import NORMS
from nasimb.space import SearchSpace, Stage, Subnet
from nasimb.spec import parse
from nasimb.supernet import build_supernet
from nasimb.supernet.base import Supernet
from nasimb.supernet.calibrate import calibrate
from nasimb.supernet.checkpoint import load_supernet, save_supernet
from nasimb.supernet.ranks import ONE_PROCESS
from nasimb.supernet.recipe import Recipe
from nasimb.supernet.smallbatch import fewest_images, small_batch_note
from nasimb.supernet.train import Training
from nasimb.supernet.tree import SubnetTree

NewSupernet = Callable[..., Supernet]
OPTIONS = {
    "nbn_published": {"name": "nbn", "bias": "normalised", "scale": "shared", "start": "one", "bias_start": "zero"},
    "nbn_stage": {"name": "nbn", "scale": "stage", "where": "all"},
    "gn_all": {"name": "gn", "where": "all", "group_size": 4},
    "evo_all": {"name": "evonorm_s0", "where": "all"},
    "frn_all": {"name": "frn", "where": "all"},
    "b0_all": {"name": "evonorm_b0", "where": "all"},
}
NAMES = (*NORMS, *OPTIONS)


def space_with(names: tuple[str, ...], **more: object) -> SearchSpace:
    options = {name: OPTIONS[name] for name in names if name in OPTIONS}
    values = {
        "name": "normed", "backbone": "resnet", "stem_width": 4, "resolutions": (8,), "norm_options": options,
        "stages": (
            {"depths": (1, 2), "widths": (4, 6), "norms": names},
            {"depths": (1, 2), "widths": (6, 8), "norms": names, "stride": 2},
        ),
    }  # fmt: skip
    return parse(SearchSpace, {**values, **more}, what="the space")


def of_norm(space: SearchSpace, name: str, seed: int = 0) -> Subnet:
    return replace(space.sample(np.random.default_rng(seed)), norms=(name, name))


def pixels(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("name", NAMES)
def test_forward_extract_and_fold_agree(new_supernet: NewSupernet, name: str) -> None:
    space = space_with(NAMES)
    supernet = new_supernet(space=space)
    for seed in range(3):
        subnet = of_norm(space, name, seed)
        statistics = calibrate(supernet, subnet, pixels(12))
        with torch.no_grad():
            features_BD = supernet.features(pixels(5, 1), subnet, given(statistics))
            assert torch.equal(supernet.extract(subnet, statistics)(pixels(5, 1)), features_BD)
        folded = SubnetTree(supernet, [("source", subnet)], {"source": pixels(12)}).features(pixels(5, 1))[0]
        torch.testing.assert_close(folded, features_BD, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_counted_exactly(name: str) -> None:
    # A space of one norm: the stem follows where every norm of the first stage is everywhere.
    space = space_with((name,))
    for seed in range(3):
        subnet = of_norm(space, name, seed)
        one_C = torch.ones(1)
        plain = build_supernet(space, 1, 3, one_C, one_C, torch.Generator()).extract(subnet, None)
        counted = sum(parameter.numel() for parameter in plain.parameters())
        assert macs_and_params(space, subnet, 1)[1] == counted


@pytest.mark.parametrize("name", NAMES)
def test_exported_models_come_back_bit_equal(new_supernet: NewSupernet, name: str, tmp_path: Path) -> None:
    space = space_with(NAMES)
    supernet, subnet = new_supernet(space=space), of_norm(space, name)
    backbone = supernet.extract(subnet, calibrate(supernet, subnet, pixels(12)))
    head = torch.nn.Linear(supernet.feature_dim(subnet), 2)
    described = Description(("a", "b"), (3, 3), 1, 8, space, subnet, "source", {"name": "ridge"})
    model = Model(backbone, head, described)
    save(model, tmp_path)
    with torch.no_grad():
        assert torch.equal(load(tmp_path)(pixels(4)), model(pixels(4)))


def training(space: SearchSpace, images: ImageSet, seed: int = 0) -> Training:
    one_C = torch.ones(1)
    supernet = build_supernet(space, 1, 3, 100 * one_C, 60 * one_C, torch.Generator().manual_seed(seed))
    recipe = Recipe(batch_size=9, precision="float32", ema_decay=0.5)
    return Training(supernet, images, recipe, seed=seed, device=torch.device("cpu"), flip=False)


def test_shared_scalars_are_one_parameter_through_training_saving_and_copying(images: ImageSet, tmp_path: Path) -> None:
    space = space_with(("nbn_published", "nbn_stage", "bn"))
    whole, first = training(space, images), training(space, images)
    scalars = [name for name, tensor in first.supernet.named_parameters() if tensor.ndim == 0]
    assert len(scalars) == 1 + 2, "one for the network, one a stage"
    before = {name: float(tensor.detach()) for name, tensor in first.supernet.named_parameters() if tensor.ndim == 0}
    for _ in range(4):
        whole.step(0.3)
    for _ in range(2):
        first.step(0.3)
    first.save(tmp_path)
    resumed = training(space, images)
    resumed.resume(tmp_path)
    for _ in range(2):
        resumed.step(0.3)
    expected = whole.finished().state_dict()
    for name, tensor in resumed.finished().state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    after = dict(whole.supernet.named_parameters())
    assert any(float(after[name].detach()) != value for name, value in before.items())
    copied = copy.deepcopy(whole.supernet)
    with torch.no_grad():
        for name in scalars:
            dict(copied.named_parameters())[name].fill_(0.0)
        subnet = of_norm(space, "nbn_published")
        dead = copied.features(pixels(4), subnet)
        assert not torch.equal(dead, whole.supernet.features(pixels(4), subnet))
        save_supernet(copied, tmp_path / "saved", {})
        loaded, _ = load_supernet(tmp_path / "saved")
        assert torch.equal(loaded.features(pixels(4), subnet), dead)


def test_all_norms_train_together(images: ImageSet) -> None:
    trained = training(space_with(NAMES), images)
    before = copy.deepcopy(trained.supernet.state_dict())
    losses = [float(trained.step(0.2)) for _ in range(40)]
    assert all(np.isfinite(losses))
    assert np.mean(losses[-8:]) < np.mean(losses[:8])
    after = trained.supernet.state_dict()
    still = {name for name, tensor in after.items() if ".choices." in name and torch.equal(tensor, before[name])}
    # Twice three norms are drawn a step: in 40 steps all 16 come, and all of their parameters move.
    assert not still


def test_options_travel_with_the_space() -> None:
    space = space_with(("gn_all", "bn"))
    again = SearchSpace.model_validate(space.model_dump(mode="json"))
    assert again == space
    assert hash(again) == hash(space)
    assert space.model_dump(mode="json")["norm_options"] == {"gn_all": OPTIONS["gn_all"]}
    assert "norm_options" not in space_with(("bn", "gn")).model_dump(mode="json"), "hashed as before there were any"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"gn_all": {"name": "gn", "group_sise": 4}}, "group_size"),
        ({"gn_all": {"name": "gm"}}, "gn"),
        ({"gn_all": {"group_size": 4}}, "must have a name"),
        ({"other": {"name": "gn"}, "gn_all": {"name": "gn"}}, "listed among the norms"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(options: object, expected: str) -> None:
    one_C = torch.ones(1)
    with pytest.raises(InputError, match=expected):
        build_supernet(space_with(("gn_all",), norm_options=options), 1, 3, one_C, one_C, torch.Generator())


def test_small_batches_are_spoken_of_where_a_norm_minds() -> None:
    small, large = Recipe(batch_size=8), Recipe(batch_size=64)
    note = small_batch_note(space_with(("bn", "gn")), small, ONE_PROCESS)
    assert note is not None
    for name in ("gn", "ln", "in", "frn", "evonorm_s0", "Accumulation"):
        assert name in note
    assert small_batch_note(space_with(("bn", "gn")), large, ONE_PROCESS) is None
    assert small_batch_note(space_with(("bn",)), Recipe(batch_size=64, accumulation=8), ONE_PROCESS) is not None
    assert small_batch_note(space_with(("gn_all", "frn_all")), small, ONE_PROCESS) is None, "no batch norm at all"
    assert small_batch_note(space_with(("gn",)), small, ONE_PROCESS) is not None, "bn is still inside the blocks"


def test_small_batches_are_counted_as_far_as_a_norm_reaches() -> None:
    ranks = replace(ONE_PROCESS, rank=0, size=8)
    everywhere = {"sync_all": {"name": "sync_bn", "where": "all"}, "ghost_all": {"name": "ghost_bn", "where": "all"}}
    space = {name: space_with((name,), norm_options={name: everywhere[name]}) for name in everywhere}
    recipe = Recipe(batch_size=64)
    assert small_batch_note(space["sync_all"], recipe, ranks) is None, "64 images, of all processes"
    assert "8 images" in str(small_batch_note(space["ghost_all"], recipe, ranks))
    together = Recipe(batch_size=64, sync_bn=True)
    assert "8 images" in str(small_batch_note(space["ghost_all"], together, ranks))
    assert fewest_images(space["sync_all"], together) == 1
    assert fewest_images(space["ghost_all"], together) == 2, "no process shares its ghosts"


def test_scalars_of_unlucky_names_stay_apart_and_the_stem_shares(images: ImageSet) -> None:
    options = {
        "x": {"name": "nbn", "scale": "stage", "where": "all"},
        "stage1_x": {"name": "nbn", "scale": "shared", "start": "one", "where": "all"},
    }
    supernet = training(space_with(("x", "stage1_x"), norm_options=options), images).supernet
    starts = {name: float(tensor.detach()) for name, tensor in supernet.named_parameters() if tensor.ndim == 0}
    assert starts == {
        "norm_scales.stage1_x": pytest.approx(6**0.5), "norm_scales.stage2_x": pytest.approx(8**0.5),
        "norm_scales.all_stage1_x": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["training", "_modules", "keys", "not a word"])
def test_names_that_torch_needs_are_refused(name: str) -> None:
    one_C = torch.ones(1)
    with pytest.raises(InputError, match="no other use"):
        build_supernet(
            space_with((name,), norm_options={name: {"name": "gn"}}), 1, 3, one_C, one_C, torch.Generator()
        )  # fmt: skip


def test_a_stage_of_one_kind_has_no_other_norms() -> None:
    stage = Stage(depths=(1,), widths=(4,), norms=("gn_all",))
    space = space_with(("gn_all",)).model_copy(update={"stages": (stage,)})
    one_C = torch.ones(1)
    module = build_supernet(space, 1, 3, one_C, one_C, torch.Generator()).extract(space.largest(), None)
    kinds = {type(layer).__name__ for layer in module.modules() if "Norm" in type(layer).__name__}
    assert kinds == {"GroupNorm"}
