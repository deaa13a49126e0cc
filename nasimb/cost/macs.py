"""Multiply-accumulates and parameters of a residual subnet in closed form: plain integers, thousands a second."""

from __future__ import annotations

from nasimb.nn.norms.choices import parameters_per_channel
from nasimb.space import SearchSpace, Subnet


def macs_and_params(space: SearchSpace, subnet: Subnet, in_channels: int) -> tuple[int, int]:
    """MACs of one image and parameters of the extracted backbone of a subnet of `space`; the head comes on top.

    Counted as torch.utils.flop_counter does: convolutions only, borders included, two FLOPs a MAC. Resizing,
    normalisation, activations and pooling count nothing.

    Example:
        >>> space = SearchSpace.load("digits-resnet")
        >>> [macs_and_params(space, subnet, in_channels=1)[0] for subnet in (space.smallest(), space.largest())]
        [242688, 6693120]
    """
    side, width = subnet.resolution, space.stem_width
    macs = side * side * 9 * in_channels * width
    of_stem, of_norms = parameters_per_channel(space)
    params = (9 * in_channels + of_stem) * width
    choices = zip(subnet.depths, subnet.widths, subnet.kernel_sizes, subnet.norms, strict=True)
    for stage, (depth, out, kernel, norm) in zip(space.stages, choices, strict=True):
        # Padding is half the kernel, so that only the stride shrinks the map, rounding up.
        side = -(-side // stage.stride)
        weights = 0
        for index in range(depth):
            shortcut = width * out if index == 0 else 0
            weights += kernel * kernel * width * out + 9 * out * out + shortcut
            width = out
        macs += side * side * weights
        inner, last = of_norms[norm]
        params += weights + out * (depth * inner + (depth + 1) * last)
    return macs, params
