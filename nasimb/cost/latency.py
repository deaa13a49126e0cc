"""Latency by measurement."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer


@torch.no_grad()
def latency(module: nn.Module, images_BCHW: Tensor, *, min_run_seconds: float = 0.2) -> float:
    """Median seconds of one forward pass of `module` (in eval mode) over `images_BCHW`, on the device of both.

    Give one image for the usual meaning of latency. torch's timer warms up and waits for the device. Threads: as
    many as torch is set to use (the timer by itself would take one).
    """
    timer = Timer(
        "module(images)",
        globals={"module": module.eval(), "images": images_BCHW},
        num_threads=torch.get_num_threads(),
    )
    return float(timer.blocked_autorange(min_run_time=min_run_seconds).median)
