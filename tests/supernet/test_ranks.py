"""Two real processes that train together, against one that does the same alone."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import two_ranks
from forked import CONTEXT
from hypothesis import given
from hypothesis import strategies as st

from nasimb.errors import Elsewhere, InputError
from nasimb.supernet.ranks import ONE_PROCESS, Ranks, micro_batches
from nasimb.supernet.train import Training


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks found in every quick scenario."""
    folder = tmp_path_factory.mktemp("ranks")
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        CONTEXT.Process(target=two_ranks.forked, args=(folder, {**told, "RANK": str(rank), "LOCAL_RANK": str(rank)}))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(200)
    assert [process.exitcode for process in processes] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def assert_same(found: dict[str, Any], expected: dict[str, Any], tolerance: float = 2e-6) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=tolerance, atol=tolerance, msg=f"{name}: {found[name]}")


OF_ONE = {
    "own statistics": {"steps": 4, "batch_size": 13, "ema_decay": 0.5, "accumulation": 2},
    "own statistics, accumulated": {"steps": 4, "batch_size": 13, "accumulation": 4},
    "common statistics": {"steps": 4, "batch_size": 13},
    "common statistics, accumulated": {"steps": 2, "batch_size": 13, "accumulation": 2},
}
"""What one process must be asked to follow the same curve."""


@pytest.mark.parametrize("scenario", OF_ONE)
def test_two_processes_follow_the_curve_of_one(together: list[dict[str, Any]], scenario: str) -> None:
    """Slices of 7 and 6 images: each counts by its images."""
    assert_same(together[0][scenario], two_ranks.curve(ONE_PROCESS, **OF_ONE[scenario]))


def test_with_statistics_of_their_own_two_processes_are_not_one(together: list[dict[str, Any]]) -> None:
    """The equalities above would see it."""
    found, one = together[0]["own statistics"], two_ranks.curve(ONE_PROCESS, steps=4, batch_size=13)
    assert float((found["losses"] - one["losses"]).abs().max()) > 1e-4


@pytest.mark.parametrize("scenario", [*OF_ONE, "common statistics in bfloat16", "shared"])
def test_all_ranks_end_with_the_same_bits(together: list[dict[str, Any]], scenario: str) -> None:
    first, last = (found[scenario] for found in together)
    assert first.keys() == last.keys()
    assert all(torch.equal(torch.as_tensor(first[name]), torch.as_tensor(last[name])) for name in first)


def test_half_precision_stays_near(together: list[dict[str, Any]]) -> None:
    one = two_ranks.curve(ONE_PROCESS, steps=2, precision="bfloat16")
    assert_same(together[0]["common statistics in bfloat16"], one, tolerance=2e-2)


def test_ranks_go_on_from_the_state_of_the_first(together: list[dict[str, Any]]) -> None:
    alone = two_ranks.new_training(ONE_PROCESS, ema_decay=0.9, accumulation=2)
    for progress in (0.1, 0.1, 0.5):
        alone.step(progress)
    found = together[1]["shared"]
    assert found["steps"] == 2
    # The first two steps were those of a process alone, whose statistics were its own.
    moved = two_ranks.new_training(ONE_PROCESS, ema_decay=0.9)
    for progress in (0.1, 0.1):
        moved.step(progress)
    alone._take(*moved._state(), Path("there"))
    alone.step(0.5)
    for name, tensor in alone.supernet.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=2e-6, atol=2e-6, msg=name)
    for name, tensor in alone.finished().state_dict().items():
        torch.testing.assert_close(found[f"average.{name}"], tensor, rtol=2e-6, atol=2e-6, msg=name)


def test_every_norm_is_that_of_the_whole_batch(together: list[dict[str, Any]]) -> None:
    """Outputs and gradients, against torch's own kernel over all images."""
    whole = two_ranks.normalised(ONE_PROCESS)
    first, last = (found["normalised"] for found in together)
    for name in two_ranks.NORMS:
        for what in "yx":
            parts = torch.cat([first[f"{name} 0 {what}"], last[f"{name} 1 {what}"]])
            torch.testing.assert_close(parts, whole[f"{name} 0 {what}"], rtol=1e-4, atol=1e-4)
    for name in (name for name in whole if name[-2:] not in (" y", " x")):
        torch.testing.assert_close(first[name], whole[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("recipe", "whole"), [("apart", {"sync_bn"}), ("together", {"bn", "sync_bn"})])
def test_a_norm_sees_the_images_that_it_is_for(together: list[dict[str, Any]], recipe: str, whole: set[str]) -> None:
    """sync_bn those of all processes and ghost_bn those of its own, whatever the recipe says of the others."""
    first, last = (found[f"reached {recipe}"] for found in together)
    one = two_ranks.reached(ONE_PROCESS, together=False)
    for name in ("bn", "ghost_bn", "sync_bn"):
        if name in whole:
            torch.testing.assert_close(torch.cat([first[name], last[name]]), one[f"{name} alone"], rtol=1e-4, atol=1e-4)
            assert not torch.allclose(first[name], first[f"{name} alone"], atol=1e-2)
        else:
            assert torch.equal(first[name], first[f"{name} alone"])
            assert torch.equal(last[name], last[f"{name} alone"])


def test_ranks_agree(together: list[dict[str, Any]]) -> None:
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7), "c": torch.empty(0)}
    for found in (found["meetings"] for found in together):
        assert found["total"] == 0.1 + 1.1
        assert found["highest"] == -2.5
        assert found["number"] == 0.1
        assert found["sum"].tolist() == [3.0, 3.0, 3.0]
        assert json.loads(found["told"]) == {"rank": 0, "text": "ä", "none": None, "list": [1.5, True]}
        assert json.loads(found["told by the last"])["text"] == "äää"
        for name, tensor in tensors.items():
            assert torch.equal(found[f"tensor {name}"], tensor)


def test_what_fails_on_one_rank_fails_on_all_and_is_said_once(together: list[dict[str, Any]]) -> None:
    first, last = (found["failures"] for found in together)
    assert (first["nobody"], last["nobody"]) == ("went on", "went on")
    assert first["last"].startswith("Elsewhere 1 ")
    assert last["last"] == "WorkError 1 rank 1 must do it; got nothing. Help it."
    assert first["both"] == "WorkError 1 rank 0 must do it; got nothing. Help it."
    assert last["both"].startswith("Elsewhere 1 ")
    assert "rank 0 must do it" in last["both"]
    assert first["met"] == last["met"] == 2


def test_a_loss_that_is_not_finite_on_one_rank_stops_all(together: list[dict[str, Any]]) -> None:
    first, last = (found["not finite"]["raised"] for found in together)
    assert first.startswith("NotFiniteError the training loss must stay finite; got nan at step 0")
    assert last.startswith("Elsewhere")


def test_one_alone_meets_nobody() -> None:
    """No process group is there: every meeting is over at once, with what was brought."""
    value, tensors = {"a": (1, 2)}, {"t": torch.ones(2, requires_grad=True)}
    assert ONE_PROCESS.first
    assert ONE_PROCESS.from_first(value) is value
    assert torch.equal(ONE_PROCESS.tensors_from_first(tensors)["t"], torch.ones(2))
    assert ONE_PROCESS.total(3) == ONE_PROCESS.highest(3) == ONE_PROCESS.number_from_first(3) == 3
    with pytest.raises(KeyError), ONE_PROCESS.alike():
        raise KeyError


@given(num_images=st.integers(12, 60), accumulation=st.integers(1, 3), size=st.integers(1, 4), together=st.booleans())
def test_micro_batches_are_the_batch_and_cut_as_one_process_cuts(
    num_images: int, accumulation: int, size: int, together: bool
) -> None:
    of_rank = [micro_batches(num_images, accumulation, Ranks(rank, size), together=together) for rank in range(size)]
    images = torch.arange(num_images)
    assert sorted(place for parts in of_rank for part in parts for place in part) == images.tolist()
    sizes = [len(part) for parts in of_rank for part in parts]
    assert max(sizes) - min(sizes) <= (2 if together else 1)
    assert all(len(parts) == accumulation for parts in of_rank)
    if together:  # what the ranks compute at a time
        at_a_time = [[place for parts in of_rank for place in parts[turn]] for turn in range(accumulation)]
        assert at_a_time == [part.tolist() for part in images.tensor_split(accumulation)]
    else:
        assert [list(part) for parts in of_rank for part in parts] == [
            part.tolist() for part in images.tensor_split(accumulation * size)
        ]


@pytest.mark.parametrize(("sync_bn", "least"), [(False, 12), (True, 6)])
def test_a_batch_too_small_for_so_many_ranks_is_refused(sync_bn: bool, least: int) -> None:
    def of(rank: int, batch_size: int) -> Training:
        return two_ranks.new_training(Ranks(rank, 3), batch_size=batch_size, accumulation=2, sync_bn=sync_bn)

    assert of(0, least).recipe.batch_size == least
    with pytest.raises(InputError, match=f"got {least - 1} images for 3 processes with accumulation 2"):
        of(0, least - 1)
    with pytest.raises(Elsewhere):
        of(1, least - 1)
