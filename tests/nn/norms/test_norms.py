"""Every norm of the table keeps the contract, and normalised batch norm is what its equation says."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

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
    for name, buffer in fresh.named_buffers():
        if name.startswith("running"):
            assert torch.equal(buffer, torch.full((5,), float(name == "running_var"))), name
    fresh.load_state_dict(source.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh.eval()(images(5)), source.eval()(images(5)))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_building_and_extracting_leave_the_global_random_state_alone(spec: NormSpec) -> None:
    before = torch.get_rng_state()
    spec.build(MAX_CHANNELS, torch.Generator().manual_seed(0)).extract(4, None)
    assert torch.equal(torch.get_rng_state(), before)


def test_batch_norm_is_torchs() -> None:
    norm, x_BCHW = trained(BatchNormSpec()), images(9)
    weight_C, bias_C = (parameter[:9] for parameter in norm.parameters())
    expected = F.batch_norm(x_BCHW, None, None, weight_C, bias_C, training=True, eps=1e-5)
    assert torch.equal(norm(x_BCHW, None), expected)


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
