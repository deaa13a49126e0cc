from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from nasimb.data.base import LoadRequest
from nasimb.data.digits import DigitsSpec, parse_digits
from nasimb.errors import InputError
from nasimb.spec import parse

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def parts():
    return DigitsSpec().load(LoadRequest(size=8))


def test_the_three_parts_have_their_sizes(parts):
    assert parts.source.class_counts_K.tolist() == [54] * 10
    assert parts.train.class_counts_K.tolist() == [60] * 10
    assert parts.test.class_counts_K.tolist() == [60] * 10
    assert parts.train.classes == tuple("0123456789")
    assert parts.val is None


def test_the_parts_share_no_image(parts):
    hashes = [set(part.hashes()) for part in (parts.source, parts.train, parts.test)]
    assert sum(map(len, hashes)) == len(set.union(*hashes)) == 1740


def test_pixels_are_the_originals_scaled(parts):
    found = load_digits()
    index = int(parts.test.indices_N[17])
    image = parts.test.store.read(torch.tensor([index]), CPU)[0, 0].numpy()
    assert (image == np.round(found.images[index] * 255 / 16)).all()
    assert parts.test.classes[int(parts.test.labels_N[17])] == str(found.target[index])
    assert image.max() == 255


def test_the_parts_mix_the_writers(parts):
    """The originals are ordered by writer: every part must reach from the beginning to the end of them."""
    for part in (parts.source, parts.train, parts.test):
        thirds = np.bincount(part.indices_N.numpy() // 599, minlength=3) / len(part)
        assert thirds.min() > 0.25


def test_size_and_channels_are_as_requested():
    found = DigitsSpec().load(LoadRequest(size=12, channels=3)).train
    images, _ = next(found.batches(5, CPU))
    assert images.shape == (5, 3, 12, 12)
    assert torch.equal(images[:, 0], images[:, 2])


def test_some_digits_alone_keep_their_images(parts):
    few = DigitsSpec(digits=(5, 8)).load(LoadRequest(size=8))
    assert few.train.classes == ("5", "8")
    assert few.train.class_counts_K.tolist() == [60, 60]
    of_all = parts.train.indices_N[(parts.train.labels_N == 5) | (parts.train.labels_N == 8)]
    assert torch.equal(few.train.indices_N, of_all)


def test_another_seed_draws_other_parts(parts):
    other = DigitsSpec(parts_seed=1).load(LoadRequest(size=8))
    assert not torch.equal(other.test.indices_N, parts.test.indices_N)


def test_a_source_part_can_be_left_out():
    assert DigitsSpec(source_per_class=0).load(LoadRequest(size=8)).source is None


def test_parts_that_are_too_large_are_refused():
    with pytest.raises(InputError, match="at most 174 images a class, not 175"):
        parse(DigitsSpec, {"source_per_class": 55}, what="digits")


@pytest.mark.parametrize(("text", "digits"), [("0-4", (0, 1, 2, 3, 4)), ("7,1,3-5", (1, 3, 4, 5, 7)), ("9", (9,))])
def test_ranges_of_digits(text, digits):
    assert parse_digits(text) == digits


@pytest.mark.parametrize("text", ["a", "1-", "-1", "1,,2", "1-b"])
def test_wrong_ranges_get_a_sentence(text):
    with pytest.raises(InputError, match="list or a range"):
        parse_digits(text)
