"""Sandwich training: what one step does, and that training goes on bit for bit where it stopped."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nasimb.data.base import ImageSet
from nasimb.data.store import TensorStore
from nasimb.errors import InputError, ResumeError, WorkError
from nasimb.nn import moments
from nasimb.space import SearchSpace
from nasimb.supernet.base import Supernet
from nasimb.supernet.calibrate import calibrate
from nasimb.supernet.recipe import Recipe
from nasimb.supernet.train import Training

NewSupernet = Callable[..., Supernet]
CPU = torch.device("cpu")
STEPS = 6


def recipe(**options: object) -> Recipe:
    return Recipe.model_validate({"batch_size": 8, "precision": "float32", "random_subnets": 2, **options})


def training(supernet: Supernet, images: ImageSet, seed: int = 0, **options: object) -> Training:
    return Training(supernet, images, recipe(**options), seed=seed, device=CPU, flip=True)


def run(current: Training, until: int) -> list[float]:
    return [float(current.step(current.steps_done / STEPS)) for _ in range(until - current.steps_done)]


def weights(supernet: Supernet) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in supernet.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_resumed_training_goes_on_bit_for_bit(
    new_supernet: NewSupernet, images: ImageSet, tmp_path: Path, ema_decay: float
) -> None:
    undisturbed = training(new_supernet(), images, ema_decay=ema_decay)
    losses = run(undisturbed, STEPS)
    stopped = training(new_supernet(), images, ema_decay=ema_decay)
    run(stopped, 3)
    stopped.save(tmp_path)
    run(stopped, 5)  # lost: the process dies before it saves again
    resumed = training(new_supernet(seed=9), images, ema_decay=ema_decay)
    resumed.resume(tmp_path)
    assert resumed.steps_done == 3
    assert run(resumed, STEPS) == losses[3:]
    assert equal(weights(resumed.supernet), weights(undisturbed.supernet))
    assert equal(weights(resumed.finished()), weights(undisturbed.finished()))


def test_the_seed_decides_everything(new_supernet: NewSupernet, images: ImageSet) -> None:
    random_state = torch.get_rng_state()
    first, same, other = (training(new_supernet(), images, seed=seed) for seed in (1, 1, 2))
    for current in (first, other, same):
        torch.manual_seed(current.seed)  # the global state must not matter
        run(current, 2)
    assert equal(weights(first.supernet), weights(same.supernet))
    assert not equal(weights(first.supernet), weights(other.supernet))
    torch.set_rng_state(random_state)


def test_training_does_not_touch_the_global_random_state(new_supernet: NewSupernet, images: ImageSet) -> None:
    before = torch.get_rng_state()
    run(training(new_supernet(), images, precision="auto"), 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_step_follows_the_mean_of_labels_and_distillation(
    new_supernet: NewSupernet, images: ImageSet, space: SearchSpace
) -> None:
    """One step of plain SGD without momentum or decay on unshifted images, against one joint backward pass."""
    plain = {"momentum": 0.0, "weight_decay": 0.0, "shift": 0.0, "clip_norm": 1e6, "warmup": 0.0, "random_subnets": 0}
    options = {**plain, "batch_size": len(images), "sampling": "natural", "label_smoothing": 0.2, "learning_rate": 0.5}
    current = Training(new_supernet(), images, recipe(**options), seed=0, device=CPU, flip=False)
    found = current.step(0.0)

    expected = new_supernet()
    images_BCHW = images.store.read(images.indices_N, CPU)
    rng = np.random.default_rng([0, 2, 0])
    norms = [tuple(stage.norms[rng.integers(len(stage.norms))] for stage in space.stages) for _ in range(2)]
    subnets = [replace(subnet, norms=n) for subnet, n in zip((space.largest(), space.smallest()), norms, strict=True)]
    largest_BK, smallest_BK = (expected(images_BCHW, subnet) for subnet in subnets)
    hard = F.one_hot(images.labels_N, 3) * 0.8 + 0.2 / 3
    label_loss = -(hard * largest_BK.log_softmax(1)).sum(1).mean()
    soft_loss = -(largest_BK.detach().softmax(1) * smallest_BK.log_softmax(1)).sum(1).mean()
    (0.5 * label_loss + 0.5 * soft_loss).backward()
    torch.testing.assert_close(found, label_loss.detach())
    for name, parameter in expected.named_parameters():
        moved = parameter.detach() - (0.0 if parameter.grad is None else 0.5 * parameter.grad)
        torch.testing.assert_close(dict(current.supernet.named_parameters())[name].detach(), moved, msg=name)


def test_a_gradient_is_never_longer_than_the_limit(new_supernet: NewSupernet, images: ImageSet) -> None:
    supernet = new_supernet()
    before = weights(supernet)
    options = {"momentum": 0.0, "weight_decay": 0.0, "clip_norm": 0.01, "warmup": 0.0, "learning_rate": 1.0}
    training(supernet, images, **options).step(0.0)
    moved = torch.cat([(tensor - before[name]).flatten() for name, tensor in weights(supernet).items()])
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-3)


def test_norms_and_biases_do_not_decay(new_supernet: NewSupernet, images: ImageSet) -> None:
    supernet = new_supernet()
    before = weights(supernet)
    options = {"momentum": 0.0, "clip_norm": 1e-12, "weight_decay": 0.5, "warmup": 0.0, "learning_rate": 0.1}
    training(supernet, images, **options).step(0.0)  # the gradient is next to nothing
    for name, parameter in supernet.named_parameters():
        kept = 0.95 if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * kept, msg=name)


def test_every_parameter_learns(new_supernet: NewSupernet, images: ImageSet) -> None:
    supernet = new_supernet()
    before = weights(supernet)
    run(training(supernet, images, random_subnets=6, learning_rate=5.0, warmup=0.0), STEPS)
    assert [name for name, p in supernet.named_parameters() if torch.equal(p, before[name])] == []


def test_largest_and_smallest_learn_to_tell_the_classes_apart(
    new_supernet: NewSupernet, images: ImageSet, space: SearchSpace
) -> None:
    supernet = new_supernet()
    current = Training(supernet, images, recipe(shift=0.0), seed=0, device=CPU, flip=False)
    losses = [float(current.step(step / 100)) for step in range(100)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.2
    finished, images_BCHW = current.finished(), images.store.read(images.indices_N, CPU)
    for subnet in (space.largest(), space.smallest()):
        statistics = calibrate(finished, subnet, images_BCHW)
        predicted = finished(images_BCHW, subnet, moments.given(statistics)).argmax(1)
        assert float((predicted == images.labels_N).float().mean()) > 0.9


def test_the_average_follows_the_weights(new_supernet: NewSupernet, images: ImageSet) -> None:
    supernet = new_supernet()
    average = {name: parameter.detach().clone() for name, parameter in supernet.named_parameters()}
    current = training(supernet, images, ema_decay=0.25)
    for step in range(1, 4):
        current.step(0.1)
        decay = min(0.25, (1 + step) / (10 + step))
        for name, parameter in supernet.named_parameters():
            average[name] = decay * average[name] + (1 - decay) * parameter.detach()
    finished = dict(current.finished().named_parameters())
    for name, expected in average.items():
        torch.testing.assert_close(finished[name].detach(), expected)


def test_what_is_finished_is_a_frozen_copy(new_supernet: NewSupernet, images: ImageSet) -> None:
    current = training(new_supernet(), images)
    run(current, 1)
    finished = current.finished()
    before = weights(finished)
    assert not finished.training
    assert not any(parameter.requires_grad for parameter in finished.parameters())
    run(current, 2)
    assert equal(weights(finished), before)


def test_bfloat16_keeps_weights_in_float32(new_supernet: NewSupernet, images: ImageSet) -> None:
    current = training(new_supernet(), images, precision="bfloat16")
    assert all(np.isfinite(run(current, 2)))
    assert all(parameter.dtype == torch.float32 for parameter in current.supernet.parameters())


def test_the_choice_of_precision_is_kept_over_a_resume(
    new_supernet: NewSupernet, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nasimb.supernet.train.faster_precision", lambda *_: "bfloat16")
    current = training(new_supernet(), images, precision="auto")
    assert current.precision is None
    run(current, 1)
    assert current.precision == "bfloat16"
    current.save(tmp_path)
    monkeypatch.setattr("nasimb.supernet.train.faster_precision", lambda *_: "float32")
    resumed = training(new_supernet(), images, precision="auto")
    resumed.resume(tmp_path)
    run(resumed, 2)
    assert resumed.precision == "bfloat16"


@pytest.mark.parametrize(
    ("options", "seed", "what"),
    [({"learning_rate": 0.3}, 0, "recipe"), ({}, 1, "seed"), ({"space": "other"}, 0, "space")],
)
def test_another_configuration_cannot_be_resumed(
    new_supernet: NewSupernet,
    images: ImageSet,
    space: SearchSpace,
    tmp_path: Path,
    options: dict[str, object],
    seed: int,
    what: str,
) -> None:
    current = training(new_supernet(), images)
    run(current, 1)
    current.save(tmp_path)
    if options.pop("space", None):
        space = space.model_copy(update={"name": "other"})
    with pytest.raises(ResumeError, match=f"with the {what} it was started with"):
        training(new_supernet(space=space), images, seed, **options).resume(tmp_path)


def test_a_damaged_state_cannot_be_resumed(new_supernet: NewSupernet, images: ImageSet, tmp_path: Path) -> None:
    current = training(new_supernet(), images)
    with pytest.raises(InputError, match="must exist"):
        current.resume(tmp_path)
    current.save(tmp_path)
    path = tmp_path / "training.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="whole safetensors file"):
        current.resume(tmp_path)


def test_a_loss_that_is_not_finite_stops_the_training(new_supernet: NewSupernet, images: ImageSet) -> None:
    supernet = new_supernet()
    with torch.no_grad():
        next(supernet.parameters()).fill_(torch.nan)
    with pytest.raises(WorkError, match=r"loss must stay finite; got nan at step 0\. Lower learning_rate"):
        training(supernet, images).step(0.0)


def test_every_norm_of_the_largest_subnet_is_trained_on_labels(
    new_supernet: NewSupernet, images: ImageSet, space: SearchSpace
) -> None:
    """The sandwich rule trains two subnets in every step; they may not stand for the first norm alone."""
    current = training(new_supernet(), images, random_subnets=0)
    before = {name: tensor.clone() for name, tensor in current.supernet.named_parameters()}
    run(current, 12)
    moved = {name for name, tensor in current.supernet.named_parameters() if not torch.equal(tensor, before[name])}
    assert moved == set(before)


def two_kinds_of_images(copies: int) -> ImageSet:
    """Two images of two classes, each so many times: any two neighbours of a drawn order are one of each."""
    pair = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    store = TensorStore(pair.repeat(copies, 1, 1, 1), [("image ", 2 * copies)])
    return ImageSet(store, torch.arange(2 * copies), torch.tensor([0, 1]).repeat(copies), ("a", "b"))


@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulated_gradients_are_those_of_the_whole_batch(new_supernet: NewSupernet, accumulation: int) -> None:
    """Micro-batches with the statistics of the batch: the same step, but for rounding."""
    images = two_kinds_of_images(8)
    options = {"shift": 0.0, "warmup": 0.0, "weight_decay": 0.1}
    moved = []
    for parts in (1, accumulation):
        current = Training(
            new_supernet(num_classes=2), images, recipe(accumulation=parts, **options), seed=0, device=CPU, flip=False
        )
        losses = run(current, 1)
        moved.append((losses, weights(current.supernet)))
    (whole_loss, whole), (loss, accumulated) = moved
    assert loss == pytest.approx(whole_loss, rel=1e-5)
    assert not equal(whole, weights(new_supernet(num_classes=2)))
    for name, tensor in whole.items():
        torch.testing.assert_close(accumulated[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_micro_batches_of_unequal_size_count_by_their_images(new_supernet: NewSupernet, images: ImageSet) -> None:
    """The loss of a step is the mean over its images: 8 of them in parts of 3, 3 and 2."""
    current = training(new_supernet(), images, accumulation=3)
    seen: list[tuple[int, float]] = []
    original = current._sandwich

    def watching(images_BCHW: Tensor, *arguments: Any) -> Tensor:
        loss = original(images_BCHW, *arguments)
        seen.append((len(images_BCHW), float(loss)))
        return loss

    current._sandwich = watching  # type: ignore[method-assign]
    (loss,) = run(current, 1)
    assert [size for size, _ in seen] == [3, 3, 2]
    assert loss == pytest.approx(sum(size * value for size, value in seen) / 8)


def most_saved_bytes(current: Training) -> int:
    """The most bytes that one step keeps for its backward passes at any time, each storage counted once."""
    alive: dict[int, int] = {}
    most = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal most
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in alive:
            key = storage.data_ptr()
            alive[key] = storage.nbytes()
            weakref.finalize(storage, alive.pop, key, None)
            most = max(most, sum(alive.values()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        current.step(0.5)
    return most


def test_accumulation_saves_memory(new_supernet: NewSupernet, images: ImageSet) -> None:
    whole, quarter = (
        most_saved_bytes(training(new_supernet(), images, batch_size=64, accumulation=parts)) for parts in (1, 4)
    )
    assert quarter < 0.4 * whole


class ReadingCounted(TorchDispatchMode):
    """Counts how often a tensor becomes a number: on a GPU each time waits until all work given to it is done."""

    def __init__(self) -> None:
        super().__init__()
        self.read = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        self.read += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_step_reads_nothing_back(new_supernet: NewSupernet, images: ImageSet) -> None:
    current = training(new_supernet(), images, batch_size=4, ema_decay=0.9, accumulation=2)
    with ReadingCounted() as counted:
        current.step(0.0)
    assert counted.read > 0  # the loss is looked at, and the order of the epoch is drawn
    with ReadingCounted() as counted:
        for _ in range(4):
            current.step(0.5)
    assert counted.read == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_step_does_not_wait_for_the_gpu(new_supernet: NewSupernet, images: ImageSet) -> None:
    device = torch.device("cuda")
    store = TensorStore(images.store.read(images.indices_N, device), [("image ", len(images))])
    on_device = ImageSet(store, torch.arange(len(images)), images.labels_N, images.classes)
    current = Training(new_supernet(), on_device, recipe(batch_size=4), seed=0, device=device, flip=True)
    current.step(0.0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            current.step(0.5)
    finally:
        torch.cuda.set_sync_debug_mode("default")
