"""The elastic residual network, and the plain networks that come out of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nasimb.errors import InputError
from nasimb.nn import moments
from nasimb.space import SearchSpace
from nasimb.supernet import build_supernet, plain_backbone
from nasimb.supernet.base import Supernet
from nasimb.supernet.calibrate import calibrate

NewSupernet = Callable[..., Supernet]
SHIPPED = {"digits-resnet": 1, "cifar-resnet": 3}
reuses_fixtures = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def pixels(count: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, height, width), generator=generator, dtype=torch.uint8)


@reuses_fixtures
@given(seed=st.integers(0, 10_000), height=st.integers(5, 12), width=st.integers(5, 12))
def test_an_extracted_subnet_is_bit_equal_whatever_the_size_of_the_images(
    new_supernet: NewSupernet, space: SearchSpace, seed: int, height: int, width: int
) -> None:
    supernet, subnet = new_supernet(seed), space.sample(np.random.default_rng(seed))
    statistics = calibrate(supernet, subnet, pixels(9, 1, height, width))
    images_BCHW = pixels(4, 1, height, width, seed=1)
    with torch.no_grad():
        features_BD = supernet.features(images_BCHW, subnet, moments.given(statistics))
        assert torch.equal(supernet.extract(subnet, statistics)(images_BCHW), features_BD)
    assert features_BD.shape == (4, supernet.feature_dim(subnet))
    assert features_BD.dtype == torch.float32


@pytest.mark.parametrize(("name", "channels"), SHIPPED.items())
def test_extraction_is_bit_equal_in_the_shipped_spaces(name: str, channels: int) -> None:
    space, rng = SearchSpace.load(name), np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    supernet = build_supernet(
        space, channels, 10, torch.full((channels,), 90.0), torch.full((channels,), 50.0), generator
    )
    images_BCHW = pixels(6, channels, space.max_resolution, space.max_resolution)
    for subnet in [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(12))]:
        statistics = calibrate(supernet, subnet, images_BCHW)
        with torch.no_grad():
            expected = supernet.features(images_BCHW, subnet, moments.given(statistics))
            assert torch.equal(supernet.extract(subnet, statistics)(images_BCHW), expected), subnet


def test_an_extracted_subnet_holds_nothing_but_plain_layers(new_supernet: NewSupernet, space: SearchSpace) -> None:
    module = new_supernet().extract(space.largest(), None)
    leaves = {type(layer) for layer in module.modules() if not list(layer.children())}
    assert leaves <= {nn.Conv2d, nn.BatchNorm2d, nn.Identity}
    assert not module.training


def reference_features(module: nn.Module, images_BCHW: Tensor, strides: list[int]) -> Tensor:
    """Basic residual blocks written out by hand over the state dict of a plain network."""
    w = module.state_dict()

    def norm(x: Tensor, name: str) -> Tensor:
        scale = w[f"{name}.weight"] / (w[f"{name}.running_var"] + 1e-5).sqrt()
        return (x - w[f"{name}.running_mean"][:, None, None]) * scale[:, None, None] + w[f"{name}.bias"][:, None, None]

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        return F.conv2d(x, w[f"{name}.weight"], stride=stride, padding=w[f"{name}.weight"].shape[-1] // 2)

    mean_C, std_C = w["pixel_mean_C"], w["pixel_std_C"]
    x = (images_BCHW - mean_C[:, None, None]) / std_C[:, None, None]
    x = norm(conv(x, "stem"), "stem_norm").relu()
    pooled = []
    for stage, stride in enumerate(strides):
        block = 0
        while f"stages.{stage}.{block}.conv1.weight" in w:
            name = f"stages.{stage}.{block}"
            y = norm(conv(x, f"{name}.conv1", stride if block == 0 else 1), f"{name}.norm1").relu()
            y = norm(conv(y, f"{name}.conv2"), f"{name}.norm2")
            if block == 0:
                x = norm(conv(x, f"{name}.shortcut.0", stride), f"{name}.shortcut.1")
            x, block = (x + y).relu(), block + 1
        pooled.append(x.mean((2, 3)))
    return torch.cat(pooled, dim=1)


def test_the_network_is_a_basic_residual_network(new_supernet: NewSupernet, space: SearchSpace) -> None:
    supernet, subnet = new_supernet(), space.subnet({**space.values(space.largest()), "taps": 2})
    images_BCHW = pixels(5, 1, 8, 8)
    statistics = calibrate(supernet, subnet, images_BCHW)
    plain = supernet.extract(subnet, statistics)
    with torch.no_grad():
        torch.testing.assert_close(plain(images_BCHW), reference_features(plain, images_BCHW, [1, 2]))


def test_taps_add_the_pooled_outputs_of_earlier_stages_in_front(new_supernet: NewSupernet, space: SearchSpace) -> None:
    supernet, values = new_supernet(), space.values(space.largest())
    one, two = (space.subnet({**values, "taps": taps}) for taps in (1, 2))
    with torch.no_grad():
        short_BD, long_BD = (supernet.features(pixels(4, 1, 8, 8), subnet) for subnet in (one, two))
    assert short_BD.shape[1] == 8
    assert long_BD.shape[1] == 6 + 8
    assert torch.equal(long_BD[:, 6:], short_BD)


def test_the_classifier_sees_the_last_stage_alone(new_supernet: NewSupernet, space: SearchSpace) -> None:
    supernet, values = new_supernet(), space.values(space.smallest())
    images_BCHW = pixels(4, 1, 8, 8)
    with torch.no_grad():
        one, two = (supernet(images_BCHW, space.subnet({**values, "taps": taps})) for taps in (1, 2))
        last_BD = supernet.features(images_BCHW, space.subnet({**values, "taps": 1}))
        weight_KD, bias_K = supernet.classifier.weight, supernet.classifier.bias  # type: ignore[union-attr]
        torch.testing.assert_close(one, last_BD @ weight_KD[:, :6].T + bias_K)  # type: ignore[index, operator]
    assert torch.equal(one, two)


def test_a_forward_pass_changes_nothing(new_supernet: NewSupernet, space: SearchSpace) -> None:
    supernet = new_supernet()
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    subnet = space.largest()
    statistics = calibrate(supernet, subnet, pixels(8, 1, 8, 8))
    supernet.features(pixels(4, 1, 8, 8), subnet, moments.given(statistics))
    supernet.train()(pixels(4, 1, 8, 8), space.smallest())
    after = supernet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_statistics_belong_to_the_caller_not_the_batch(new_supernet: NewSupernet, space: SearchSpace) -> None:
    """With given statistics an image's features do not depend on its neighbours."""
    supernet, subnet = new_supernet(), space.largest()
    statistics, images_BCHW = calibrate(supernet, subnet, pixels(8, 1, 8, 8)), pixels(6, 1, 8, 8, seed=1)
    with torch.no_grad():
        together = supernet.features(images_BCHW, subnet, moments.given(statistics))
        alone = supernet.features(images_BCHW[2:3], subnet, moments.given(statistics))
    torch.testing.assert_close(together[2:3], alone)


def test_images_are_standardised_and_resized(new_supernet: NewSupernet, space: SearchSpace) -> None:
    supernet = new_supernet()
    subnet = space.subnet({**space.values(space.largest()), "resolution": 7})
    images_BCHW = pixels(4, 1, 16, 12)
    resized = F.interpolate(images_BCHW.float(), (7, 7), mode="bilinear", antialias=True)
    with torch.no_grad():
        torch.testing.assert_close(supernet.features(images_BCHW, subnet), supernet.features(resized, subnet))


def test_images_of_other_channels_are_refused_in_a_sentence(new_supernet: NewSupernet, space: SearchSpace) -> None:
    with pytest.raises(InputError, match=r"images must have the shape \[B, 1, H, W\]; got \[4, 3, 8, 8\]"):
        new_supernet().features(pixels(4, 3, 8, 8), space.smallest())


def test_weights_follow_from_the_generator_alone(space: SearchSpace) -> None:
    before = torch.get_rng_state()
    one_C = torch.ones(1)
    first, same, other = (
        build_supernet(space, 1, 3, one_C, one_C, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), same.parameters(), strict=True))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_plain_backbone_takes_the_state_of_an_extracted_one(new_supernet: NewSupernet, space: SearchSpace) -> None:
    supernet, subnet = new_supernet(), space.sample(np.random.default_rng(3))
    extracted = supernet.extract(subnet, calibrate(supernet, subnet, pixels(8, 1, 8, 8)))
    rebuilt = plain_backbone(space, subnet, in_channels=1)
    rebuilt.load_state_dict(extracted.state_dict())
    with torch.no_grad():
        assert torch.equal(rebuilt(pixels(4, 1, 9, 9)), extracted(pixels(4, 1, 9, 9)))


def test_unknown_backbones_and_norms_are_refused_in_a_sentence(space: SearchSpace) -> None:
    one_C, generator = torch.ones(1), torch.Generator()
    with pytest.raises(InputError, match="Did you mean 'resnet'"):
        build_supernet(space.model_copy(update={"backbone": "resnt"}), 1, 3, one_C, one_C, generator)
    stage = space.stages[0].model_copy(update={"norms": ("bm",)})
    with pytest.raises(InputError, match=r"norm must be one of bn, evonorm_b0, .*, nbn, sync_bn"):
        build_supernet(space.model_copy(update={"stages": (stage,)}), 1, 3, one_C, one_C, generator)
