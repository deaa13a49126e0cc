"""Group normalisation is torch's, at any width."""

from __future__ import annotations

import pytest
from norm_cases import MAX_CHANNELS, assert_same_layer, maps, moved, with_leading
from torch import Generator, nn

from nasimb.nn.norms.gn import GroupNormSpec


@pytest.mark.parametrize(
    ("channels", "group_size", "groups"),
    [(12, 8, 2), (8, 8, 1), (11, 8, 1), (12, 4, 3), (9, 3, 3), (1, 8, 1)],
)
def test_forward_and_gradients_are_torchs(channels: int, group_size: int, groups: int) -> None:
    norm = moved(GroupNormSpec(group_size=group_size, eps=1e-4).build(MAX_CHANNELS, Generator()))
    expected, x_BCHW = with_leading(nn.GroupNorm(groups, channels, eps=1e-4), norm), maps(channels)
    assert_same_layer(norm, expected, norm(x_BCHW, None), x_BCHW)


def test_the_plain_layer_is_torchs() -> None:
    plain = GroupNormSpec(group_size=4).plain(12)
    assert type(plain) is nn.GroupNorm
    assert (plain.num_groups, plain.eps) == (3, 1e-5)
