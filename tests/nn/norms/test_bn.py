"""Batch normalisation is torch's."""

from __future__ import annotations

import pytest
from norm_cases import MAX_CHANNELS, assert_same_layer, maps, moved, with_leading
from torch import Generator, nn

from nasimb.nn.norms.bn import BatchNormSpec


@pytest.mark.parametrize("channels", [1, 5, 12])
def test_forward_and_gradients_are_torchs(channels: int) -> None:
    norm, x_BCHW = moved(BatchNormSpec(eps=1e-3).build(MAX_CHANNELS, Generator())), maps(channels)
    assert_same_layer(norm, with_leading(nn.BatchNorm2d(channels, eps=1e-3), norm), norm(x_BCHW, None), x_BCHW)


def test_the_plain_layer_is_torchs_with_the_options() -> None:
    plain = BatchNormSpec(eps=1e-3, momentum=0.2).plain(5)
    assert type(plain) is nn.BatchNorm2d
    assert (plain.eps, plain.momentum, plain.num_features, plain.training) == (1e-3, 0.2, 5, True)
