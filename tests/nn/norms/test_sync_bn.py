"""In one process, synchronised batch normalisation is batch normalisation. (Two: see test_ranks.py.)"""

from __future__ import annotations

from norm_cases import MAX_CHANNELS, assert_same_layer, maps, moved, with_leading
from torch import Generator, nn

from nasimb.nn.norms.sync_bn import SyncBatchNormSpec


def test_one_process_has_nothing_to_synchronise() -> None:
    norm, x_BCHW = moved(SyncBatchNormSpec().build(MAX_CHANNELS, Generator())), maps(7)
    assert_same_layer(norm, with_leading(nn.BatchNorm2d(7), norm), norm(x_BCHW, None), x_BCHW)
    plain, x_BCHW = moved(SyncBatchNormSpec(momentum=0.2).plain(7)), maps(7)
    assert type(plain) is nn.SyncBatchNorm
    assert plain.momentum == 0.2
    assert_same_layer(plain, with_leading(nn.BatchNorm2d(7), plain), plain(x_BCHW), x_BCHW)
