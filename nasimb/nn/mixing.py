"""Mixing the moments of the source with those of a few images of the target.

Shapes: B images, C channels, H and W pixels, G points of a grid. A weight is always that of the target. Everything is
measured in units of each channel's source variance, as the normaliser sees it.

The weight of a layer is the posterior mean of `D / (D + b)`: D is the mean square of the shift over the layer's
channels, b the sampling noise of the target's means. Given D, that ratio is the linear weight of the smallest mean
squared error; given only the data, the smallest expected one has its posterior mean. What the data say about D is
pooled over the channels, since one channel says next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nasimb.errors import InputError
from nasimb.nn.moments import Moments, merged, moments

EPSILON = 1e-5
"""Added to variances that divide, as in batch normalisation: a channel that is always 0 shifts nothing."""

PRIOR_SHIFT = 0.15
"""Median of the prior of a layer's root mean square shift, in source standard deviations: half-Cauchy, so heavy-tailed
that a large shift is believed. Chosen between shifts that no accuracy would notice (0.05) and corruption (0.5)."""

EXCESS_KURTOSIS = 6.0
"""Of the means of single images: that of an exponential variable, cautious for activations behind a ReLU."""

_SHIFTS_G = torch.logspace(-3, 2, 81, dtype=torch.float64)
# Density times the step of the grid, which grows with the shift.
_LOG_PRIOR_G = torch.log(_SHIFTS_G / (1 + (_SHIFTS_G / PRIOR_SHIFT) ** 2))
_SQUARES_G = _SHIFTS_G**2


@dataclass(frozen=True, eq=False, slots=True)
class Sampled:
    """Moments of some images of the target, and how far they are to be trusted.

    Attributes:
        moments: over images and pixels.
        mean_variance_C: estimated variance of `moments.mean_C`: that of the means of single images / images. Pixels of
            one image resemble each other, so that their number does not matter.
        images: how many, at least 2; all of one size.
    """

    moments: Moments
    mean_variance_C: Tensor
    images: int


def sampled(x_BCHW: Tensor) -> Sampled:
    """What a batch says of the target.

    Raises:
        InputError: it is a single image.
    """
    images = len(x_BCHW)
    if images < 2:
        raise InputError(
            "moments to be mixed must come from at least 2 images", got=images, do="Use larger batches, or a window."
        )
    image_means_BC = x_BCHW.float().mean((2, 3))
    return Sampled(moments(x_BCHW), image_means_BC.var(0, correction=1) / images, images)


def pooled_samples(a: Sampled, b: Sampled) -> Sampled:
    """What the images of both say together: exact (Chan, Golub and LeVeque 1983) where all images are of one size."""
    images = a.images + b.images
    shift_C = (a.moments.mean_C.double() - b.moments.mean_C.double()) ** 2
    squares_C = _squares_between(a) + _squares_between(b) + shift_C * (a.images * b.images / images)
    return Sampled(
        merged([a.moments, b.moments], [a.images, b.images]),
        (squares_C / (images * (images - 1))).float(),
        images,
    )


def effective_n(sample: Sampled) -> Tensor:
    """How many independent values would give each channel's mean as exactly; infinite where images do not differ."""
    return sample.moments.var_C / sample.mean_variance_C


def mixing_weight(source: Moments, target: Sampled, source_images: float | None) -> Tensor:
    """Weight of the target for one layer: 0-d float32 in [0, 1].

    The mean square of the differences, `S`, is taken as a scaled chi-square variable around `D + b`, whose degrees of
    freedom allow for the kurtosis of means of few images and for channels of unequal noise (Satterthwaite 1946).

    Args:
        source_images: images behind the source's moments, which are noise too; None: too many to matter.
    """
    per_variance_C = 1 / (source.var_C.double() + EPSILON)
    noise_C = target.mean_variance_C.double() * per_variance_C
    difference_C = source.mean_C.double() - target.moments.mean_C.double()
    found = (difference_C**2 * per_variance_C).mean()
    return _posterior_weight(found, noise_C, target.images, source_images).float()


def mixed(source: Moments, target: Moments, weight: Tensor | float) -> Moments:
    """Moments of a mixture in which the target has a share of `weight`.

    The variance is that of the mixture, with the part between the means: without it, it would be too small exactly
    where the shift is large.
    """
    mean_C = torch.lerp(source.mean_C, target.mean_C, weight)
    between_C = (source.mean_C - target.mean_C) ** 2
    return Moments(mean_C, torch.lerp(source.var_C, target.var_C, weight) + weight * (1 - weight) * between_C)


def _posterior_weight(found: Tensor, noise_C: Tensor, images: int, source_images: float | None) -> Tensor:
    squares_G, log_prior_G = _SQUARES_G.to(noise_C.device), _LOG_PRIOR_G.to(noise_C.device)
    noise, channels = noise_C.mean(), len(noise_C)
    # Means of as many source images of the same kind would be as noisy.
    source_noise = noise * (images / source_images) if source_images else torch.zeros_like(noise)
    total_G = squares_G + source_noise + noise
    share_G = noise / total_G
    freedom_G = 2 * channels / (2 + share_G**2 * (EXCESS_KURTOSIS / images))
    log_G = log_prior_G + freedom_G / 2 * (torch.log(freedom_G / 2 * found / total_G) - found / total_G)
    log_G = log_G - torch.lgamma(freedom_G / 2)
    return torch.softmax(log_G, 0) @ (1 - share_G)


def _squares_between(sample: Sampled) -> Tensor:
    return sample.mean_variance_C.double() * (sample.images * (sample.images - 1))
