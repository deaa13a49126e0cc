"""A small trained network and streams of made images for it: four kinds of coloured gratings and blobs.

Shapes: N images of 3 x 16 x 16, K = 4 classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from nasimb.adapt import ClassProfile, class_profile

CLASSES, SIDE = 4, 16
EPOCHS = 5


class MadeNet(nn.Module):
    """Three convolutions, each with a batch norm; dropout shows if something trains."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 8, 16, 16)
        blocks = [
            nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b, stride in zip(widths, widths[1:], (1, 2, 2), strict=False)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Linear(widths[-1], CLASSES)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.blocks(images_BCHW).mean((2, 3))))


class Made(NamedTuple):
    """The network, its profile, and images that it was not trained on, in random order."""

    model: MadeNet
    profile: ClassProfile
    images_NCHW: Tensor
    labels_N: Tensor


def drawn_images(labels_N: Tensor, seed: int) -> Tensor:
    """Upright and lying gratings, a bright and a dark blob, of random place and colour, with noise: [N, 3, 16, 16]."""
    rng = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(len(labels_N), 1, 1, generator=rng) * (high - low) + low

    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    wave, phase = uniform(0.8, 1.6), uniform(0, 6.3)
    blob = (-((x - uniform(4, 12)) ** 2 + (y - uniform(4, 12)) ** 2) / (2 * uniform(1.5, 3) ** 2)).exp()
    kinds_KNHW = torch.stack([torch.sin(wave * x + phase), torch.sin(wave * y + phase), 1.6 * blob, -1.6 * blob])
    of_class_NHW = kinds_KNHW[labels_N, torch.arange(len(labels_N))]
    colour_N3 = 0.5 + torch.rand(len(labels_N), 3, generator=rng)
    noise = 0.35 * torch.randn(len(labels_N), 3, SIDE, SIDE, generator=rng)
    return 0.5 + 0.16 * (of_class_NHW[:, None] * colour_N3[:, :, None, None] + noise)


def even_labels(images: int, seed: int) -> Tensor:
    """Every class equally often, in random order."""
    rng = torch.Generator().manual_seed(seed)
    return (torch.arange(images) % CLASSES)[torch.randperm(images, generator=rng)]


def trained() -> Made:
    """Under a second of training on one thread."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MadeNet()
        labels_N = even_labels(1024, seed=1)
        images_NCHW = drawn_images(labels_N, seed=2)
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for order_N in (torch.randperm(len(labels_N)) for _ in range(EPOCHS)):
            for part in order_N.split(64):
                optimiser.zero_grad()
                nn.functional.cross_entropy(model(images_NCHW[part]), labels_N[part]).backward()
                optimiser.step()
    model.eval().zero_grad()
    profile = class_profile(model, images_NCHW, labels_N)
    fresh_N = even_labels(4096, seed=3)
    return Made(model, profile, drawn_images(fresh_N, seed=4), fresh_N)


def corrupted(images_NCHW: Tensor) -> Tensor:
    """Low in contrast, tinted and brighter: the statistics of every layer move, and the classes stay visible."""
    tint_3 = torch.tensor([0.2, 0.1, 0.25])[:, None, None]
    return images_NCHW * 0.6 + tint_3


def noisy(images_NCHW: Tensor, seed: int = 0) -> Tensor:
    """With noise on every pixel."""
    return images_NCHW + 0.25 * torch.randn(images_NCHW.shape, generator=torch.Generator().manual_seed(seed))


def accuracy(logits_NK: Tensor, labels_N: Tensor) -> float:
    return float((logits_NK.argmax(1) == labels_N).float().mean())
