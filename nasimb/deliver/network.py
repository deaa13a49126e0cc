"""A finished model as it is shipped: norms folded into convolutions, one tensor in, logits out.

Shapes: B images, C channels, S side of stored images and R of the network's input in pixels, K classes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasimb.export import Model
from nasimb.supernet.base import pooled, prepare_images
from nasimb.supernet.fold import FoldedBlock, folded
from nasimb.supernet.plain_resnet import PlainBlock, PlainResNet

DRAFT = 4
"""JPEG files are decoded with less detail where that leaves so many times the stored side (`nasimb.data.decode`)."""


@final
class Preprocessing(nn.Module):
    """uint8 images_BCSS to what the network takes: resized as the training was, standardised.

    Resizing is linear and the same for every row and column, so it is two products with matrices that hold the weights
    of torch's own antialiased bilinear filter; every runtime has those, and few have the filter.
    """

    weights_RS: Tensor
    mean_C11: Tensor
    std_C11: Tensor

    def __init__(self, size: int, resolution: int, mean_C: Tensor, std_C: Tensor) -> None:
        super().__init__()
        self.resized = size != resolution
        if self.resized:
            self.register_buffer("weights_RS", resizing_weights(size, resolution))
        self.register_buffer("mean_C11", mean_C[:, None, None].clone())
        self.register_buffer("std_C11", std_C[:, None, None].clone())

    def forward(self, images_BCSS: Tensor) -> Tensor:
        """float32 images_BCRR."""
        images_BCRR = images_BCSS.to(torch.float32)
        if self.resized:
            images_BCRR = self.weights_RS @ images_BCRR @ self.weights_RS.T
        return (images_BCRR - self.mean_C11) / self.std_C11


def resizing_weights(size: int, resolution: int) -> Tensor:
    """weights_RS of `prepare_images`'s filter along one side."""
    columns_11SS = torch.eye(size)[None, None]
    return F.interpolate(columns_11SS, (resolution, size), mode="bilinear", antialias=size > resolution)[0, 0]


@final
class ShippedNet(nn.Module):
    """Convolutions with the norms in them, pooled taps, the linear head.

    Args:
        preprocessing: makes the network take uint8 images_BCSS; None: it takes float32 images_BCRR, standardised.
    """

    def __init__(self, backbone: PlainResNet, head: nn.Module, preprocessing: Preprocessing | None) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.stem = folded(backbone.stem, backbone.stem_norm)
        self.stem_activated, self.taps = backbone.stem_activated, backbone.taps
        self.stages = nn.ModuleList(
            nn.Sequential(*(FoldedBlock(cast(PlainBlock, block)) for block in cast(nn.Sequential, stage)))
            for stage in backbone.stages
        )
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """logits_BK."""
        x_BCHW = self.stem(images if self.preprocessing is None else self.preprocessing(images))
        if not self.stem_activated:
            x_BCHW = F.relu(x_BCHW)
        features = []
        for number, stage in enumerate(self.stages):
            x_BCHW = stage(x_BCHW)
            if number >= len(self.stages) - self.taps:
                features.append(pooled(x_BCHW))
        logits_BK: Tensor = self.head(torch.cat(features, dim=1))
        return logits_BK


@dataclass(frozen=True, eq=False)
class Shipped:
    """A network and what must be known to use it.

    Attributes:
        network: takes `input_shape` with any batch size.
        inside: whether the preprocessing of tensors is a part of it.
        notes: sentences on what could not be folded.
    """

    model: Model
    network: ShippedNet
    inside: bool
    notes: tuple[str, ...]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """C, H, W."""
        d = self.model.description
        side = d.size if self.inside else d.subnet.resolution
        return d.channels, side, side

    @property
    def input_dtype(self) -> torch.dtype:
        """uint8 pixels, or standardised float32."""
        return torch.uint8 if self.inside else torch.float32

    def example(self, batch: int = 2) -> Tensor:
        """A tensor that the network takes."""
        return torch.zeros((batch, *self.input_shape), dtype=self.input_dtype)

    def prepare(self, images_BCSS: Tensor) -> Tensor:
        """What the network takes, of uint8 images as `Model.pixels` gives them."""
        if self.inside:
            return images_BCSS
        mean_C, std_C, resolution = pixel_statistics(self.model)
        return prepare_images(images_BCSS, resolution, mean_C, std_C).contiguous()

    def recipe(self) -> dict[str, Any]:
        """How an image file becomes the input, and what the output means; see `preprocessing.json`."""
        d = self.model.description
        mean_C, std_C, resolution = pixel_statistics(self.model)
        resized = [] if d.size == resolution else [
            {"step": "resize", "size": [resolution, resolution], "filter": "bilinear", "antialias": d.size > resolution,
             "align_corners": False, "inside_model": self.inside}
        ]  # fmt: skip
        return {
            "input": {
                "name": "images", "dtype": str(self.input_dtype).removeprefix("torch."),
                "shape": ["batch", *self.input_shape], "layout": "NCHW",
            },
            "steps": [
                {"step": "decode", "orientation": "upright by EXIF", "transparent": "over white",
                 "sixteen_bit_grey": "(value * 255 + 32767) // 65535",
                 "jpeg": {"as": "Pillow's Image.draft", "size": [DRAFT * d.size] * 2,
                          "scale": "decoded at 1/8, 1/4, 1/2 or 1: the smallest with both sides at least this size"}},
                {"step": "convert", "mode": "L" if d.channels == 1 else "RGB", "grey": "ITU-R 601 luma"},
                {"step": "resize", "size": [d.size, d.size], "filter": "bilinear", "antialias": True, "as": "Pillow",
                 "dtype": "uint8", "inside_model": False},
                *resized,
                {"step": "standardise", "formula": "(value - mean) / std", "values": "0..255",
                 "mean": mean_C.tolist(), "std": std_C.tolist(), "inside_model": self.inside},
            ],
            "output": {"name": "logits", "dtype": "float32", "shape": ["batch", len(d.classes)],
                       "classes": list(d.classes), "probabilities": "softmax over the last axis"},
        }  # fmt: skip


def ship(model: Model, *, with_preprocessing: bool) -> Shipped:
    """The network to export."""
    mean_C, std_C, resolution = pixel_statistics(model)
    inside = Preprocessing(model.description.size, resolution, mean_C, std_C) if with_preprocessing else None
    alike = ShippedNet(cast(PlainResNet, model.backbone), model.head, inside)
    network = copy.deepcopy(alike).eval().requires_grad_(False)
    # Files hold no layout of this processor.
    network.load_state_dict({name: one.clone(memory_format=torch.contiguous_format) for name, one in
                             network.state_dict().items()}, assign=True)  # fmt: skip
    notes = []
    left = sorted({type(one[1]).__name__ for one in network.modules() if _is_unfolded(one)})  # type: ignore[index]
    if left:
        notes.append(f"Norms that depend on the image are no part of a convolution and stay: {', '.join(left)}.")
    if not isinstance(model.head, nn.Linear):
        notes.append(
            "A cosine head divides by the length of the features: standardisation and bias stay steps of their own."
        )
    return Shipped(model, network, with_preprocessing, tuple(notes))


def pixel_statistics(model: Model) -> tuple[Tensor, Tensor, int]:
    """mean_C and std_C in units of 0..255, and the side of the network's input."""
    backbone = cast(PlainResNet, model.backbone)
    return backbone.pixel_mean_C, backbone.pixel_std_C, model.description.subnet.resolution


def _is_unfolded(module: nn.Module) -> bool:
    """Whether it is a convolution and the norm that stayed behind it."""
    return isinstance(module, nn.Sequential) and len(module) == 2 and isinstance(module[0], nn.Conv2d)
