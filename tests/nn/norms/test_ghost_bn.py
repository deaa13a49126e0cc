"""Ghost batch normalisation: parts of a batch by themselves in training, ordinary batch normalisation else."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from norm_cases import MAX_CHANNELS, assert_same_layer, maps, moved, with_leading
from torch import Generator, Tensor, nn

from nasimb.nn.moments import moments
from nasimb.nn.norms.bn import BatchNormSpec
from nasimb.nn.norms.ghost_bn import GhostBatchNormSpec, ghost_sizes

SPEC = GhostBatchNormSpec(ghost_batch=4)


class InParts(nn.Module):
    """By hand: torch's kernel over images 0..3 and 4..8."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        parts = (x_BCHW[:4], x_BCHW[4:])
        return torch.cat([F.batch_norm(part, None, None, self.weight, self.bias, training=True) for part in parts])


@given(st.integers(1, 200), st.integers(2, 40))
def test_parts_are_whole_and_none_is_a_single_image(images: int, ghost_batch: int) -> None:
    sizes = ghost_sizes(images, ghost_batch)
    assert sum(sizes) == images
    assert all(size == ghost_batch for size in sizes[:-1])
    assert sizes[-1] <= ghost_batch + 1
    assert sizes[-1] >= 2 or images == 1


def test_training_takes_parts_and_the_last_image_joins_the_part_before() -> None:
    norm, x_BCHW = moved(SPEC.build(MAX_CHANNELS, Generator())), maps(7, images=9)
    assert_same_layer(norm, with_leading(InParts(7), norm), norm(x_BCHW, None), x_BCHW)
    plain, x_BCHW = moved(SPEC.plain(7)), maps(7, images=9)
    assert_same_layer(plain, with_leading(InParts(7), plain), plain(x_BCHW), x_BCHW)


def test_with_given_moments_it_is_batch_normalisation() -> None:
    x_BCHW, found = maps(7, images=9), moments(maps(7, seed=2).detach())
    norms = (moved(spec.build(MAX_CHANNELS, Generator())) for spec in (SPEC, BatchNormSpec()))
    ghost, ordinary = (norm(x_BCHW, found) for norm in norms)
    assert torch.equal(ghost, ordinary)


def test_every_part_moves_the_running_statistics_of_a_plain_layer() -> None:
    plain, expected, x_BCHW = SPEC.plain(3), nn.BatchNorm2d(3), maps(3, images=9).detach()
    plain(x_BCHW)
    for part in (x_BCHW[:4], x_BCHW[4:]):
        expected(part)
    torch.testing.assert_close(dict(plain.named_buffers()), dict(expected.named_buffers()))
    assert torch.equal(plain.eval()(x_BCHW), expected.eval()(x_BCHW))
