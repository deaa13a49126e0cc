"""Filter response normalisation with its threshold is timm's."""

from __future__ import annotations

import pytest
from norm_cases import MAX_CHANNELS, assert_same_layer, maps, moved, with_leading
from timm.layers import FilterResponseNormTlu2d
from torch import Generator

from nasimb.nn.norms.frn import FilterResponseNormSpec


@pytest.mark.parametrize("channels", [1, 5, 12])
def test_forward_and_gradients_are_timms(channels: int) -> None:
    norm, x_BCHW = moved(FilterResponseNormSpec().build(MAX_CHANNELS, Generator())), maps(channels)
    expected = with_leading(FilterResponseNormTlu2d(channels, eps=1e-6), norm)
    assert_same_layer(norm, expected, norm(x_BCHW, None), x_BCHW)
    plain, x_BCHW = moved(FilterResponseNormSpec().plain(channels)), maps(channels)
    expected = with_leading(FilterResponseNormTlu2d(channels, eps=1e-6), plain)
    assert_same_layer(plain, expected, plain(x_BCHW), x_BCHW)


def test_it_starts_as_a_rectifier() -> None:
    y_BCHW = FilterResponseNormSpec().plain(3)(maps(3, mean=0.0))
    assert float(y_BCHW.detach().min()) == 0.0
    assert 0.3 < float((y_BCHW > 0).float().mean()) < 0.7
