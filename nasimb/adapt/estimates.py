"""One-step M-estimate of a location, without iterating. (For the squared loss it is a mixture of two means.)

Shapes: N images, C channels; `x_NC` are the means of single images over their pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def huber_step(x_NC: Tensor, start_C: Tensor, var_C: Tensor, clip: float) -> Tensor:
    """The full step for Huber's loss (Huber 1964), which single images far away pull no more than those at `clip`.

    The mean of the clipped deviations is divided by the share of images that are not clipped. A channel in which all
    are stays at `start_C`: the loss has no curvature there, and the step no length.

    Args:
        var_C: variance of the means of single images, the unit of `clip` squared; a channel of variance 0 stays.
        clip: in standard deviations, above 0.
    """
    scale_C = var_C.sqrt()
    deviation_NC = (x_NC - start_C) / scale_C
    inside_C = (deviation_NC.abs() < clip).sum(0)
    step_C = scale_C * deviation_NC.clamp(-clip, clip).sum(0) / inside_C
    return torch.where((inside_C > 0) & (scale_C > 0), start_C + step_C, start_C)
