"""Mixing the moments of the source with those of a few images of the target.

Shapes: B images, C channels, H and W pixels, G points of a grid. A weight is always that of the target. Everything is
measured in units of each channel's variance, the larger of source and target: channels that are dead in one of them
must not decide for all.

The weight of a layer is the posterior mean of `D / (D + b)`: D is the mean square of the shift over the layer's
channels, b the sampling noise of the target's means. Given D, that ratio is the linear weight of the smallest mean
squared error; given only the data, its posterior mean is. What the data say about D is pooled over the channels, since
one channel says next to nothing: their mean square difference is about a chi-square variable around D + b. Where it is
near b, a plain estimate of D is 0 for half of all batches and too large for the others; the prior decides instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nasimb.errors import InputError
from nasimb.nn.moments import IMAGES_A_PART, Moments, merged

EPSILON = 1e-5
"""Added to variances that divide, as in batch normalisation: a channel that is 0 in both shifts nothing."""

MEDIAN_SHIFT = 0.12
"""Median, under the prior, of a layer's root mean square shift in standard deviations. With the shape chosen
once for all layers, so that no cell of `nasimb bench mixing` is much worse than the best fixed weight there."""

PRIOR_SHAPE = 1.5
"""Of the prior of D, a Lomax distribution: flat below its scale, so that no shift counts as unlikely for being small,
and with a tail heavy enough (infinite variance) that a large shift is believed when it is seen."""

EXCESS_KURTOSIS = 6.0
"""Of the means of single images: that of an exponential variable, cautious for activations behind a ReLU."""

_SQUARES_G = torch.logspace(-6, 12, 181, dtype=torch.float64)
_SCALE = MEDIAN_SHIFT**2 / (2 ** (1 / PRIOR_SHAPE) - 1)
# Density of the prior times the step of the grid, which grows with D.
_LOG_PRIOR_G = torch.log(_SQUARES_G) - (PRIOR_SHAPE + 1) * torch.log1p(_SQUARES_G / _SCALE)
_LEAST = 1e-30


@dataclass(frozen=True, eq=False, slots=True)
class Sampled:
    """Moments of some images of the target, and how far they are to be trusted.

    Attributes:
        moments: over images and pixels.
        mean_variance_C: estimated variance of `moments.mean_C`: that of the means of single images / images. Pixels of
            one image resemble each other, so that their number does not matter.
        var_variance_C: estimated variance of `moments.var_C`, likewise: that of the mean squares of single images.
        images: how many, all of one size; a single one has no variances (0) and weighs nothing by itself.
    """

    moments: Moments
    mean_variance_C: Tensor
    var_variance_C: Tensor
    images: int


def sampled(x_BCHW: Tensor) -> Sampled:
    """What a batch says of the target.

    Its images must be distinct: copies of one say nothing of how images differ, and are trusted for as many.
    """
    x_BCHW = x_BCHW.float()
    means_BC = x_BCHW.mean((2, 3))
    mean_C = means_BC.mean(0)
    return sampled_images(means_BC, squares_around(x_BCHW, mean_C), mean_C)


def squares_around(x_BCHW: Tensor, centre_C: Tensor) -> Tensor:
    """Mean square of each image's pixels around a centre that is near them, so that nothing cancels: squares_BC."""
    # In parts, so that the centred copies stay small.
    parts = torch.split(x_BCHW.float(), IMAGES_A_PART)
    return torch.cat([(part - centre_C[:, None, None]).square_().mean((2, 3)) for part in parts])


def sampled_images(means_BC: Tensor, squares_BC: Tensor, centre_C: Tensor) -> Sampled:
    """`sampled` from the means of single images, and their mean squares around any centre."""
    images = len(means_BC)
    mean_C = means_BC.mean(0)
    # In float64, and never below 0: far from the centre nearly all of it cancels.
    from_centre_BC = means_BC.double() - centre_C.double()
    step_C = from_centre_BC.mean(0)
    squares_BC = (squares_BC.double() - 2 * from_centre_BC * step_C + step_C**2).clamp(min=0).float()
    freedom = max(images - 1, 1)
    return Sampled(
        Moments(mean_C, squares_BC.mean(0)),
        means_BC.var(0, correction=0) / freedom,
        squares_BC.var(0, correction=0) / freedom,
        images,
    )


def pooled_samples(a: Sampled, b: Sampled) -> Sampled:
    """What the images of both say together, where all are of one size.

    Exact for the moments and the variance of the means (Chan, Golub and LeVeque 1983). Mean squares stay those around
    the mean of their own part, so that the variance of the variance is right as far as the parts' means are close.
    """
    images = a.images + b.images

    def variance_C(of_a_C: Tensor, of_b_C: Tensor, shift_C: Tensor) -> Tensor:
        squares_C = of_a_C.double() * (a.images * (a.images - 1)) + of_b_C.double() * (b.images * (b.images - 1))
        squares_C = squares_C + shift_C.double() ** 2 * (a.images * b.images / images)
        return (squares_C / (images * (images - 1))).float()

    return Sampled(
        merged([a.moments, b.moments], [a.images, b.images]),
        variance_C(a.mean_variance_C, b.mean_variance_C, a.moments.mean_C - b.moments.mean_C),
        variance_C(a.var_variance_C, b.var_variance_C, a.moments.var_C - b.moments.var_C),
        images,
    )


def fading(sample: Sampled, most: int) -> Sampled:
    """The same moments, trusted as those of at most so many images (2 at least)."""
    images = min(sample.images, max(2, most))
    more = sample.images / images
    return replace(
        sample, mean_variance_C=sample.mean_variance_C * more, var_variance_C=sample.var_variance_C * more,
        images=images,
    )  # fmt: skip


def repeated(sample: Sampled, worth: int) -> Sampled:
    """The same moments, of images some of which are copies, so that all are worth `worth` distinct ones (2 at least).

    With shares w of distinct images, worth = 1 / sum w^2 (Kish 1965): their mean has the variance v / worth, and mean
    squares around it come to v (1 - 1 / worth) on average, so that v / worth is estimated by these / (worth - 1).
    """
    more = (sample.images - 1) / (worth - 1)
    return replace(
        sample, mean_variance_C=sample.mean_variance_C * more, var_variance_C=sample.var_variance_C * more,
        images=worth,
    )  # fmt: skip


def effective_n(sample: Sampled) -> Tensor:
    """How many independent values would give each channel's mean as exactly: their variance / that of the mean.

    Infinite in a channel whose images all have one mean, NaN where all pixels are equal.
    """
    # The moments' variance lacks that of the mean.
    return sample.moments.var_C / sample.mean_variance_C + 1


def mixing_weight(source: Moments, target: Sampled, source_images: float | None) -> Tensor:
    """Weight of the target for one layer: 0-d float32 in [0, 1].

    Dimensions before the channels are layers of their own, of equally many channels: [..., C] gives [...].

    Args:
        source_images: images behind the source's moments, which are noise too; None: too many to matter.

    Raises:
        InputError: the target is a single image.
    """
    if target.images < 2:
        raise InputError(
            "moments to be mixed must come from at least 2 images",
            got=target.images,
            do="Use larger batches, or a window.",
        )
    scale_C = torch.maximum(source.var_C, target.moments.var_C) + EPSILON
    noise_C = target.mean_variance_C / scale_C
    differences_C = (source.mean_C - target.moments.mean_C) ** 2 / scale_C
    squares_G, log_prior_G = _SQUARES_G.to(noise_C.device), _LOG_PRIOR_G.to(noise_C.device)

    found = differences_C.mean(-1, keepdim=True).double()
    noise = noise_C.mean(-1, keepdim=True).double()
    # Means of as many source images of the same kind would be as noisy.
    others = 1 + target.images / source_images if source_images else 1.0
    total_G = squares_G + noise * others
    share_G = noise / total_G
    freedom_G = _half_freedom(share_G, noise_C, noise, target.images)
    ratio_G = found.clamp(min=_LEAST) / total_G
    log_G = freedom_G * (torch.log(freedom_G * ratio_G) - ratio_G) - torch.lgamma(freedom_G) + log_prior_G
    return (1 - (torch.softmax(log_G, -1) * share_G).sum(-1)).float()


def variance_weight(source: Moments, target: Sampled, source_images: float | None) -> Tensor:
    """Weight of the target's variances, as `mixing_weight` is that of its means.

    A shift of one kind says little of the other: noise on the pixels changes the variances of the first layers and
    leaves their means where they were. The unit is the standard deviation that a variance of normal values has,
    sqrt(2) times itself for a single value.
    """
    unit_C = torch.maximum(source.var_C, target.moments.var_C) + EPSILON
    two_C = torch.full_like(unit_C, 2.0)
    squares = replace(
        target, moments=Moments(target.moments.var_C / unit_C, two_C), mean_variance_C=target.var_variance_C / unit_C**2
    )
    return mixing_weight(Moments(source.var_C / unit_C, two_C), squares, source_images)


def mixed(
    source: Moments, target: Moments, weight: Tensor | float, variance_weight: Tensor | float | None = None
) -> Moments:
    """Moments of a mixture in which the target has a share of `weight`.

    The variance is that of the mixture, with the part between the means: without it, it would be too small exactly
    where the shift is large.

    Args:
        variance_weight: share of the target within the variances; None: the same.
    """
    mean_C = torch.lerp(source.mean_C, target.mean_C, weight)
    between_C = (source.mean_C - target.mean_C) ** 2
    within_C = torch.lerp(source.var_C, target.var_C, weight if variance_weight is None else variance_weight)
    return Moments(mean_C, within_C + weight * (1 - weight) * between_C)


def _half_freedom(share_G: Tensor, noise_C: Tensor, noise: Tensor, images: int) -> Tensor:
    """Half the degrees of freedom of the mean square difference, of which noise is `share_G`, as a chi-square variable.

    Few if the noise of few channels dominates (Satterthwaite 1946), if the means have heavy tails, and if the noise
    itself is only estimated.

    Args:
        noise: mean of `noise_C`.
    """
    kurtosis = EXCESS_KURTOSIS / images
    of_estimate = 2 / (images - 1) + kurtosis
    # Estimates of equal noise differ too: by `of_estimate`, relative to its square.
    square = (noise_C * noise_C).mean(-1, keepdim=True).double()
    uneven = (square / (1 + of_estimate) / (noise * noise).clamp(min=_LEAST)).clamp(min=1.0)
    return noise_C.shape[-1] / (2 + share_G**2 * ((2 + kurtosis + of_estimate) * uneven - 2))
