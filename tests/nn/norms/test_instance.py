"""Instance normalisation is torch's, but for maps of one pixel."""

from __future__ import annotations

import pytest
import torch
from norm_cases import MAX_CHANNELS, assert_same_layer, maps, moved, with_leading
from torch import Generator, nn

from nasimb.nn.norms.instance import InstanceNormSpec


@pytest.mark.parametrize("channels", [1, 5, 12])
def test_forward_and_gradients_are_torchs(channels: int) -> None:
    norm = moved(InstanceNormSpec(eps=1e-3).build(MAX_CHANNELS, Generator()))
    expected = with_leading(nn.InstanceNorm2d(channels, eps=1e-3, affine=True), norm)
    x_BCHW = maps(channels)
    assert_same_layer(norm, expected, norm(x_BCHW, None), x_BCHW)


def test_a_map_of_one_pixel_comes_out_as_the_bias() -> None:
    norm, x_BCHW = moved(InstanceNormSpec().build(5, Generator())), torch.randn(3, 5, 1, 1)
    expected = norm.bias.detach()[None, :, None, None].expand(3, 5, 1, 1)
    torch.testing.assert_close(norm(x_BCHW, None), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(norm.extract(5, None).train()(x_BCHW), expected, rtol=0, atol=1e-4)


def test_the_plain_layer_is_a_torch_instance_norm_with_weights() -> None:
    plain = InstanceNormSpec().plain(4)
    assert isinstance(plain, nn.InstanceNorm2d)
    assert plain.affine
    assert plain.running_mean is None
