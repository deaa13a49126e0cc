"""One-step estimates of a location, by hand."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from nasimb.adapt.estimates import huber_step


def test_huber_clips_what_is_far_and_counts_only_what_is_near() -> None:
    # In units of the standard deviation 2 from 1: -0.5, 0.5, 1, 3. Clipped at 1.5: sum 2.5, three of them inside.
    x_NC = torch.tensor([[0.0], [2.0], [3.0], [7.0]])
    found_C = huber_step(x_NC, torch.tensor([1.0]), torch.tensor([4.0]), clip=1.5)
    assert_close(found_C, torch.tensor([1 + 2 * 2.5 / 3]))


def test_huber_without_clipping_lands_on_the_mean() -> None:
    x_NC = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    assert_close(huber_step(x_NC, torch.zeros(3), torch.ones(3), clip=100.0), x_NC.mean(0))


def test_an_outlier_moves_huber_no_further_than_the_clip() -> None:
    x_NC = torch.randn(20, 1, generator=torch.Generator().manual_seed(0)) * 0.1
    far_NC, further_NC = x_NC.clone(), x_NC.clone()
    far_NC[0], further_NC[0] = 5.0, 5e6
    start_C, var_C = torch.zeros(1), torch.ones(1)
    assert_close(huber_step(far_NC, start_C, var_C, 1.5), huber_step(further_NC, start_C, var_C, 1.5))
    assert further_NC.mean() > 1e5


def test_channels_without_an_image_inside_the_clip_or_without_variance_stay() -> None:
    x_NC = torch.tensor([[10.0, 1.0, 0.2], [-10.0, 2.0, 0.4], [11.0, 3.0, 0.6]])
    found_C = huber_step(x_NC, torch.tensor([0.0, 5.0, 0.0]), torch.tensor([1.0, 0.0, 1.0]), clip=1.5)
    assert_close(found_C, torch.tensor([0.0, 5.0, 0.4]))
