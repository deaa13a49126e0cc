"""Latency by measurement."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn

FEWEST_PASSES = 3


@torch.no_grad()
def latency(module: nn.Module, images_BCHW: Tensor, *, min_run_seconds: float = 0.2) -> float:
    """Median seconds of one forward pass of `module` (in eval mode) over `images_BCHW`, on the device of both.

    Give one image for the usual meaning of latency. The first pass warms up and does not count; every pass waits for
    the device. (torch.utils.benchmark does the same, but importing it looks for a compiler and may print warnings.)

    Example:
        >>> image_1CHW = torch.rand(1, 3, 32, 32)
        >>> narrow, wide = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 512, 3)
        >>> latency(narrow, image_1CHW, min_run_seconds=0.01) < latency(wide, image_1CHW, min_run_seconds=0.01)
        True
    """
    module.eval()
    _timed_pass(module, images_BCHW)
    taken = [_timed_pass(module, images_BCHW) for _ in range(FEWEST_PASSES)]
    while sum(taken) < min_run_seconds:
        taken.append(_timed_pass(module, images_BCHW))
    return statistics.median(taken)


def _timed_pass(module: nn.Module, images_BCHW: Tensor) -> float:
    _wait_for(images_BCHW.device)
    start = time.perf_counter()
    module(images_BCHW)
    _wait_for(images_BCHW.device)
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
