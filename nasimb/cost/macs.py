"""Multiply-accumulates and parameters of a residual subnet in closed form: plain integers, thousands a second."""

from __future__ import annotations

from nasimb.space import SearchSpace, Subnet

PARAMETERS_PER_NORM_CHANNEL = 2
"""A weight and a bias: true of every norm in nasimb.nn.norms once it is extracted."""


def macs_and_params(space: SearchSpace, subnet: Subnet, in_channels: int) -> tuple[int, int]:
    """MACs of one image and parameters of the extracted backbone; the head comes on top.

    Counted as torch.utils.flop_counter does: convolutions only, borders included, two FLOPs a MAC. Resizing,
    normalisation, activations and pooling count nothing.
    """
    side, width = subnet.resolution, space.stem_width
    macs, params = side * side * 9 * in_channels * width, 9 * in_channels * width + PARAMETERS_PER_NORM_CHANNEL * width
    for stage, depth, out, kernel in zip(space.stages, subnet.depths, subnet.widths, subnet.kernel_sizes, strict=True):
        # Padding is half the kernel, so that only the stride shrinks the map, rounding up.
        side = -(-side // stage.stride)
        weights = 0
        for index in range(depth):
            shortcut = width * out if index == 0 else 0
            weights += kernel * kernel * width * out + 9 * out * out + shortcut
            width = out
        macs += side * side * weights
        params += weights + PARAMETERS_PER_NORM_CHANNEL * out * (2 * depth + 1)
    return macs, params
