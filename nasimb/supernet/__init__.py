"""Backbones that a search space may name, and how to build one.

Start with `build_supernet`, or with `plain_backbone` for one subnet alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nasimb.errors import unknown_name
from nasimb.space import SearchSpace, Subnet
from nasimb.supernet.base import Supernet
from nasimb.supernet.resnet import ResNetSupernet

__all__ = ["BACKBONES", "Supernet", "build_supernet", "plain_backbone"]

BACKBONES: dict[str, type[Supernet]] = {
    "resnet": ResNetSupernet,
}
"""Super-networks by name."""


def build_supernet(
    space: SearchSpace,
    in_channels: int,
    num_classes: int,
    pixel_mean_C: Tensor,
    pixel_std_C: Tensor,
    generator: torch.Generator,
) -> Supernet:
    """The super-network of `space.backbone` with fresh weights, on the CPU. Arguments as of `Supernet`.

    Raises:
        InputError: the space names a backbone or a norm that does not exist.

    Example:
        >>> space = SearchSpace.load("digits-resnet")
        >>> mean_C, std_C = torch.tensor([80.0]), torch.tensor([95.0])  # of training images
        >>> supernet = build_supernet(space, 1, 10, mean_C, std_C, torch.Generator().manual_seed(0))
        >>> images_BCHW = torch.randint(256, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0))
        >>> [tuple(supernet(images_BCHW, subnet).shape) for subnet in (space.smallest(), space.largest())]
        [(4, 10), (4, 10)]
        >>> [tuple(supernet.features(images_BCHW, subnet).shape) for subnet in (space.smallest(), space.largest())]
        [(4, 32), (4, 112)]
    """
    if space.backbone not in BACKBONES:
        raise unknown_name("backbone", space.backbone, BACKBONES)
    return BACKBONES[space.backbone](space, in_channels, num_classes, pixel_mean_C, pixel_std_C, generator)


def plain_backbone(
    space: SearchSpace, subnet: Subnet, in_channels: int, generator: torch.Generator | None = None
) -> nn.Module:
    """One subnet as the plain module that `Supernet.extract` gives, but with fresh weights.

    Load an exported state dict into it (the pixel statistics are part of that), or train it by itself.

    Example:
        >>> space = SearchSpace.load("digits-resnet")
        >>> backbone = plain_backbone(space, space.smallest(), in_channels=1)
        >>> sum(parameter.numel() for parameter in backbone.parameters())
        20288
        >>> tuple(backbone(torch.zeros(2, 1, 8, 8)).shape)
        (2, 32)
    """
    space.check(subnet)
    generator = generator or torch.Generator().manual_seed(0)
    zeros_C, ones_C = torch.zeros(in_channels), torch.ones(in_channels)
    return build_supernet(space, in_channels, 1, zeros_C, ones_C, generator).extract(subnet, None)
