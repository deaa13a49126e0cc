"""Whether the newest images of a stream are of another kind than those before: by their pixels, which cost nothing.

Shapes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nasimb.adapt.profile import square_shift
from nasimb.nn.mixing import EPSILON, Sampled, pooled_samples, sampled

SIDE = 16
"""Pixels of a side that are looked at, at least, where an image has more: neighbours say much the same."""

BEYOND_NOISE = 16.0
"""Times its noise that a mean square shift must be: now and then few images differ from many by a few times as much."""


def pixels_with(before: Sampled | None, images: Tensor) -> Sampled:
    """Moments of the pixels of these images, and of those before."""
    maps_BCHW = images if images.ndim == 4 else images.reshape(*images.shape[:2], -1, 1)
    step = max(1, min(maps_BCHW.shape[2:]) // SIDE)
    newest = sampled(maps_BCHW[:, :, ::step, ::step].float())
    return newest if before is None else pooled_samples(before, newest)


def pixel_change(stream: Sampled, newest: Sampled) -> float:
    """Mean square shift of the newest images from the stream before them, in standard deviations; 0 within noise.

    A corruption that begins, ends or gives way to another changes means or variances of pixels; one that leaves both as
    they are (a slight blur) shows in the layers alone, where it is looked for less often.
    """
    mean_noise_C = newest.mean_variance_C + stream.mean_variance_C
    var_noise_C = newest.var_variance_C + stream.var_variance_C
    both = replace(newest, mean_variance_C=mean_noise_C, var_variance_C=var_noise_C)
    found = square_shift(stream.moments, both)
    scale_C = torch.maximum(stream.moments.var_C, newest.moments.var_C) + EPSILON
    noise_C = mean_noise_C / scale_C + var_noise_C / (newest.moments.var_C + EPSILON) ** 2 / 2
    return found if found > BEYOND_NOISE * float(noise_C.mean()) else 0.0
