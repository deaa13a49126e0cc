from __future__ import annotations

import pytest
import torch

from nasimb.data.base import ImageSet, LoadRequest, Parts, class_list, first_of, make_parts

CPU = torch.device("cpu")


def test_a_set_reads_its_own_images(image_set):
    made = image_set([3, 4, 5]).subset(torch.tensor([7, 2, 2, 11]))
    pixels = made.store.read(torch.tensor([7, 2, 2, 11]), CPU)
    (images_BCHW, positions_B), (rest, last) = list(made.batches(3, CPU))
    assert torch.equal(torch.cat([images_BCHW, rest]), pixels)
    assert torch.cat([positions_B, last]).tolist() == [0, 1, 2, 3]
    assert (made.size, made.channels, made.num_classes, len(made)) == (4, 1, 3, 4)


def test_batches_follow_the_order_asked_for(image_set):
    made = image_set([4, 4])
    order = torch.tensor([5, 0, 5, 3])
    found = list(made.batches(2, CPU, order))
    assert torch.cat([positions for _, positions in found]).tolist() == order.tolist()
    assert torch.equal(torch.cat([images for images, _ in found]), made.store.read(order, CPU))


def test_a_stream_may_be_endless(image_set):
    made = image_set([4, 4])

    def forever():
        step = 0
        while True:
            yield torch.tensor([step % 8, (step + 1) % 8])
            step += 1

    stream = made.stream(forever(), CPU)
    seen = [next(stream)[1].tolist() for _ in range(10)]
    assert seen[8] == [0, 1]


def test_class_counts_keep_zeros_and_labels_follow_subsets(image_set):
    made = image_set([2, 0, 3])
    assert made.class_counts_K.tolist() == [2, 0, 3]
    part = made.subset(torch.tensor([4, 0]))
    assert part.labels_N.tolist() == made.labels_N[[4, 0]].tolist()
    assert part.subset(torch.tensor([1])).indices_N.tolist() == [0]


def test_the_fingerprint_tells_pixels_labels_classes_and_order_apart(image_set):
    made = image_set([3, 3])
    other_labels = ImageSet(made.store, made.indices_N, made.labels_N.flip(0), made.classes)
    other_classes = ImageSet(made.store, made.indices_N, made.labels_N, ("x", "y"))
    reversed_order = made.subset(torch.arange(6).flip(0))
    different = [made, other_labels, other_classes, reversed_order, image_set([3, 3], seed=1)]
    assert len({each.fingerprint() for each in different}) == len(different)
    assert image_set([3, 3]).fingerprint() == made.fingerprint()
    assert len(made.fingerprint()) == 16


def test_number_labels_sort_by_number_and_others_by_text():
    assert class_list(["10", "9", "2", "2"]) == ("2", "9", "10")
    assert class_list(["10", "9", "two"]) == ("10", "9", "two")
    assert class_list(["007", "10"]) == ("007", "10")


def test_first_of_counts_the_rest():
    assert first_of(["a"]) == "a"
    assert first_of(["a", "b", "c"]) == "a and 2 more"


def test_make_parts_leaves_out_images_without_a_split(image_set):
    store = image_set([5]).store
    parts = make_parts(store, ["test", "", "train", "train", "source"], [0, 0, 1, 0, 1], ("a", "b"))
    assert parts.val is None
    assert (parts.train.indices_N.tolist(), parts.train.labels_N.tolist()) == ([2, 3], [1, 0])
    assert parts.test.indices_N.tolist() == [0]
    assert parts.source.indices_N.tolist() == [4]


@pytest.mark.parametrize(
    ("train", "test", "messages"),
    [
        ([3, 4], [1, 1], []),
        ([3, 4], None, []),
        ([3], None, ["at least two classes; got only class '0'"]),
        ([3, 0, 4], None, ["every class must have an image; got none in class '1'"]),
        ([3, 0, 0, 0], [1, 0, 0, 1], ["none in class '1' and 1 more", "test must also stand in train; got class '3'"]),
        ([3, 3, 3], [0, 1, 0], ["every class in train must also stand in test; got class '0' and 1 more"]),
    ],
)
def test_every_fault_of_the_class_sets_has_a_sentence(image_set, train, test, messages):
    parts = Parts(image_set(train), None if test is None else image_set(test))
    found = [str(problem) for problem in parts.problems()]
    assert len(found) == len(messages)
    for sentence, message in zip(found, messages, strict=True):
        assert message in sentence


def test_what_fits_counts_bytes():
    request = LoadRequest(size=64, memory_mib=3)
    assert request.fits(256, 3)
    assert not request.fits(257, 3)
