from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from nasimb.supernet.sgd import descend


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_are_those_of_torch_bit_for_bit(momentum):
    ours = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 2, 1))
    theirs = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 2, 1))
    theirs.load_state_dict(ours.state_dict())
    decayed = [parameter for parameter in theirs.parameters() if parameter.ndim > 1]
    free = [parameter for parameter in theirs.parameters() if parameter.ndim <= 1]
    oracle = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 0.1}, {"params": free, "weight_decay": 0.0}],
        lr=1.0, momentum=momentum, nesterov=momentum > 0,
    )  # fmt: skip
    momenta = {}
    for step in range(5):
        images_BCHW = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        for network in (ours, theirs):
            whole = network(images_BCHW).square().mean()
            # Norms that a step does not use are left alone, momentum and all.
            part = network[2](network[0](images_BCHW)).square().mean()
            (part if step == 3 else whole).backward()
        rate = 0.1 / (step + 1)
        descend(dict(ours.named_parameters()), momenta, learning_rate=rate, momentum=momentum, weight_decay=0.1)
        for group in oracle.param_groups:
            group["lr"] = rate
        oracle.step()
        oracle.zero_grad()
        for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(own, other)
            assert own.grad is None


def test_no_training_imports_the_compiler():
    code = """
import sys, torch
from nasimb.supernet.sgd import descend
weight = torch.nn.Parameter(torch.ones(2, 2))
weight.sum().backward()
descend({"weight": weight}, {}, learning_rate=0.1, momentum=0.9, weight_decay=0.0)
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
