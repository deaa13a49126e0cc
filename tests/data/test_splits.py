from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nasimb.data.base import ImageSet
from nasimb.data.splits import check_disjoint, remove_shared, split_images, stratified_split, without
from nasimb.data.store import TensorStore
from nasimb.errors import DataError, InputError


def set_of(pixels: list[int], labels: list[int], origin: str = "made") -> ImageSet:
    """One-pixel images with these values."""
    store = TensorStore(torch.tensor(pixels, dtype=torch.uint8).view(-1, 1, 1, 1), [(origin, len(pixels))])
    return ImageSet(store, torch.arange(len(pixels)), torch.tensor(labels), ("a", "b", "c"))


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 9),
)
@settings(max_examples=80, deadline=None)
def test_a_stratified_split_keeps_and_holds_out_of_every_class(labels, fraction, seed):
    labels_N = torch.tensor(labels)
    kept, held = stratified_split(labels_N, fraction, seed)
    assert sorted(kept.tolist() + held.tolist()) == list(range(len(labels)))
    for label in set(labels):
        size = labels.count(label)
        out = int((labels_N[held] == label).sum())
        if size == 1:
            assert out == 0
        else:
            assert 1 <= out <= size - 1
            assert out in (1, size - 1) or abs(out - size * fraction) <= 0.5
    again = stratified_split(labels_N, fraction, seed)
    assert torch.equal(again[0], kept)
    assert torch.equal(again[1], held)


def test_another_seed_holds_out_other_images():
    labels_N = torch.zeros(50, dtype=torch.int64)
    assert not torch.equal(stratified_split(labels_N, 0.3, 0)[1], stratified_split(labels_N, 0.3, 1)[1])


@pytest.mark.parametrize("fraction", [0, 1, -0.2, 1.5])
def test_a_fraction_outside_its_range_is_an_error(fraction):
    with pytest.raises(InputError, match="between 0 and 1"):
        stratified_split(torch.tensor([0, 0]), fraction, 0)


@given(
    pixels=st.lists(st.integers(0, 12), min_size=4, max_size=40),
    seed=st.integers(0, 9),
    data=st.data(),
)
@settings(max_examples=80, deadline=None)
def test_repeats_of_an_image_never_stand_on_both_sides(pixels, seed, data):
    labels = data.draw(st.lists(st.integers(0, 2), min_size=len(pixels), max_size=len(pixels)))
    pool = set_of(pixels, labels)
    kept, held, copies = split_images(pool, 0.3, seed)
    assert len(kept) + len(held) + copies == len(pool)
    assert not set(kept.hashes()) & set(held.hashes())
    assert len(set(held.hashes())) == len(held)
    # Nothing but copies of held-out images is lost.
    lost = set(pool.indices_N.tolist()) - set(kept.indices_N.tolist()) - set(held.indices_N.tolist())
    assert {pixels[index] for index in lost} <= {pixels[index] for index in held.indices_N.tolist()}


def test_disjoint_sets_pass_and_shared_images_are_named():
    first, second = set_of([1, 2, 3], [0, 1, 2], "one"), set_of([4, 5, 6], [0, 1, 2], "two")
    check_disjoint({"source": first, "target": second, "test": set_of([7], [0])})
    with pytest.raises(DataError, match=r"source and test must not share an image; got 2 shared, such as one\[1\]"):
        check_disjoint({"source": first, "target": second, "test": set_of([3, 2], [0, 0], "three")})


def test_a_leak_between_source_and_target_suggests_the_target_itself():
    with pytest.raises(DataError, match="--source target"):
        check_disjoint({"source": set_of([1], [0]), "target": set_of([1], [0])})


def test_without_keeps_order():
    pool = set_of([5, 6, 7, 6], [0, 1, 2, 0])
    assert without(pool, set(pool.subset(torch.tensor([1])).hashes())).indices_N.tolist() == [0, 2]


def test_a_few_shared_images_give_way_in_the_less_precious_set():
    source = set_of(list(range(0, 150)), [0] * 150, "one")
    test = set_of(list(range(149, 256)), [1] * 107, "two")
    sets, notes = remove_shared({"source": source, "test": test})
    assert len(sets["source"]) == 149
    assert sets["test"] is test
    assert notes == ["Left out of source because also in test: 1 (first: one[149] and two[0])."]
    check_disjoint(sets)


def test_more_than_a_few_shared_images_are_an_error():
    with pytest.raises(DataError, match="2 shared"):
        remove_shared({"source": set_of(list(range(150)), [0] * 150), "test": set_of(list(range(148, 255)), [1] * 107)})


def test_the_same_stored_image_in_two_sets_is_an_error_however_few():
    pool = set_of(list(range(250)), [0] * 250)
    with pytest.raises(DataError, match=r"1 shared, such as made\[124\]\."):
        remove_shared({"target": pool.subset(torch.arange(125)), "test": pool.subset(torch.arange(124, 250))})
