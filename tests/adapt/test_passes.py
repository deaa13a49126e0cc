"""Passes through a private copy: the model stays, failures leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from adapt.made_net import Made
from nasimb.adapt.passes import Passes
from nasimb.errors import InputError
from nasimb.nn.moments import Moments, moments


def of_batch(name: str, x_BCHW: Tensor) -> Moments:
    return moments(x_BCHW)


def test_without_being_asked_a_copy_does_what_the_model_does(made: Made) -> None:
    passes, images = Passes(made.model), made.images_NCHW[:32]
    before = passes.run(images)
    with torch.no_grad():
        assert torch.equal(before, made.model(images))
    adapted = passes.run(images + 0.5, of_batch)
    assert not torch.equal(passes.run(images), before)  # what was written stays ...
    passes.write_source()
    assert torch.equal(passes.run(images), before)  # ... until the source is
    passes.run(images, lambda name, x_BCHW: None)
    assert torch.equal(passes.run(images), before)
    assert not adapted.requires_grad


def test_written_moments_are_those_that_were_asked_for(made: Made) -> None:
    passes, images = Passes(made.model), made.images_NCHW[:32] + 0.3
    told: dict[str, Moments] = {}

    def seen(name: str, x_BCHW: Tensor) -> Moments:
        told[name] = moments(x_BCHW)
        return told[name]

    expected = passes.run(images, seen)
    assert list(told) == list(passes.layers) == ["blocks.0.1", "blocks.1.1", "blocks.2.1"]
    passes.write_source()
    passes.write(told)
    assert torch.equal(passes.run(images), expected)


def test_a_model_in_training_stays_so(made: Made) -> None:
    model = nn.Sequential(made.model).train()
    try:
        buffers = {name: one.clone() for name, one in model.named_buffers()}
        Passes(model).run(made.images_NCHW[:8], of_batch)
        assert all(module.training for module in model.modules())
        assert all(torch.equal(one, buffers[name]) for name, one in model.named_buffers())
    finally:
        model.eval()


def failing_at(size: int) -> nn.Module:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) == size:
                raise RuntimeError("out of luck\nand more")
            return x

    return Fails()


def test_a_model_that_fails_is_told_and_works_afterwards() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), failing_at(3), nn.Linear(4, 2)).eval()
    passes, x = Passes(model), torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    expected = passes.run(x)
    with pytest.raises(
        InputError, match=r"must take the images; got torch.float32 \[3, 4\]: out of luck\. Give"
    ) as error:
        passes.run(x[:3], of_batch)
    assert isinstance(error.value.__cause__, RuntimeError)
    passes.write_source()
    assert torch.equal(passes.run(x), expected)


def test_memory_that_ran_out_is_no_fault_of_the_images() -> None:
    class Hungry(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("too much")

    with pytest.raises(torch.OutOfMemoryError):
        Passes(nn.Sequential(nn.BatchNorm1d(4), Hungry())).run(torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("output", "got"),
    [
        (lambda x: (x, x), "tuple"),
        (lambda x: x[:, :, None], r"Tensor \[5, 4, 1\]"),
        (lambda x: x[:1], r"Tensor \[1, 4\]"),
        (lambda x: {"logits": x}, "dict"),
    ],
)
def test_outputs_that_are_no_logits_are_refused(output: Callable[[Tensor], object], got: str) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> object:
            return output(x)

    with pytest.raises(InputError, match=rf"logits \[B, K\]; got {got}.*Wrap the model"):
        Passes(nn.Sequential(nn.BatchNorm1d(4), Odd())).run(torch.zeros(5, 4))


def test_models_whose_norms_cannot_be_reached_are_refused(made: Made) -> None:
    images = made.images_NCHW[:4]
    exported = torch.export.export(made.model, (images,)).module()
    with pytest.raises(InputError, match=r"must call its norms; got none of blocks.0.1, .*before torch.export"):
        Passes(exported).run(images, of_batch)
    with pytest.warns(FutureWarning):
        traced = torch.jit.trace(made.model, images)
    with pytest.raises(InputError, match=r"must be reachable; got TopLevelTracedModule. Give the model before"):
        Passes(traced)


def test_a_copy_is_apart_and_keeps_the_hooks_of_others(made: Made) -> None:
    calls: list[int] = []
    handle = made.model.blocks[0][1].register_forward_hook(lambda *_: calls.append(1))
    try:
        passes = Passes(made.model)
    finally:
        handle.remove()
    asked: list[str] = []
    copy = passes.copied()
    copy(made.images_NCHW[:2])
    assert calls == [1]
    passes.run(made.images_NCHW[:2], lambda name, x_BCHW: asked.append(name))
    assert asked == list(passes.layers)
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in copy.modules()) == 1
    assert not {id(one) for one in copy.buffers()} & {id(one) for one in passes.model.buffers()}
