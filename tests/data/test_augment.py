from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nasimb.data.augment import augment, augmented, draw_moves, moved
from nasimb.data.base import ImageSet
from nasimb.data.store import TensorStore


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(num_images: int = 64, channels: int = 3, height: int = 7, width: int = 5) -> torch.Tensor:
    return torch.randint(0, 256, (num_images, channels, height, width), dtype=torch.uint8, generator=seeded(1))


@given(pad=st.integers(0, 3), flip=st.booleans(), seed=st.integers(0, 20))
@settings(max_examples=25, deadline=None)
def test_every_image_is_one_crop_of_its_padded_self(pad, flip, seed):
    before = images(8)
    after = augment(before, seeded(seed), flip, pad)
    assert after.dtype == torch.uint8
    padded = F.pad(before.float(), (pad,) * 4, mode="replicate").to(torch.uint8)
    for image, found in zip(padded, after, strict=True):
        crops = [image[:, y : y + 7, x : x + 5] for y in range(2 * pad + 1) for x in range(2 * pad + 1)]
        crops += [crop.flip(2) for crop in crops] if flip else []
        assert any(torch.equal(crop, found) for crop in crops)


def test_nothing_asked_for_changes_nothing():
    assert torch.equal(augment(images(), seeded(), False, 0), images())


def test_about_half_are_mirrored_and_every_shift_occurs():
    # A single bright pixel in the middle shows where it went.
    before = torch.zeros((2000, 1, 9, 9), dtype=torch.uint8)
    before[:, :, 4, 4] = 255
    where = augment(before, seeded(), False, 2)[:, 0].flatten(1).argmax(1)
    assert sorted(set(where.tolist())) == sorted(9 * y + x for y in range(2, 7) for x in range(2, 7))
    mirrored = (augment(images(2000), seeded(), True, 0) == images(2000).flip(3)).flatten(1).all(1)
    assert 0.45 < float(mirrored.float().mean()) < 0.55


def test_the_generator_alone_decides():
    before = torch.get_rng_state()
    one, same, other = (augment(images(), seeded(seed), True, 2) for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_sees_the_same_augmentation():
    assert torch.equal(augment(images().cuda(), seeded(), True, 2).cpu(), augment(images(), seeded(), True, 2))


def image_set(num_images: int = 12) -> ImageSet:
    store = TensorStore(images(num_images, 1, 6, 6), [("image ", num_images)])
    kept = torch.tensor([8, 3, 3, 0, 11])
    return ImageSet(store, kept, torch.zeros(5, dtype=torch.int64), ("a", "b"))


def test_an_augmented_set_does_not_depend_on_the_order_it_is_read_in():
    moved = augmented(image_set(), seeded(), True, 2)
    whole = {}
    for batch_size in (1, 2, 5):
        for order in (None, torch.tensor([4, 2, 0, 1, 3])):
            for found, positions in moved.batches(batch_size, torch.device("cpu"), order):
                for image, position in zip(found, positions.tolist(), strict=True):
                    assert torch.equal(image, whole.setdefault(position, image))
    assert torch.equal(whole[1], whole[2]), "one image of the store is moved in one way"
    assert torch.equal(
        moved.store.read(moved.indices_N, torch.device("cpu")), torch.stack([whole[p] for p in range(5)])
    )


def test_an_augmented_set_holds_what_augment_would_show():
    before = image_set()
    moved = augmented(before, seeded(), True, 2)
    everything = torch.arange(12)
    shown = augment(before.store.read(everything, torch.device("cpu")), seeded(), True, 2)
    assert torch.equal(moved.store.read(everything, torch.device("cpu")), shown)
    assert torch.equal(before.labels_N, moved.labels_N)
    assert (moved.classes, moved.name(1), moved.hashes()) == (before.classes, before.name(1), before.hashes())
    assert (moved.size, moved.channels, len(moved.store)) == (6, 1, 12)


def test_a_part_of_a_batch_is_moved_as_in_the_whole() -> None:
    """Processes that share a batch draw for all of it and move what is theirs."""
    whole, own_M = images(), torch.tensor([5, 1, 2])
    moves_3B = draw_moves(len(whole), seeded(), True, 2)
    assert torch.equal(moved(whole[own_M], moves_3B[:, own_M]), augment(whole, seeded(), True, 2)[own_M])
