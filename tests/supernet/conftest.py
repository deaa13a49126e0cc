"""A search space that has one of everything, and a few images for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from nasimb.data.base import ImageSet
from nasimb.data.store import TensorStore
from nasimb.space import SearchSpace, Stage
from nasimb.supernet import build_supernet
from nasimb.supernet.base import Supernet

SPACE = SearchSpace(
    name="tiny",
    backbone="resnet",
    stem_width=4,
    resolutions=(7, 8),
    stages=(
        Stage(depths=(1, 2), widths=(4, 6), kernel_sizes=(1, 3), norms=("bn", "nbn")),
        Stage(depths=(1, 2), widths=(6, 8), kernel_sizes=(3, 5), norms=("nbn", "bn"), stride=2),
    ),
    taps=(1, 2),
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def space() -> SearchSpace:
    return SPACE


@pytest.fixture
def new_supernet() -> Callable[..., Supernet]:
    """Builds a super-network of the tiny space whose parameters are no longer at their starting values."""

    def build(seed: int = 0, space: SearchSpace = SPACE, in_channels: int = 1, num_classes: int = 3) -> Supernet:
        generator = torch.Generator().manual_seed(seed)
        mean_C, std_C = torch.full((in_channels,), 100.0), torch.full((in_channels,), 60.0)
        supernet = build_supernet(space, in_channels, num_classes, mean_C, std_C, generator)
        with torch.no_grad():
            for parameter in supernet.parameters():
                if parameter.ndim <= 1:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
        return supernet

    return build


@pytest.fixture(scope="session")
def images() -> ImageSet:
    """Three classes of 8x8 images (12, 9 and 6) that differ in where they are bright."""
    generator = torch.Generator().manual_seed(0)
    labels_N = torch.tensor([0] * 12 + [1] * 9 + [2] * 6)
    pixels = torch.randint(0, 120, (27, 1, 8, 8), generator=generator)
    for position, label in enumerate(labels_N.tolist()):
        pixels[position, :, 2 * label : 2 * label + 3] += 110
    store = TensorStore(pixels.to(torch.uint8), [("image ", 27)])
    return ImageSet(store, torch.arange(27), labels_N, ("a", "b", "c"))
