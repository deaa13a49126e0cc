from __future__ import annotations

import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch

from nasimb.data.base import ImageSet, LoadRequest
from nasimb.data.files import load_files
from nasimb.data.store import FileStore, TensorStore
from nasimb.errors import DataError

CPU = torch.device("cpu")


@pytest.fixture
def paths(picture):
    sizes = [(9, 7), (5, 5), (16, 12), (30, 20)]
    return [
        picture(
            f"{number}.{'png' if number % 2 else 'jpg'}", mode="L" if number % 3 == 0 else "RGB", size=sizes[number % 4]
        )
        for number in range(13)
    ]


def both_stores(paths, workers=0, channels=None):
    request = LoadRequest(size=6, channels=channels, workers=workers)
    streamed = LoadRequest(size=6, channels=channels, workers=workers, memory_mib=0)
    return load_files(paths, request).store, load_files(paths, streamed).store


@pytest.mark.parametrize("channels", [1, 3])
def test_both_stores_give_the_same_pixels_hashes_and_names(paths, channels):
    in_memory, in_files = both_stores(paths, channels=channels)
    assert isinstance(in_memory, TensorStore)
    assert isinstance(in_files, FileStore)
    indices = torch.tensor([12, 0, 5, 5, 7])
    assert torch.equal(in_memory.read(indices, CPU), in_files.read(indices, CPU))
    assert in_memory.hashes() == in_files.hashes()
    assert [in_memory.name(i) for i in range(13)] == [in_files.name(i) for i in range(13)]
    assert in_files.name(3) == str(paths[3])
    assert (in_files.channels, in_files.size, len(in_files)) == (in_memory.channels, in_memory.size, 13)


def test_streams_are_equal_with_threads_and_with_processes(paths):
    order = torch.randperm(13, generator=torch.Generator().manual_seed(1))
    labels = torch.zeros(13, dtype=torch.int64)
    in_memory, in_threads = both_stores(paths)
    in_processes = both_stores(paths, workers=2)[1]
    expected = None
    for store in (in_memory, in_threads, in_processes):
        image_set = ImageSet(store, torch.arange(13), labels, ("a",))
        found = list(image_set.batches(4, CPU, order))
        assert torch.cat([positions for _, positions in found]).tolist() == order.tolist()
        assert [len(images) for images, _ in found] == [4, 4, 4, 1]
        pixels = torch.cat([images for images, _ in found])
        expected = pixels if expected is None else expected
        assert torch.equal(pixels, expected)
    # The same worker processes serve a second pass, and two passes at once do not disturb each other.
    again = ImageSet(in_processes, torch.arange(13), labels, ("a",))
    pairs = list(zip(again.batches(4, CPU, order), again.batches(4, CPU, order), strict=True))
    assert torch.equal(torch.cat([images for (images, _), _ in pairs]), expected)
    assert torch.equal(torch.cat([images for _, (images, _) in pairs]), expected)


def test_leaving_a_stream_half_way_does_not_spoil_the_next(paths):
    store = both_stores(paths, workers=1)[1]
    batches = torch.arange(12).split(2)
    first = store.stream(batches, CPU)
    next(first)
    first.close()
    expected = store.read(torch.arange(12), CPU)
    assert torch.equal(torch.cat(list(store.stream(batches, CPU))), expected)


def test_workers_start_in_any_way(paths):
    store = both_stores(paths, workers=1)[1]
    loader, batches = store._new_loader()
    loader.multiprocessing_context = multiprocessing.get_context("spawn")
    batches.current = [torch.tensor([3, 1])]
    assert torch.equal(next(iter(loader)), store.read(torch.tensor([3, 1]), CPU))


@pytest.mark.parametrize("workers", [0, 1])
def test_streaming_leaves_the_global_generator_alone(paths, workers):
    store = both_stores(paths, workers=workers)[1]
    before = torch.get_rng_state()
    list(store.stream([torch.tensor([0, 1])], CPU))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_lost_during_a_run_is_named(paths, workers):
    store = both_stores(paths, workers=workers)[1]
    paths[2].unlink()
    with pytest.raises(
        DataError, match=r"must stay readable while they are used; got .*2\.jpg \(no such file\)\. Rest"
    ):
        list(store.stream([torch.tensor([0, 1]), torch.tensor([2])], CPU))
    with pytest.raises(DataError, match=r"2\.jpg \(no such file\)"):
        store.read(torch.tensor([2]), CPU)


def test_hashes_tell_images_apart():
    pixels = torch.randint(0, 256, (50, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels[7] = pixels[3]
    hashes = TensorStore(pixels, [("made", 50)]).hashes()
    assert len(set(hashes)) == 49
    assert hashes[7] == hashes[3]


def test_images_of_runs_are_numbered():
    store = TensorStore(torch.zeros((6, 1, 2, 2), dtype=torch.uint8), [("a", 2), ("alone", 1), ("b", 3)])
    assert [store.name(i) for i in range(6)] == ["a[0]", "a[1]", "alone", "b[0]", "b[1]", "b[2]"]


def test_reading_does_not_hand_out_the_store_itself():
    store = TensorStore(torch.zeros((3, 1, 2, 2), dtype=torch.uint8), [("a", 3)])
    store.read(torch.arange(3), CPU).fill_(9)
    assert not np.any(store.read(torch.arange(3), CPU).numpy())


def test_copies_to_another_device_run_one_batch_ahead():
    # "meta" stands for any accelerator.
    store = TensorStore(torch.zeros((5, 1, 2, 2), dtype=torch.uint8), [("a", 5)])
    taken = []

    def batches():
        for indices_B in torch.arange(5).split(2):
            taken.append(len(indices_B))
            yield indices_B

    stream = store.stream(batches(), torch.device("meta"))
    first = next(stream)
    assert taken == [2, 2]
    assert [(images.device.type, len(images)) for images in (first, *stream)] == [("meta", 2), ("meta", 2), ("meta", 1)]
    assert list(store.stream([], torch.device("meta"))) == []


def test_an_interrupt_does_not_take_the_workers_down(paths):
    store = both_stores(paths, workers=1)[1]
    before = set(multiprocessing.active_children())
    stream = store.stream(torch.arange(12).split(1), CPU)
    found = [next(stream)]
    (worker,) = set(multiprocessing.active_children()) - before
    os.kill(worker.pid, signal.SIGINT)
    assert len([*found, *stream]) == 12


def test_a_signal_to_the_group_of_processes_leaves_the_workers_alone(paths):
    """As torchrun ends its processes; the main process asks itself after every unit of work whether to stop."""
    store = both_stores(paths, workers=1)[1]
    before = set(multiprocessing.active_children())
    stream = store.stream(torch.arange(12).split(1), CPU)
    found = [next(stream)]
    (worker,) = set(multiprocessing.active_children()) - before
    assert os.getpgid(worker.pid) != os.getpgid(0)
    assert len([*found, *stream]) == 12
