"""Layers that use their leading channels and the centre of their kernel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasimb.nn.elastic import ElasticConv2d, ElasticLinear, ElasticNorm
from nasimb.nn.estimators import Pooled
from nasimb.nn.moments import Moments, batch_moments, given
from nasimb.nn.norms.base import Norm, NormSpec
from nasimb.nn.norms.bn import BatchNormSpec
from nasimb.nn.norms.nbn import NormalisedBatchNormSpec


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def maps(channels: int, side: int = 7) -> Tensor:
    return torch.randn(3, channels, side, side, generator=seeded(1))


@pytest.mark.parametrize(
    ("in_width", "width", "kernel_size", "first", "end"), [(6, 8, 5, 0, 5), (3, 5, 3, 1, 4), (1, 2, 1, 2, 3)]
)
@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_uses_leading_channels_and_the_centre_of_its_kernel(
    in_width: int, width: int, kernel_size: int, first: int, end: int, stride: int
) -> None:
    conv, x_BCHW = ElasticConv2d(6, 8, 5, stride, seeded()), maps(in_width)
    by_hand = torch.stack([conv.weight[o, :in_width, first:end, first:end] for o in range(width)])
    expected = F.conv2d(x_BCHW, by_hand, stride=stride, padding=kernel_size // 2)
    found = conv(x_BCHW, width, kernel_size)
    torch.testing.assert_close(found, expected)
    assert found.shape[-1] == -(-7 // stride)
    plain = conv.extract(in_width, width, kernel_size)
    assert type(plain) is nn.Conv2d
    with torch.no_grad():
        assert torch.equal(plain(x_BCHW), conv(x_BCHW, width, kernel_size))


@pytest.mark.parametrize("in_width", [1, 4, 6])
def test_a_strided_1x1_convolution_of_few_channels_has_the_right_gradient(in_width: int) -> None:
    """With AVX2 alone, oneDNN 3.12 writes past a buffer in this gradient; in one step of many, it is seen."""
    conv = ElasticConv2d(6, 8, 5, 2, seeded())
    weight_OI = conv.weight.detach()[:, :in_width, 2, 2]
    for _ in range(50):
        x_BCHW = torch.randn(16, in_width, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
        found_x, found_weight = torch.autograd.grad(conv(x_BCHW, 8, 1).square().sum(), (x_BCHW, conv.weight))
        seen_BCHW = x_BCHW.detach()[:, :, ::2, ::2]
        output_BCHW = torch.einsum("bihw,oi->bohw", seen_BCHW, weight_OI)
        by_hand_OI = 2 * torch.einsum("bohw,bihw->oi", output_BCHW, seen_BCHW)
        torch.testing.assert_close(found_weight[:, :in_width, 2, 2], by_hand_OI, rtol=1e-4, atol=1e-3)
        by_hand_BCHW = 2 * torch.einsum("bohw,oi->bihw", output_BCHW, weight_OI)
        torch.testing.assert_close(found_x[:, :, ::2, ::2], by_hand_BCHW, rtol=1e-4, atol=1e-3)


def test_weights_outside_the_slice_get_no_gradient() -> None:
    conv = ElasticConv2d(6, 8, 5, 1, seeded())
    conv(maps(4), 3, 3).square().sum().backward()
    gradient = conv.weight.grad
    assert gradient is not None
    assert bool((gradient[:3, :4, 1:4, 1:4] != 0).all())
    assert torch.count_nonzero(gradient) == 3 * 4 * 3 * 3


def test_an_extracted_convolution_is_a_copy() -> None:
    conv = ElasticConv2d(2, 2, 3, 1, seeded())
    plain = conv.extract(2, 2, 3)
    before = plain.weight.clone()
    with torch.no_grad():
        conv.weight.zero_()
    assert torch.equal(plain.weight, before)


def test_a_linear_layer_uses_the_leading_features() -> None:
    linear = ElasticLinear(6, 4, seeded())
    x_BD = torch.randn(3, 5, generator=seeded(1))
    torch.testing.assert_close(linear(x_BD), x_BD @ linear.weight[:, :5].T + linear.bias)


def test_layers_draw_from_their_generator_alone() -> None:
    before = torch.get_rng_state()
    first, second = (ElasticConv2d(3, 4, 3, 1, seeded(5)) for _ in range(2))
    first.extract(2, 3, 1)
    ElasticLinear(3, 4, seeded(5))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(torch.get_rng_state(), before)


def test_each_norm_choice_learns_parameters_of_its_own() -> None:
    norm = ElasticNorm("key", 4, {"bn": BatchNormSpec(), "nbn": NormalisedBatchNormSpec()}, seeded())
    norm(maps(3), "nbn", batch_moments).square().sum().backward()
    touched = {name for name, parameter in norm.named_parameters() if parameter.grad is not None}
    assert touched == {"choices.nbn.scale", "choices.nbn.weight", "choices.nbn.bias"}


def test_a_norm_is_calibrated_under_its_key() -> None:
    norm = ElasticNorm("stage1.norm", 4, {"bn": BatchNormSpec()}, seeded())
    statistics: dict[str, Moments] = {}
    (recorded,) = norm.settle([maps(3)], "bn", statistics, lambda key: Pooled())
    assert list(statistics) == ["stage1.norm"]
    assert torch.equal(norm(maps(3), "bn", given(statistics)), recorded)
    assert torch.equal(norm.extract(3, "bn", statistics).eval()(maps(3)), recorded)


class Standardised(Norm):
    """Per-image normalisation, as a user would write it."""

    needs_calibration = False

    def forward(self, x_BCHW: Tensor, moments: Moments | None) -> Tensor:
        assert moments is None
        return F.group_norm(x_BCHW, 1)

    def extract(self, channels: int, moments: Moments | None) -> nn.Module:
        assert moments is None
        return nn.GroupNorm(1, channels, affine=False)


class StandardisedSpec(NormSpec):
    def build(self, max_channels: int, generator: torch.Generator) -> Norm:
        return Standardised()


def test_a_norm_over_single_images_is_never_calibrated() -> None:
    name = "my_lab.norms:Standardised"
    norm = ElasticNorm("key", 4, {name: StandardisedSpec(name=name)}, seeded())
    statistics: dict[str, Moments] = {}
    (found,) = norm.settle([maps(3)], name, statistics, lambda key: Pooled())
    assert statistics == {}
    torch.testing.assert_close(norm.extract(3, name, statistics)(maps(3)), found)
