"""Groups of channels at any width."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from norm_cases import maps

from nasimb.nn.norms.groups import group_count, group_variance


@given(st.integers(1, 300), st.integers(1, 40))
def test_groups_divide_the_channels_and_no_other_size_is_nearer(channels: int, group_size: int) -> None:
    groups = group_count(channels, group_size)
    assert channels % groups == 0

    def far(size: int) -> float:
        return max(size / group_size, group_size / size)

    assert all(far(channels // groups) <= far(size) for size in range(1, channels + 1) if channels % size == 0)
    if channels % group_size == 0:
        assert channels // groups == group_size


@pytest.mark.parametrize("groups", [1, 3, 12])
def test_the_variance_is_torchs(groups: int) -> None:
    x_BCHW = maps(12, mean=100.0)
    variance_BG = x_BCHW.double().reshape(6, groups, -1).var(2, unbiased=False)
    expected_BC = variance_BG.repeat_interleave(12 // groups, dim=1)
    torch.testing.assert_close(group_variance(x_BCHW, groups).double()[:, :, 0, 0], expected_BC, rtol=1e-4, atol=0)
