"""Every norm of the table keeps the contract, and normalised batch norm is what its equation says."""

from __future__ import annotations

import copy
from math import sqrt
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from nasimb.errors import InputError
from nasimb.nn.moments import moments
from nasimb.nn.norms import NORMS
from nasimb.nn.norms.base import Norm, NormSpec
from nasimb.nn.norms.bn import BatchNormSpec
from nasimb.nn.norms.nbn import NormalisedBatchNorm, NormalisedBatchNormSpec

MAX_CHANNELS = 12
SPECS = [NORMS[name].model_validate({}) for name in NORMS] + [NormalisedBatchNormSpec(bias="normalised")]


def images(channels: int, seed: int = 0) -> Tensor:
    return torch.randn(6, channels, 5, 4, generator=torch.Generator().manual_seed(seed)) * 3 + 1


def trained(spec: NormSpec, seed: int = 1) -> Norm:
    """A norm whose parameters are no longer those it starts with."""
    generator = torch.Generator().manual_seed(seed)
    norm = spec.build(MAX_CHANNELS, generator)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return norm


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("channels", range(1, MAX_CHANNELS + 1))
def test_an_extracted_norm_is_bit_equal_at_every_width(spec: NormSpec, channels: int) -> None:
    norm, x_BCHW = trained(spec), images(channels)
    found = moments(images(channels, seed=2)) if norm.needs_calibration else None
    with torch.no_grad():
        assert torch.equal(norm.extract(channels, found).eval()(x_BCHW), norm(x_BCHW, found))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_batch_itself_gives_what_its_moments_give(spec: NormSpec) -> None:
    norm, x_BCHW = trained(spec), images(7)
    torch.testing.assert_close(norm(x_BCHW, None), norm(x_BCHW, moments(x_BCHW)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_fresh_extracted_norm_waits_for_a_state_dict(spec: NormSpec) -> None:
    norm = trained(spec)
    source, fresh = norm.extract(5, moments(images(5))), norm.extract(5, None)
    buffers = dict(fresh.named_buffers())
    assert ("running_var" in buffers) == norm.needs_calibration
    assert torch.equal(buffers.get("running_mean", torch.zeros(5)), torch.zeros(5))
    assert torch.equal(buffers.get("running_var", torch.ones(5)), torch.ones(5))
    fresh.load_state_dict(source.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh.eval()(images(5)), source.eval()(images(5)))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_building_and_extracting_leave_the_global_random_state_alone(spec: NormSpec) -> None:
    before = torch.get_rng_state()
    spec.build(MAX_CHANNELS, torch.Generator().manual_seed(0)).extract(4, None)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", NORMS)
def test_the_table_tells_what_each_is(name: str) -> None:
    spec = NORMS[name].model_validate({})
    norm, plain = spec.build(MAX_CHANNELS, torch.Generator()), spec.plain(6)
    assert spec.name == name
    assert norm.needs_calibration == spec.over_batches == (name not in {"gn", "ln", "in", "frn", "evonorm_s0"})
    assert norm.activates == (name in {"frn", "evonorm_s0", "evonorm_b0"})
    parameters = sum(parameter.numel() for parameter in norm.extract(6, None).parameters())
    assert parameters == 6 * spec.parameters_per_channel
    assert all(parameter.requires_grad for parameter in plain.parameters())
    assert not spec.everywhere
    assert name == "bn" or NORMS[name].model_validate({"where": "all"}).everywhere


@pytest.mark.parametrize("name", NORMS)
def test_options_out_of_range_are_refused(name: str) -> None:
    for options in ({"eps": 0.0}, {"momentum": 0.0}, {"momentum": 1.5}, {"group_size": 0}, {"ghost_batch": 1}):
        if next(iter(options)) in NORMS[name].model_fields:
            with pytest.raises(ValidationError):
                NORMS[name].model_validate(options)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("kind", ["batch", "given", "plain"])
def test_bfloat16_maps_have_float32_statistics(name: str, kind: str) -> None:
    """Far from zero, where bfloat16 sums would lose the deviation altogether."""
    spec = NORMS[name].model_validate({})
    x_BCHW = (images(8) + 40).bfloat16()

    def normalised(maps_BCHW: Tensor) -> Tensor:
        if kind == "plain":
            return cast(Tensor, spec.plain(8)(maps_BCHW))
        norm = spec.build(8, torch.Generator())
        return norm(maps_BCHW, moments(maps_BCHW) if kind == "given" and norm.needs_calibration else None)

    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = normalised(x_BCHW)
    with torch.no_grad():
        expected = normalised(x_BCHW.float())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=2**-8, atol=2**-8)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@given(channels=st.integers(1, MAX_CHANNELS), height=st.integers(1, 5), width=st.integers(1, 5))
def test_a_leading_width_is_a_norm_of_that_width(spec: NormSpec, channels: int, height: int, width: int) -> None:
    """Whatever lies in the channels that are not used."""
    wide, generator = trained(spec), torch.Generator().manual_seed(0)
    narrow = spec.build(channels, generator)
    with torch.no_grad():
        for own, other in zip(narrow.parameters(), wide.parameters(), strict=True):
            own.copy_(other[:channels] if other.ndim else other)
        x_BCHW = torch.randn(4, channels, height, width, generator=generator)
        assert torch.equal(narrow(x_BCHW, None), wide(x_BCHW, None))


@pytest.mark.parametrize("name", ["evonorm_s0", "evonorm_b0", "frn"])
def test_other_things_than_maps_are_refused(name: str) -> None:
    """Over two of three axes they would be another norm."""
    with pytest.raises(InputError, match="maps"):
        NORMS[name].model_validate({}).plain(4)(torch.randn(2, 4, 6, 6, 6))


@pytest.mark.parametrize("name", NORMS)
def test_a_plain_layer_can_be_copied_after_a_backward_pass(name: str) -> None:
    plain, x_BCHW = NORMS[name].model_validate({}).plain(6), images(6)
    torch.autograd.backward(plain(x_BCHW).square().sum())
    twin = copy.deepcopy(plain).eval()
    assert torch.equal(twin(x_BCHW), plain.eval()(x_BCHW))


@pytest.mark.parametrize("channels", [1, 5, 12])
@pytest.mark.parametrize("bias", ["free", "normalised"])
def test_normalised_batch_norm_follows_its_equation(channels: int, bias: str) -> None:
    norm, x_BCHW = trained(NormalisedBatchNormSpec(bias=bias)), images(channels)  # type: ignore[arg-type]
    assert isinstance(norm, NormalisedBatchNorm)
    s, gamma, beta = (p.detach().numpy().astype(np.float64) for p in (norm.scale, norm.weight, norm.bias))
    gamma, beta = gamma[:channels], beta[:channels]
    gamma_eff = s * gamma / (np.sqrt((gamma**2).sum()) + 1e-6)
    beta_eff = s * beta / (np.sqrt((beta**2).sum()) + 1e-6) if bias == "normalised" else beta
    x = x_BCHW.numpy().astype(np.float64)
    standardised = (x - x.mean((0, 2, 3), keepdims=True)) / np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-5)
    expected = gamma_eff[:, None, None] * standardised + beta_eff[:, None, None]
    np.testing.assert_allclose(norm(x_BCHW, None).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


@given(st.integers(1, MAX_CHANNELS), st.floats(0.01, 100), st.integers(0, 100))
def test_the_effective_weight_has_the_learned_length_whatever_the_channels_do(
    channels: int, size: float, seed: int
) -> None:
    norm = trained(NormalisedBatchNormSpec(), seed)
    assert isinstance(norm, NormalisedBatchNorm)
    with torch.no_grad():
        norm.weight.mul_(size)
        weight_C, _ = norm.weight_and_bias(channels)
    # Exact but for the 1e-6 in the denominator, which shortens small vectors a little.
    length = float(norm.weight[:channels].detach().norm())
    assert float(weight_C.norm()) == pytest.approx(abs(norm.scale.item()) * length / (length + 1e-6), rel=1e-5)


def test_normalised_batch_norm_starts_as_batch_norm_at_full_width() -> None:
    x_BCHW = images(MAX_CHANNELS)
    generator = torch.Generator().manual_seed(0)
    found = NormalisedBatchNormSpec().build(MAX_CHANNELS, generator)(x_BCHW, None)
    torch.testing.assert_close(found, BatchNormSpec().build(MAX_CHANNELS, generator)(x_BCHW, None))


def steepest_slope_of_the_bias(norm: NormalisedBatchNorm) -> float:
    """Largest singular value of d bias_effective / d beta at the starting point."""

    def effective(beta: Tensor) -> Tensor:
        return torch.func.functional_call(_Effective(norm), {"norm.bias": beta}, ())

    jacobian = torch.func.jacrev(effective)(norm.bias.detach())
    return torch.linalg.matrix_norm(jacobian, 2).item()


class _Effective(nn.Module):
    def __init__(self, norm: NormalisedBatchNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self) -> Tensor:
        return self.norm.weight_and_bias(MAX_CHANNELS)[1]


def test_no_bias_starts_in_the_trap_of_the_equation() -> None:
    """At beta = 0 the normalised bias has the slope s / 1e-6; both options start where it is gentle."""
    generator = torch.Generator().manual_seed(0)
    free, normalised = (
        NormalisedBatchNormSpec(bias=bias).build(MAX_CHANNELS, generator)  # type: ignore[arg-type]
        for bias in ("free", "normalised")
    )
    assert steepest_slope_of_the_bias(free) == pytest.approx(1.0)
    assert steepest_slope_of_the_bias(normalised) == pytest.approx(sqrt(MAX_CHANNELS), rel=1e-4)
    assert float(normalised.bias.detach().norm()) == pytest.approx(1.0)
