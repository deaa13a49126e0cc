"""What a head on frozen features really costs: a small network frozen, against the same network trained on the target.

Shapes: N images, D features.
"""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor, nn

from care.pairs import pixels
from nasimb.data.base import ImageSet

WIDTHS, BATCH, STEPS, RATE = (24, 48, 96), 64, 400, 2e-3


def network(channels: int, classes: int) -> nn.Sequential:
    """Three stages of strided convolution and norm, and a linear head as the last member."""
    parts: list[nn.Module] = []
    for before, width in zip((channels, *WIDTHS), WIDTHS, strict=False):
        parts += [nn.Conv2d(before, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * WIDTHS[-1], classes))


def as_input(images: ImageSet, channels: int) -> Tensor:
    return (pixels(images).float() / 255).expand(-1, channels, -1, -1)


def trained(net: nn.Sequential, images_NCHW: Tensor, labels_N: Tensor, seed: int) -> nn.Sequential:
    """The network after `STEPS` steps on class-balanced batches."""
    torch.manual_seed(seed)
    optimiser = torch.optim.AdamW(net.parameters(), RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS)
    weight_N = 1.0 / torch.bincount(labels_N)[labels_N].double()
    net.train()
    for _ in range(STEPS):
        batch = torch.multinomial(weight_N, BATCH, replacement=True)
        loss = F.cross_entropy(net(images_NCHW[batch]), labels_N[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return net.eval()


@torch.no_grad()
def outputs(net: nn.Sequential, images_NCHW: Tensor) -> Tensor:
    return torch.cat([net(batch) for batch in images_NCHW.split(512)])


def accuracies(source: ImageSet, target: ImageSet, test: ImageSet, seed: int) -> tuple[float, float, float]:
    """Balanced accuracy on `test`: of a head on frozen features, of the network trained on, and of it trained anew."""
    torch.manual_seed(seed)
    channels = max(source.channels, target.channels)
    source_NCHW, target_NCHW, test_NCHW = (as_input(side, channels) for side in (source, target, test))
    labels_N, truth_N = target.labels_N, test.labels_N.numpy()
    origin = trained(network(channels, source.num_classes), source_NCHW, source.labels_N, seed)
    frozen = origin[:-1]
    head = LinearDiscriminantAnalysis(
        solver="lsqr", shrinkage="auto", priors=np.full(target.num_classes, 1 / target.num_classes)
    )
    head.fit(outputs(frozen, target_NCHW).numpy(), labels_N.numpy())
    found = [balanced_accuracy_score(truth_N, head.predict(outputs(frozen, test_NCHW).numpy()))]
    on, anew = network(channels, target.num_classes), network(channels, target.num_classes)
    on[:-1].load_state_dict(deepcopy(frozen.state_dict()))
    for net in (on, anew):
        trained(net, target_NCHW, labels_N, seed)
        found.append(balanced_accuracy_score(truth_N, outputs(net, test_NCHW).argmax(1).numpy()))
    return found[0], found[1], found[2]
