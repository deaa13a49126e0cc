"""Images as a worse camera would have taken them: five corruptions in five severities.

Kinds and strengths are of the order of those of the common corruption benchmark for 32 x 32 pixels (Hendrycks and
Dietterich 2019, arXiv 1903.12261). Blur grows with the side of larger images. In smaller ones it stays, since their
detail is a pixel fine too, and noise grows: a coarse drawing of one thing is hard to hide.

What is drawn at random for an image follows from the seed and the image's own pixels: it is corrupted alike in every
batch, and alike again. Severities of one kind share their draws, so that they differ in strength alone.
Shapes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from nasimb.data.store import content_hash
from nasimb.errors import InputError, unknown_name

REFERENCE_SIDE = 32
"""Pixels a side of the images that strengths are given for."""
FOG_OCTAVES, FOG_DECAY = 4, 2.0
SEVERITIES = (1, 2, 3, 4, 5)

Draws = Iterator[np.random.Generator]
"""One generator an image, in turn."""


@dataclass(frozen=True, slots=True)
class Corruption:
    """One kind.

    Attributes:
        strengths: of the severities 1 to 5.
        apply: (images_BCHW as float32 in 0..1, strength, draws) -> images_BCHW, which may leave 0..1.
    """

    strengths: tuple[float, float, float, float, float]
    apply: Callable[[Tensor, float, Draws], Tensor]


def corrupt(images_BCHW: Tensor, name: str, severity: int, *, seed: int = 0) -> Tensor:
    """The images corrupted, uint8 as before, on their device.

    Args:
        images_BCHW: uint8.
        name: one of `CORRUPTIONS`.
        severity: 1 (slight) to 5.
        seed: of what is drawn at random; see the head of this module.

    Raises:
        InputError: no such corruption or severity, or the images are not uint8 [B, C, H, W].
    """
    if name not in CORRUPTIONS:
        raise unknown_name("a corruption", name, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise InputError("the severity must be a whole number from 1 to 5", got=severity, do="Choose one of these.")
    if images_BCHW.dtype != torch.uint8 or images_BCHW.ndim != 4:
        got = f"{images_BCHW.dtype} {list(images_BCHW.shape)}"
        raise InputError("images to corrupt must be uint8 [B, C, H, W]", got=got, do="Corrupt stored images.")
    if not len(images_BCHW):
        return images_BCHW.clone()
    kind = CORRUPTIONS[name]
    worse_BCHW = kind.apply(images_BCHW.float() / 255, kind.strengths[severity - 1], _draws(images_BCHW, seed))
    return (255 * worse_BCHW).round_().clamp_(0, 255).to(torch.uint8)


def _noise(images_BCHW: Tensor, strength: float, draws: Draws) -> Tensor:
    """Independent normal noise at every pixel and channel; its standard deviation as a share of the range."""
    shape, strength = images_BCHW.shape[1:], strength / min(_scale(images_BCHW), 1.0)
    noise_BCHW = np.stack([rng.standard_normal(shape, dtype=np.float32) for rng in draws])
    return images_BCHW + strength * torch.from_numpy(noise_BCHW).to(images_BCHW.device)


def _blur(images_BCHW: Tensor, strength: float, draws: Draws) -> Tensor:
    """A Gaussian of this standard deviation, pixels at 32 a side."""
    del draws
    sigma = strength * max(_scale(images_BCHW), 1.0)
    reach = min(int(np.ceil(3 * sigma)), min(images_BCHW.shape[-2:]) - 1)
    blurred_BCHW: Tensor = TF.gaussian_blur(images_BCHW, [2 * reach + 1] * 2, [sigma] * 2)
    return blurred_BCHW


def _contrast(images_BCHW: Tensor, strength: float, draws: Draws) -> Tensor:
    """Differences from the image's mean brightness shrink to this share."""
    del draws
    flatter_BCHW: Tensor = TF.adjust_contrast(images_BCHW, strength)
    return flatter_BCHW


def _fog(images_BCHW: Tensor, strength: float, draws: Draws) -> Tensor:
    """Bright clouds, the same for all channels, laid over and the whole darkened to the old maximum.

    Clouds are value noise: random grids of 2, 4, 8, ... points a side, each half as strong as the one before.
    """
    height, width = images_BCHW.shape[-2:]
    sides = [2 ** (octave + 1) for octave in range(FOG_OCTAVES)]
    drawn = [[rng.random((1, side, side), dtype=np.float32) for side in sides] for rng in draws]
    clouds_B1HW = torch.zeros(len(images_BCHW), 1, height, width)
    for octave, grids in enumerate(zip(*drawn, strict=True)):
        grid_B1SS = torch.from_numpy(np.stack(grids))
        clouds_B1HW += F.interpolate(grid_B1SS, (height, width), mode="bilinear") / FOG_DECAY**octave
    clouds_B1HW -= clouds_B1HW.amin((1, 2, 3), keepdim=True)
    clouds_B1HW /= clouds_B1HW.amax((1, 2, 3), keepdim=True).clamp(min=1e-6)
    brightest_B111 = images_BCHW.amax((1, 2, 3), keepdim=True)
    laid_over = images_BCHW + strength * clouds_B1HW.to(images_BCHW.device)
    return laid_over * brightest_B111 / (brightest_B111 + strength)


def _pixelate(images_BCHW: Tensor, strength: float, draws: Draws) -> Tensor:
    """Averaged down to this share of the side, and back without interpolation."""
    del draws
    height, width = images_BCHW.shape[-2:]
    small = [max(int(side * strength), 1) for side in (height, width)]
    blocks_BCHW = F.interpolate(images_BCHW, small, mode="area")
    blocky_BCHW: Tensor = TF.resize(blocks_BCHW, [height, width], InterpolationMode.NEAREST)
    return blocky_BCHW


CORRUPTIONS: dict[str, Corruption] = {
    "noise": Corruption((0.04, 0.06, 0.08, 0.09, 0.10), _noise),
    "blur": Corruption((0.4, 0.6, 0.7, 0.8, 1.0), _blur),
    "contrast": Corruption((0.75, 0.5, 0.4, 0.3, 0.15), _contrast),
    "fog": Corruption((0.2, 0.5, 0.75, 1.0, 1.5), _fog),
    "pixelate": Corruption((0.95, 0.9, 0.85, 0.75, 0.65), _pixelate),
}


def _scale(images_BCHW: Tensor) -> float:
    """Side of the images over that of the reference."""
    return min(images_BCHW.shape[-2:]) / REFERENCE_SIDE


def _draws(images_BCHW: Tensor, seed: int) -> Draws:
    """A generator for every image, from the seed and its pixels; made when asked for."""
    for image_CHW in images_BCHW.cpu().contiguous().numpy():
        yield np.random.default_rng([seed, int(content_hash(image_CHW.data), 16)])
