"""bfloat16 is taken where it is clearly faster, and measuring it changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate, cycle

import pytest
import torch

from nasimb.supernet.base import Supernet
from nasimb.supernet.fold import FoldedStem
from nasimb.supernet.precision import faster_inference, faster_precision

NewSupernet = Callable[..., Supernet]
CPU = torch.device("cpu")


def ticking(*durations: float) -> Callable[[], float]:
    """A clock that says every measured stretch took the next duration (in turn), and nothing in between."""
    ticks: Iterator[float] = accumulate(step for duration in cycle(durations) for step in (0.0, duration))
    return lambda: next(ticks)


@pytest.fixture
def cpu_with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)


@pytest.mark.usefixtures("cpu_with_bfloat16")
@pytest.mark.parametrize(("bfloat16_seconds", "expected"), [(0.5, "bfloat16"), (0.9, "float32"), (2.0, "float32")])
def test_bfloat16_must_be_clearly_faster(new_supernet: NewSupernet, bfloat16_seconds: float, expected: str) -> None:
    assert faster_precision(new_supernet(), 4, CPU, clock=ticking(1.0, bfloat16_seconds)) == expected


@pytest.mark.usefixtures("cpu_with_bfloat16")
def test_the_first_turn_only_warms_up(new_supernet: NewSupernet) -> None:
    clock = ticking(0.1, 9.0, 1.0, 0.5, 1.0, 0.5)
    assert faster_precision(new_supernet(), 4, CPU, clock=clock, repetitions=2) == "bfloat16"


@pytest.mark.usefixtures("cpu_with_bfloat16")
def test_measuring_leaves_weights_gradients_and_random_state_alone(new_supernet: NewSupernet) -> None:
    supernet, random_state = new_supernet(), torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    faster_precision(supernet, 4, CPU)
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())
    assert all(parameter.grad is None for parameter in supernet.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_without_the_hardware_nothing_is_measured(new_supernet: NewSupernet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)

    def clock() -> float:
        raise AssertionError

    assert faster_precision(new_supernet(), 4, CPU, clock=clock) == "float32"


@pytest.mark.usefixtures("cpu_with_bfloat16")
@pytest.mark.parametrize(("bfloat16_seconds", "expected"), [(0.5, "bfloat16"), (0.9, "float32"), (2.0, "float32")])
def test_inference_in_bfloat16_must_be_clearly_faster(
    new_supernet: NewSupernet, bfloat16_seconds: float, expected: str
) -> None:
    images_BCHW = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    assert faster_inference(new_supernet(), images_BCHW, clock=ticking(1.0, bfloat16_seconds)) == expected


@pytest.mark.usefixtures("cpu_with_bfloat16")
def test_inference_is_measured_in_turns_on_the_folded_steps_that_score(
    new_supernet: NewSupernet, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.dtype] = []
    forward = FoldedStem.forward

    def watching(stem: FoldedStem, images_BCHW: torch.Tensor) -> torch.Tensor:
        maps_BCHW = forward(stem, images_BCHW)
        seen.append(maps_BCHW.dtype)
        assert not maps_BCHW.requires_grad
        return maps_BCHW

    monkeypatch.setattr(FoldedStem, "forward", watching)
    faster_inference(new_supernet(), torch.zeros(4, 1, 8, 8, dtype=torch.uint8), repetitions=2)
    assert seen == [torch.float32, torch.bfloat16] * 3


def test_without_the_hardware_no_inference_is_measured(
    new_supernet: NewSupernet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)

    def clock() -> float:
        raise AssertionError

    assert faster_inference(new_supernet(), torch.zeros(4, 1, 8, 8, dtype=torch.uint8), clock=clock) == "float32"
