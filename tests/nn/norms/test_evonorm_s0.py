"""EvoNorm-S0 is timm's."""

from __future__ import annotations

import pytest
from norm_cases import MAX_CHANNELS, assert_same_layer, maps, moved, with_leading
from timm.layers import EvoNorm2dS0
from torch import Generator

from nasimb.nn.norms.evonorm_s0 import EvoNormS0Spec


@pytest.mark.parametrize(("channels", "group_size", "groups"), [(12, 8, 2), (8, 8, 1), (12, 4, 3), (6, 2, 3)])
def test_forward_and_gradients_are_timms(channels: int, group_size: int, groups: int) -> None:
    spec = EvoNormS0Spec(group_size=group_size)
    norm = moved(spec.build(MAX_CHANNELS, Generator()))
    expected, x_BCHW = with_leading(EvoNorm2dS0(channels, groups=groups), norm), maps(channels)
    assert_same_layer(norm, expected, norm(x_BCHW, None), x_BCHW)
    plain, x_BCHW = moved(spec.plain(channels)), maps(channels)
    expected = with_leading(EvoNorm2dS0(channels, groups=groups), plain)
    assert_same_layer(plain, expected, plain(x_BCHW), x_BCHW)
