"""Normalised batch normalisation as published, options, and the plain layer."""

from __future__ import annotations

import copy
from math import sqrt

import pytest
import torch
from norm_cases import MAX_CHANNELS, maps, moved
from torch import Generator, Tensor, nn

from nasimb.nn.norms.nbn import NBN_PUBLISHED, NormalisedBatchNorm2d, NormalisedBatchNormSpec


def by_hand(x_BCHW: Tensor, gamma_C: Tensor, beta_C: Tensor, s: Tensor) -> Tensor:
    """The published formulas, in float64."""
    x_BCHW = x_BCHW.double()
    mean_C11 = x_BCHW.mean((0, 2, 3), keepdim=True)
    var_C11 = ((x_BCHW - mean_C11) ** 2).mean((0, 2, 3), keepdim=True)
    gamma_C = s * gamma_C / ((gamma_C**2).sum().sqrt() + 1e-6)
    beta_C = s * beta_C / ((beta_C**2).sum().sqrt() + 1e-6)
    return gamma_C[:, None, None] * (x_BCHW - mean_C11) / (var_C11 + 1e-5).sqrt() + beta_C[:, None, None]


def test_the_published_layers_share_one_scalar_and_follow_their_formulas() -> None:
    first, second = (moved(NBN_PUBLISHED.build(MAX_CHANNELS, Generator()), seed) for seed in (1, 2))
    scale = nn.Parameter(torch.tensor(1.3))
    for norm in (first, second):
        norm.borrow(scale)
    assert set(dict(first.named_parameters())) == {"weight", "bias"}
    x_BCHW = maps(9)
    pull_BCHW = torch.randn(x_BCHW.shape, generator=Generator().manual_seed(3))
    found_BCHW = second(first(x_BCHW, None), None)
    torch.autograd.backward((found_BCHW * pull_BCHW).sum())
    exact = [tensor.detach().double().requires_grad_() for norm in (first, second) for tensor in norm.parameters()]
    s, same_BCHW = scale.detach().double().requires_grad_(), x_BCHW.detach().double().requires_grad_()
    between_BCHW = by_hand(same_BCHW, exact[0][:9], exact[1][:9], s)
    expected_BCHW = by_hand(between_BCHW, exact[2][:9], exact[3][:9], s)
    torch.autograd.backward((expected_BCHW * pull_BCHW.double()).sum())
    torch.testing.assert_close(found_BCHW.double(), expected_BCHW, rtol=1e-4, atol=1e-5)
    tensors = [x_BCHW, scale, *first.parameters(), *second.parameters()]
    for tensor, other in zip(tensors, [same_BCHW, s, *exact], strict=True):
        assert tensor.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(tensor.grad.double(), other.grad, rtol=1e-3, atol=1e-4)


def test_the_published_start_is_closed_and_steep() -> None:
    """Weights 1 / sqrt(C), and a slope of 1e6 at beta = 0."""
    norm, free = NBN_PUBLISHED.build(MAX_CHANNELS, Generator()), NormalisedBatchNormSpec(start="one")
    weight_C, bias_C = norm.weight_and_bias(MAX_CHANNELS)
    torch.testing.assert_close(weight_C, torch.full((MAX_CHANNELS,), 1 / sqrt(MAX_CHANNELS)))
    assert torch.count_nonzero(bias_C) == 0
    slopes = []
    for layer in (norm, free.build(MAX_CHANNELS, Generator())):
        torch.autograd.backward(layer(maps(MAX_CHANNELS), None)[:, 0].sum())
        assert layer.bias.grad is not None
        slopes.append(float(layer.bias.grad[0]))
    assert slopes[0] / slopes[1] == pytest.approx(1e6, rel=1e-3)


@pytest.mark.parametrize(("start", "expected"), [("one", 1.0), ("width", sqrt(MAX_CHANNELS))])
def test_the_scalar_starts_as_told(start: str, expected: float) -> None:
    spec = NormalisedBatchNormSpec.model_validate({"start": start})
    assert spec.build(MAX_CHANNELS, Generator()).scale.item() == pytest.approx(expected)
    assert spec.plain(MAX_CHANNELS).scale.item() == pytest.approx(expected)


def test_a_copy_of_layers_that_share_shares_too() -> None:
    owner = nn.Module()
    owner.scale = nn.Parameter(torch.tensor(2.0))
    owner.layers = nn.ModuleList(NormalisedBatchNormSpec().build(4, Generator()) for _ in range(2))
    for layer in owner.layers:
        layer.borrow(owner.scale)
    twin = copy.deepcopy(owner)
    with torch.no_grad():
        twin.scale.fill_(5.0)
    for mine, other in zip(owner.layers, twin.layers, strict=True):
        assert float(mine.weight_and_bias(4)[0].detach().norm()) == pytest.approx(2.0, rel=1e-4)
        assert float(other.weight_and_bias(4)[0].detach().norm()) == pytest.approx(5.0, rel=1e-4)


@pytest.mark.parametrize("spec", [NormalisedBatchNormSpec(), NBN_PUBLISHED], ids=str)
def test_a_plain_layer_trains_copies_and_folds(spec: NormalisedBatchNormSpec) -> None:
    plain, ordinary = moved(spec.plain(6)), nn.BatchNorm2d(6)
    for seed in range(3):
        x_BCHW = maps(6, seed)
        torch.autograd.backward(plain(x_BCHW).square().sum())
        ordinary(x_BCHW)
    assert all(parameter.grad is not None for parameter in plain.parameters())
    torch.testing.assert_close(dict(plain.named_buffers()), dict(ordinary.named_buffers()))
    twin = copy.deepcopy(plain)
    other = spec.plain(6)
    other.load_state_dict(plain.state_dict())
    x_BCHW, folded = maps(6, 5).detach(), plain.eval().folded()
    expected_BCHW = plain(x_BCHW)
    assert type(folded) is nn.BatchNorm2d
    for same in (twin.eval(), other.eval(), folded):
        assert torch.equal(same(x_BCHW), expected_BCHW)
    assert set(plain.state_dict()) == {*ordinary.state_dict(), "scale"}


def test_a_plain_layer_is_the_elastic_one_in_training() -> None:
    spec = NormalisedBatchNormSpec(bias="normalised", start="one")
    elastic = moved(spec.build(MAX_CHANNELS, Generator().manual_seed(4)))
    plain: NormalisedBatchNorm2d = spec.plain(MAX_CHANNELS)
    plain.load_state_dict({**plain.state_dict(), **elastic.state_dict()})
    x_BCHW = maps(MAX_CHANNELS)
    torch.testing.assert_close(plain(x_BCHW), elastic(x_BCHW, None))
