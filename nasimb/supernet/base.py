"""The contract of a super-network: one set of weights from which every subnet of a space takes its own.

Shapes: B images, C channels, H and W pixels, D features, K classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasimb.errors import InputError
from nasimb.nn.estimators import NewEstimator
from nasimb.nn.moments import MomentsFor, Statistics, batch_moments
from nasimb.space import SearchSpace, Subnet

Step = Hashable
"""One part of a network: subnets whose first steps are equal have the same maps after them."""


class Supernet(nn.Module, ABC):
    """Weights of all subnets of `space`. The subnet is an argument of every method, never a state.

    There are no running statistics: `moments_for` says what each layer normalises with.

    Args:
        space: what subnets there are.
        in_channels: 1 for grey images, 3 for colour.
        num_classes: classes of the training classifier.
        pixel_mean_C, pixel_std_C: of the training images in units of 0..255.
        generator: source of the starting weights (on the CPU).

    Example:
        >>> from nasimb.supernet import build_supernet
        >>> space = SearchSpace.load("digits-resnet")
        >>> generator = torch.Generator().manual_seed(0)
        >>> supernet = build_supernet(space, 1, 10, torch.zeros(1), torch.full((1,), 255.0), generator)
        >>> images_BCHW = torch.randint(256, (8, 1, 8, 8), generator=generator)
        >>> subnet = space.smallest()
        >>> supernet(images_BCHW, subnet).shape, supernet.feature_dim(subnet)
        (torch.Size([8, 10]), 32)
        >>> plain = supernet.extract(subnet, None)  # its own copy of the weights that this subnet uses
        >>> sum(p.numel() for p in plain.parameters()) < sum(p.numel() for p in supernet.parameters()) / 10
        True
    """

    pixel_mean_C: Tensor
    pixel_std_C: Tensor

    def __init__(
        self,
        space: SearchSpace,
        in_channels: int,
        num_classes: int,
        pixel_mean_C: Tensor,
        pixel_std_C: Tensor,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.space, self.in_channels, self.num_classes = space, in_channels, num_classes
        self.register_buffer("pixel_mean_C", pixel_mean_C.clone().float())
        self.register_buffer("pixel_std_C", pixel_std_C.clone().float())
        self._build(generator)

    @abstractmethod
    def _build(self, generator: torch.Generator) -> None:
        """Make the layers; `space`, `in_channels` and `num_classes` are set."""

    @abstractmethod
    def features(self, images_BCHW: Tensor, subnet: Subnet, moments_for: MomentsFor = batch_moments) -> Tensor:
        """Pooled outputs of the last `subnet.taps` stages, concatenated, the last stage last: features_BD.

        Args:
            images_BCHW: uint8 or float in 0..255, of any size; resized to `subnet.resolution` here.
            subnet: a subnet of `space` (not checked here: `space.check` does).
            moments_for: what each layer normalises with; the default uses the batch itself.
        """

    @abstractmethod
    def forward(self, images_BCHW: Tensor, subnet: Subnet, moments_for: MomentsFor = batch_moments) -> Tensor:
        """Logits of the training classifier, which sees the last stage alone: logits_BK."""

    @abstractmethod
    def feature_dim(self, subnet: Subnet) -> int:
        """D of `features`."""

    @abstractmethod
    def extract(self, subnet: Subnet, statistics: Statistics | None) -> nn.Module:
        """A plain module from images to features, with copies of the weights in use.

        In eval mode it is bit-equal to `features(images, subnet, given(statistics))`. Without statistics its
        batch norms have mean 0 and variance 1, to load a state dict into.
        """

    @abstractmethod
    def steps(self, subnet: Subnet) -> tuple[Step, ...]:
        """What `features` does one after another; the first takes images, every other the maps of the one before."""

    @abstractmethod
    def taps(self, subnet: Subnet) -> tuple[int, ...]:
        """The steps whose maps, pooled and concatenated in this order, are the features."""

    @abstractmethod
    def settle(
        self, step: Step, parts: Sequence[Tensor], new_estimator: NewEstimator
    ) -> tuple[Statistics, list[Tensor]]:
        """Calibrate one step: the statistics of its layers, and its outputs.

        Args:
            parts: of the calibration images: the outputs of the step before, or for the first step the images.
            new_estimator: of every layer; it is shown the parts in this order.
        """

    @abstractmethod
    def fold(self, step: Step, statistics: Statistics) -> nn.Module:
        """One step as a plain module with its norms folded into its convolutions where they can be.

        It leaves its input as it is, since other subnets may go on from there.
        """


def prepare_images(images_BCHW: Tensor, resolution: int, mean_C: Tensor, std_C: Tensor) -> Tensor:
    """Images in 0..255 as the float input of a network: `resolution` pixels square, standardised.

    Raises:
        InputError: the images have another number of channels than the network.
    """
    if images_BCHW.ndim != 4 or images_BCHW.shape[1] != len(mean_C):
        raise InputError(
            f"images must have the shape [B, {len(mean_C)}, H, W]",
            got=list(images_BCHW.shape),
            do="Convert them to the channels that this network was trained on.",
        )
    images_BCHW = images_BCHW.float()
    size = images_BCHW.shape[-2:]
    if size != (resolution, resolution):
        images_BCHW = F.interpolate(
            images_BCHW, (resolution, resolution), mode="bilinear", antialias=max(size) > resolution
        )
    return channels_last((images_BCHW - mean_C[:, None, None]) / std_C[:, None, None])


CACHE_BYTES = 2**23
IMAGES_ON_A_GPU = 1024


def images_at_a_time(space: SearchSpace, device: torch.device) -> int:
    """Images of one forward pass that is quick: on a processor as many as its cache holds the maps of.

    512 images of 32 x 32 pixels took up to twice as long an image as 128 (CPU, float32). A GPU is quicker the more.
    """
    if device.type != "cpu":
        return IMAGES_ON_A_GPU
    stem_bytes = 4 * space.stem_width * space.max_resolution**2
    return min(max(CACHE_BYTES // stem_bytes, 16), 1024)


def channels_last(maps_BCHW: Tensor) -> Tensor:
    """The same values laid out channels last: a step of training takes 15 to 20 % less time so (CPU, float32)."""
    return maps_BCHW.contiguous(memory_format=torch.channels_last)


def pooled(maps_BCHW: Tensor) -> Tensor:
    """Global average of every channel, float32: features_BC."""
    return maps_BCHW.mean((2, 3), dtype=torch.float32)
