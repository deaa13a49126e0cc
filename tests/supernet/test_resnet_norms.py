"""A super-network with every norm in both places, and scalars that layers share."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nasimb.data.base import ImageSet
from nasimb.errors import InputError
from nasimb.nn import moments
from nasimb.nn.norms import NORMS
from nasimb.space import SearchSpace, Subnet
from nasimb.supernet import build_supernet, plain_backbone
from nasimb.supernet.base import Supernet
from nasimb.supernet.calibrate import Calibration, calibrate
from nasimb.supernet.checkpoint import load_supernet, save_supernet
from nasimb.supernet.recipe import Recipe
from nasimb.supernet.train import Training
from nasimb.supernet.tree import SubnetTree

NewSupernet = Callable[..., Supernet]
EVERYWHERE = {f"{name}_all": {"name": name, "where": "all"} for name in NORMS if name != "bn"}
PUBLISHED = {"name": "nbn", "bias": "normalised", "scale": "shared", "start": "one", "bias_start": "zero"}
BY_STAGE = {"name": "nbn", "scale": "stage"}


def space_of(*norms: str, **norm_options: dict[str, Any]) -> SearchSpace:
    stages = [
        {"depths": [1, 2], "widths": [4, 6], "norms": norms},
        {"depths": [1, 2], "widths": [8, 12], "norms": norms, "stride": 2},
    ]
    values = {"name": "norms", "backbone": "resnet", "stem_width": 4, "resolutions": [7, 8], "stages": stages}
    return SearchSpace.model_validate({**values, "taps": [1, 2], "norm_options": norm_options})


ALL = space_of(
    *NORMS, *EVERYWHERE, "published", "by_stage", published=PUBLISHED, by_stage=BY_STAGE, **EVERYWHERE
)  # fmt: skip
FREE = space_of("frn_all", "gn_all", frn_all=EVERYWHERE["frn_all"], gn_all=EVERYWHERE["gn_all"])


def pixels(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)


def subnets_of(space: SearchSpace) -> list[Subnet]:
    """One for every norm, the other choices at random."""
    rng, found = np.random.default_rng(0), []
    for norm in space.stages[0].norms:
        values = space.values(space.sample(rng))
        other = space.stages[1].norms[rng.integers(len(space.stages[1].norms))]
        found.append(space.subnet({**values, "stage1.norm": other, "stage2.norm": norm, "taps": 2}))
    return found


@pytest.mark.parametrize("space", [ALL, FREE], ids=["all", "free"])
def test_elastic_extracted_folded_and_in_a_tree_are_the_same(new_supernet: NewSupernet, space: SearchSpace) -> None:
    supernet, subnets = new_supernet(space=space).eval(), subnets_of(space)
    calibration, images_BCHW = pixels(12), pixels(5, seed=1)
    together = SubnetTree(supernet, [("source", subnet) for subnet in subnets], {"source": Calibration.on(calibration)})
    features = together.features(images_BCHW)
    for member, subnet in enumerate(subnets):
        statistics = calibrate(supernet, subnet, calibration)
        with torch.no_grad():
            expected_BD = supernet.features(images_BCHW, subnet, moments.given(statistics))
            extracted = supernet.extract(subnet, statistics)
            assert torch.equal(extracted(images_BCHW), expected_BD), subnet
            rebuilt = plain_backbone(space, subnet, in_channels=1)
            rebuilt.load_state_dict(extracted.state_dict())
            assert torch.equal(rebuilt(images_BCHW), expected_BD), subnet
        alone = SubnetTree(supernet, [("source", subnet)], {"source": Calibration.on(calibration)})
        assert torch.equal(features[member], alone.features(images_BCHW)[0]), subnet
        torch.testing.assert_close(features[member], expected_BD, rtol=1e-3, atol=1e-3)


def test_half_precision_trees_stay_near(new_supernet: NewSupernet) -> None:
    supernet, subnets = new_supernet(space=ALL).eval(), subnets_of(ALL)
    requests, images = [("source", subnet) for subnet in subnets], {"source": Calibration.on(pixels(12))}
    full = SubnetTree(supernet, requests, images).features(pixels(5, seed=1))
    half = SubnetTree(supernet, requests, images, dtype=torch.bfloat16).features(pixels(5, seed=1))
    for member, subnet in enumerate(subnets):
        error = float((half[member] - full[member]).norm() / full[member].norm())
        assert error < 0.05, subnet


def test_a_network_of_norms_over_single_images_has_no_statistics(new_supernet: NewSupernet) -> None:
    supernet = new_supernet(space=FREE)
    for subnet in subnets_of(FREE):
        assert calibrate(supernet, subnet, pixels(6)) == {}
        plain = supernet.extract(subnet, {})
        assert not any(isinstance(layer, nn.BatchNorm2d) for layer in plain.modules())


def test_no_relu_follows_a_norm_that_has_a_nonlinearity_of_its_own(new_supernet: NewSupernet) -> None:
    """The thresholds of FRN are let below 0: a relu after it would cut them off."""
    supernet = new_supernet(space=FREE)
    subnet = FREE.subnet({**FREE.values(FREE.smallest()), "stage1.norm": "frn_all"})
    plain = supernet.extract(subnet, {})
    inside: list[Tensor] = []
    first = next(layer for name, layer in plain.named_modules() if name == "stages.0.0.conv2")
    first.register_forward_hook(lambda module, given, result: inside.append(given[0]))
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if name.endswith("tau"):
                parameter.fill_(-0.5)
        plain(pixels(4))
    assert float(inside[0].min()) == pytest.approx(-0.5)


def test_shared_scalars_are_one_parameter_each(new_supernet: NewSupernet) -> None:
    supernet = new_supernet(space=ALL)
    names = {name for name, _ in supernet.named_parameters() if name.startswith("norm_scales")}
    assert names == {"norm_scales.all_published", "norm_scales.stage1_by_stage", "norm_scales.stage2_by_stage"}
    assert not any("published.scale" in name or "by_stage.scale" in name for name in supernet.state_dict())
    generator = torch.Generator().manual_seed(0)
    one_C = torch.ones(1)
    fresh = build_supernet(ALL, 1, 3, one_C, one_C, generator).state_dict()
    assert fresh["norm_scales.all_published"].item() == 1.0
    assert fresh["norm_scales.stage2_by_stage"].item() == pytest.approx(12**0.5)
    values = ALL.values(ALL.largest()) | {"stage1.norm": "published", "stage2.norm": "published"}
    supernet(pixels(4), ALL.subnet(values)).square().sum().backward()
    gradients = {name: parameter.grad is not None for name, parameter in supernet.named_parameters() if name in names}
    assert [name for name, has in gradients.items() if has] == ["norm_scales.all_published"]


def test_shared_scalars_survive_copies_files_and_resumed_training(
    new_supernet: NewSupernet, images: ImageSet, tmp_path: Path
) -> None:
    space = space_of("published", "by_stage", published=PUBLISHED, by_stage=BY_STAGE)
    subnet = space.largest()

    def started(seed: int) -> Training:
        recipe = Recipe(batch_size=8, precision="float32", ema_decay=0.9, learning_rate=0.05)
        return Training(new_supernet(seed, space=space), images, recipe, seed=0, device=torch.device("cpu"), flip=False)

    undisturbed, stopped = started(0), started(0)
    for number in range(4):
        undisturbed.step(number / 4)
    for number in range(2):
        stopped.step(number / 4)
    stopped.save(tmp_path)
    resumed = started(7)
    resumed.resume(tmp_path)
    for number in range(2, 4):
        resumed.step(number / 4)
    for made in (lambda one: one.supernet, lambda one: one.finished()):
        expected, found = made(undisturbed).state_dict(), made(resumed).state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    before = started(0).supernet.state_dict()["norm_scales.all_published"]
    finished = undisturbed.finished()
    assert finished.state_dict()["norm_scales.all_published"] != before
    save_supernet(finished, tmp_path / "saved", {})
    loaded, _ = load_supernet(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(loaded(pixels(4), subnet), finished(pixels(4), subnet))
        twin = copy.deepcopy(finished)
        twin.norm_scales["all_published"].mul_(3)  # type: ignore[union-attr, operator]
        assert not torch.equal(twin(pixels(4), subnet), finished(pixels(4), subnet))
        assert torch.equal(loaded(pixels(4), subnet), finished(pixels(4), subnet))


def test_scalars_of_unlucky_names_stay_apart_and_the_stem_shares(new_supernet: NewSupernet) -> None:
    by_stage, shared = {**BY_STAGE, "where": "all"}, {**PUBLISHED, "where": "all"}
    space = space_of("x", "stage1_x", x=by_stage, stage1_x=shared)
    one_C = torch.ones(1)
    supernet = build_supernet(space, 1, 3, one_C, one_C, torch.Generator())
    starts = {name: float(tensor.detach()) for name, tensor in supernet.named_parameters() if tensor.ndim == 0}
    assert starts == {
        "norm_scales.stage1_x": pytest.approx(6**0.5), "norm_scales.stage2_x": pytest.approx(12**0.5),
        "norm_scales.all_stage1_x": 1.0,
    }  # fmt: skip


def test_training_moves_every_norm(new_supernet: NewSupernet) -> None:
    supernet = new_supernet(space=ALL)
    for subnet in subnets_of(ALL):
        supernet(pixels(4), subnet).square().sum().backward()
    own = [name for name, parameter in supernet.named_parameters() if parameter.grad is None and "stages.1.0" in name]
    assert [name for name in own if "norm2" in name or "shortcut_norm" in name] == []


def test_a_supernet_of_a_space_without_options_is_named_as_before(
    new_supernet: NewSupernet, space: SearchSpace
) -> None:
    names = {name.split("choices.")[-1] for name in new_supernet().state_dict() if "choices." in name}
    assert names == {"bn.weight", "bn.bias", "nbn.weight", "nbn.bias", "nbn.scale"}
    assert "norm_options" not in space.model_dump_json()


def test_an_unknown_option_is_refused_when_the_supernet_is_built() -> None:
    one_C = torch.ones(1)
    with pytest.raises(InputError, match="Did you mean 'bias'"):
        build_supernet(
            space_of("mine_1", mine_1={"name": "nbn", "bais": "free"}), 1, 3, one_C, one_C, torch.Generator()
        )
