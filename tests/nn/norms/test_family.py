"""Each norm against another implementation, forward and gradient, at a leading width of a wider layer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm.layers
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from nasimb.errors import InputError
from nasimb.nn.moments import Moments, moments
from nasimb.nn.norms import NORMS
from nasimb.nn.norms.base import Norm
from nasimb.nn.norms.ghost_bn import GhostBatchNormSpec, ghost_sizes
from nasimb.nn.norms.groups import group_count
from nasimb.nn.norms.nbn import NBN_PUBLISHED, NormalisedBatchNormSpec

MAX_CHANNELS, CHANNELS = 24, 16


def images(channels: int = CHANNELS, seed: int = 0) -> Tensor:
    return torch.randn(6, channels, 5, 4, generator=torch.Generator().manual_seed(seed)) * 2 + 0.7


def trained(name: str) -> Norm:
    generator = torch.Generator().manual_seed(1)
    norm = NORMS[name].model_validate({}).build(MAX_CHANNELS, generator)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return norm


def oracle(layer: nn.Module, norm: Norm, **renamed: str) -> nn.Module:
    """The other implementation with the leading parameters of `norm`."""
    own = dict(norm.named_parameters())
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.copy_(own[renamed.get(name, name)][:CHANNELS].reshape(parameter.shape))
    return layer.train()


ORACLES: dict[str, Callable[[Norm], nn.Module]] = {
    "bn": lambda norm: oracle(nn.BatchNorm2d(CHANNELS), norm),
    "sync_bn": lambda norm: oracle(nn.BatchNorm2d(CHANNELS), norm),
    "ghost_bn": lambda norm: oracle(nn.BatchNorm2d(CHANNELS), norm),
    "gn": lambda norm: oracle(nn.GroupNorm(2, CHANNELS), norm),
    "ln": lambda norm: oracle(nn.GroupNorm(1, CHANNELS), norm),
    "in": lambda norm: oracle(nn.InstanceNorm2d(CHANNELS, affine=True), norm),
    "evonorm_s0": lambda norm: oracle(timm.layers.EvoNorm2dS0(CHANNELS, groups=2), norm),
    "evonorm_b0": lambda norm: oracle(timm.layers.EvoNorm2dB0(CHANNELS, eps=1e-5), norm),
    "frn": lambda norm: oracle(timm.layers.FilterResponseNormTlu2d(CHANNELS, rms=False), norm),
}


@pytest.mark.parametrize("name", ORACLES)
def test_forward_and_gradients_are_those_of_others(name: str) -> None:
    norm = trained(name)
    other = ORACLES[name](norm)
    ours_BCHW, theirs_BCHW = images().requires_grad_(), images().requires_grad_()
    y_BCHW, expected_BCHW = norm(ours_BCHW, None), other(theirs_BCHW)
    assert_close(y_BCHW, expected_BCHW, rtol=1e-4, atol=1e-5)
    slope_BCHW = images(seed=3)
    y_BCHW.backward(slope_BCHW)
    expected_BCHW.backward(slope_BCHW)
    assert_close(ours_BCHW.grad, theirs_BCHW.grad, rtol=1e-3, atol=1e-4)
    own = dict(norm.named_parameters())
    for parameter_name, parameter in other.named_parameters():
        grad = own[parameter_name].grad
        assert parameter.grad is not None
        assert grad is not None
        assert_close(grad[:CHANNELS], parameter.grad.reshape(-1), rtol=1e-3, atol=1e-3)
        assert not grad[CHANNELS:].any(), "channels that are not in use are not moved"


def test_every_norm_has_an_oracle() -> None:
    assert set(NORMS) == {*ORACLES, "nbn"}


@pytest.mark.parametrize("name", NORMS)
def test_low_precision_maps_have_statistics_in_float32(name: str) -> None:
    norm = trained(name)
    # Far from 0: bfloat16 sums would lose the variance altogether.
    x_BCHW = (images() * 0.5 + 40).bfloat16()
    y_BCHW = norm(x_BCHW, None)
    assert y_BCHW.dtype == torch.bfloat16
    assert_close(y_BCHW.float(), norm(x_BCHW.float(), None), rtol=0.02, atol=0.05)


@pytest.mark.parametrize("name", NORMS)
def test_plain_layers_train_and_save_and_copy(name: str) -> None:
    layer = NORMS[name].model_validate({}).plain(CHANNELS)
    optimiser = torch.optim.SGD(layer.parameters(), 0.1)
    layer(images()).square().sum().backward()
    optimiser.step()
    fresh = NORMS[name].model_validate({}).plain(CHANNELS)
    fresh.load_state_dict(layer.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh.eval()(images(seed=2)), layer.eval()(images(seed=2)))


@pytest.mark.parametrize("name", NORMS)
def test_plain_layers_of_one_batch_give_what_elastic_ones_give(name: str) -> None:
    spec = NORMS[name].model_validate({})
    elastic, plain = spec.build(CHANNELS, torch.Generator().manual_seed(0)), spec.plain(CHANNELS)
    assert_close(plain.train()(images()), elastic(images(), None), rtol=1e-4, atol=1e-5)


def test_ghost_batches_are_normalised_by_themselves() -> None:
    norm, x_BCHW = GhostBatchNormSpec(ghost_batch=2).build(CHANNELS, torch.Generator()), images()
    expected = torch.cat([F.batch_norm(part, None, None, training=True) for part in x_BCHW.split(2)])
    assert_close(norm(x_BCHW, None), expected)


@given(st.integers(1, 300), st.integers(2, 40))
def test_ghost_batches_hold_all_images_and_never_one_alone(images: int, ghost_batch: int) -> None:
    sizes = ghost_sizes(images, ghost_batch)
    assert sum(sizes) == images
    assert min(sizes) >= min(images, 2)
    assert max(sizes) <= ghost_batch + 1


@given(st.integers(1, 512), st.integers(1, 64))
def test_groups_divide_every_width(channels: int, group_size: int) -> None:
    groups = group_count(channels, group_size)
    assert channels % groups == 0
    if channels % group_size == 0:
        assert groups == channels // group_size


def test_evonorm_b0_takes_the_variance_alone() -> None:
    norm, x_BCHW, found = trained("evonorm_b0"), images(), moments(images(seed=5))
    moved = Moments(found.mean_C + 9, found.var_C)
    assert torch.equal(norm(x_BCHW, found), norm(x_BCHW, moved))
    other = ORACLES["evonorm_b0"](norm).eval()
    other.running_var.copy_(found.var_C)  # type: ignore[operator,union-attr]
    assert_close(norm(x_BCHW, found), other(x_BCHW), rtol=1e-4, atol=1e-5)


def published(x_BCHW: Tensor, gamma_C: Tensor, beta_C: Tensor, s: Tensor) -> Tensor:
    """NBN by hand."""
    mean_C, var_C = x_BCHW.mean((0, 2, 3)), x_BCHW.var((0, 2, 3), correction=0)
    unit_BCHW = (x_BCHW - mean_C[:, None, None]) / (var_C[:, None, None] + 1e-5).sqrt()
    gamma_C = s * gamma_C / (gamma_C.square().sum().sqrt() + 1e-6)
    # The norm of a zero vector has the slope 0, as torch's has.
    beta_C = s * beta_C / (torch.linalg.vector_norm(beta_C) + 1e-6)
    return gamma_C[:, None, None] * unit_BCHW + beta_C[:, None, None]


def test_nbn_as_published_starts_closed_and_falls_into_the_trap() -> None:
    norm = NBN_PUBLISHED.build(CHANNELS, torch.Generator().manual_seed(0))
    gamma_C, beta_C, s = torch.ones(CHANNELS), torch.zeros(CHANNELS).requires_grad_(), torch.tensor(1.0)
    x_BCHW, slope_BCHW = images(), images(seed=4)
    assert_close(norm(x_BCHW, None), published(x_BCHW, gamma_C, beta_C.detach(), s), rtol=1e-4, atol=1e-5)
    assert norm.weight_and_bias(CHANNELS)[0].tolist() == pytest.approx([CHANNELS**-0.5] * CHANNELS, rel=1e-4)
    norm(x_BCHW, None).backward(slope_BCHW)
    assert norm.bias.grad is not None
    assert_close(norm.bias.grad, 1e6 * slope_BCHW.sum((0, 2, 3)), rtol=1e-3, atol=1.0)


@pytest.mark.parametrize("bias", ["free", "normalised"])
def test_a_plain_nbn_is_the_formula_with_its_gradients(bias: str) -> None:
    layer = NormalisedBatchNormSpec(bias=bias).plain(CHANNELS)  # type: ignore[arg-type]
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.2, 2, CHANNELS))
        layer.bias.copy_(torch.linspace(-1, 1, CHANNELS))
    copies = [parameter.detach().clone().requires_grad_() for parameter in (layer.weight, layer.bias, layer.scale)]
    gamma_C, beta_C, s = copies
    x_BCHW = images()
    if bias == "free":
        expected_BCHW = published(x_BCHW, gamma_C, torch.zeros(CHANNELS), s) + beta_C[:, None, None]
    else:
        expected_BCHW = published(x_BCHW, gamma_C, beta_C, s)
    y_BCHW = layer(x_BCHW)
    assert_close(y_BCHW, expected_BCHW, rtol=1e-4, atol=1e-4)
    y_BCHW.square().sum().backward()
    expected_BCHW.square().sum().backward()
    for ours, theirs in zip((layer.weight, layer.bias, layer.scale), copies, strict=True):
        assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", ["evonorm_s0", "evonorm_b0", "frn"])
def test_other_things_than_maps_are_refused(name: str) -> None:
    layer = NORMS[name].model_validate({}).plain(4)
    with pytest.raises(InputError, match="maps"):
        layer(torch.randn(2, 4, 6, 6, 6))
