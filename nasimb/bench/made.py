"""Made-up features of any size, as long-tailed classes would have them.

Shapes: N images, B images of one chunk, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

GIB = 2**30
CHUNK = 2048
DECAY = 1.0
"""Deviations along the principal axes fall as 1 / rank ** DECAY. Pooled features of small networks, standardised, do so
(eigenvalues with exponents -2.2 on CIFAR-10 and on plankton): that is what makes logistic regression slow on them, and
isotropic noise would not."""
SEPARATION = 0.15
"""Deviation of class means over that within classes: linear heads are right for most images, and not for all."""

Chunks = Callable[[], Iterator[tuple[Tensor, Tensor]]]
"""A new pass over (features_BD, labels_B), every time it is called."""


def long_tailed_labels(num_images: int, num_classes: int, generator: torch.Generator) -> Tensor:
    """labels_N in random order: exponential counts, two images at least, that sum to N."""
    shares_K = torch.logspace(0, -2, num_classes, dtype=torch.float64)
    counts_K = (shares_K / shares_K.sum() * num_images).floor().clamp(min=2).long()
    excess = int(counts_K.sum()) - num_images
    counts_K[0] = max(2, int(counts_K[0]) - excess)
    labels_N = torch.arange(num_classes).repeat_interleave(counts_K)[:num_images]
    return labels_N[torch.randperm(len(labels_N), generator=generator)]


def stream(labels_N: Tensor, num_features: int, seed: int) -> Chunks:
    """Features made as they are read, float32: class means plus noise; the same in every pass."""
    generator = torch.Generator().manual_seed(seed)
    num_classes = int(labels_N.max()) + 1
    deviations_D = torch.arange(1, num_features + 1).float() ** -DECAY
    means_KD = SEPARATION * torch.randn(num_classes, num_features, generator=generator)
    rotation_DD, _ = torch.linalg.qr(torch.randn(num_features, num_features, generator=generator))
    axes_DD = deviations_D[:, None] * rotation_DD

    def chunks() -> Iterator[tuple[Tensor, Tensor]]:
        noise = torch.Generator().manual_seed(seed + 1)
        for labels_B in torch.split(labels_N, CHUNK):
            noise_BD = torch.randn(len(labels_B), num_features, generator=noise)
            yield (means_KD[labels_B] + noise_BD) @ axes_DD, labels_B

    return chunks
