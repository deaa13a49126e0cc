from __future__ import annotations

import numpy as np
import pytest
import torch

from nasimb.data.arrays import ArraysSpec
from nasimb.data.base import LoadRequest
from nasimb.errors import DataError

CPU = torch.device("cpu")
REQUEST = LoadRequest(size=6)
RNG = np.random.default_rng(0)


def arrays(**changes: object) -> dict[str, object]:
    """A valid file: 8 grey training images and 4 test images of two classes; None drops a key."""
    made = {
        "train_images": RNG.integers(0, 256, (8, 6, 6), dtype=np.uint8),
        "train_labels": np.array([0, 1] * 4),
        "test_images": RNG.integers(0, 256, (4, 6, 6), dtype=np.uint8),
        "test_labels": np.array([0, 1, 1, 0], dtype=np.uint8),
        "class_names": np.array(["cat", "dog"]),
    }
    return {key: value for key, value in (made | changes).items() if value is not None}


@pytest.fixture
def write(tmp_path):
    def save(compressed: bool = False, **changes):
        path = tmp_path / "data.npz"
        (np.savez_compressed if compressed else np.savez)(path, **arrays(**changes))
        return ArraysSpec(path=path)

    return save


def pixels_of(image_set):
    return torch.cat([images for images, _ in image_set.batches(100, CPU)]).numpy()


def test_grey_arrays_come_back_as_they_were(write):
    colours = RNG.integers(0, 256, (8, 6, 6), dtype=np.uint8)
    parts = write(compressed=True, train_images=colours).load(REQUEST)
    assert (pixels_of(parts.train)[:, 0] == colours).all()
    assert parts.train.classes == ("cat", "dog")
    assert parts.train.labels_N.tolist() == [0, 1] * 4
    assert parts.test.labels_N.tolist() == [0, 1, 1, 0]
    assert parts.train.channels == 1
    assert parts.test.name(2).endswith("data.npz:test_images[2]")


def test_colour_arrays_have_their_channels_last(write):
    colours = RNG.integers(0, 256, (8, 6, 6, 3), dtype=np.uint8)
    parts = write(train_images=colours).load(REQUEST)
    assert (pixels_of(parts.train) == colours.transpose(0, 3, 1, 2)).all()
    # One colour split makes the grey one colour too.
    assert parts.test.channels == 3


def test_splits_of_different_shapes_meet_at_the_size_requested(write):
    parts = write(test_images=RNG.integers(0, 256, (4, 9, 5, 1), dtype=np.uint8)).load(LoadRequest(size=4))
    assert pixels_of(parts.train).shape == (8, 1, 4, 4)
    assert pixels_of(parts.test).shape == (4, 1, 4, 4)


def test_test_and_names_are_optional_and_val_is_read(write):
    parts = write(test_images=None, test_labels=None, class_names=None).load(REQUEST)
    assert parts.test is None
    assert parts.train.classes == ("0", "1")
    images, labels = arrays()["test_images"], arrays()["test_labels"]
    assert len(write(val_images=images, val_labels=labels).load(REQUEST).val) == 4


def test_labels_with_gaps_and_text_labels_map_to_a_sorted_list(write):
    gaps = write(class_names=None, train_labels=np.array([10, 9] * 4), test_labels=np.array([9, 10, 9, 9])).load(
        REQUEST
    )
    assert gaps.train.classes == ("9", "10")
    assert gaps.train.labels_N.tolist() == [1, 0] * 4
    text = write(class_names=None, train_labels=np.array(["b", "a"] * 4), test_labels=np.array(["a", "b"] * 2))
    assert text.load(REQUEST).test.labels_N.tolist() == [0, 1] * 2


def test_arrays_above_the_memory_limit_stay_on_the_cpu(write):
    # "meta" stands for any accelerator: nothing may be read from it.
    request = LoadRequest(size=6, memory_mib=0, device=torch.device("meta"))
    assert len(pixels_of(write().load(request).train)) == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": None}, r"key train_images; got .*data\.npz with the keys class_names, test_images"),
        ({"train_labels": None}, "must have the key train_labels; got train_images alone"),
        ({"test_labels": None}, "must have the key test_labels"),
        ({"train_images": np.zeros((8, 6, 6), np.float32)}, r"must be uint8; got float32\. Scale to 0\.\.255"),
        ({"train_images": np.zeros((8, 36), np.uint8)}, r"\[N, H, W\] or \[N, H, W, 3\]; got \[8, 36\]"),
        ({"train_images": np.zeros((8, 3, 6, 6), np.uint8)}, r"got \[8, 3, 6, 6\]\. Move the channels last"),
        ({"train_images": np.zeros((8, 6, 6, 4), np.uint8)}, r"got \[8, 6, 6, 4\]\. Write train_images"),
        ({"train_images": np.zeros((8, 0, 6), np.uint8)}, r"got \[8, 0, 6\]"),
        ({"train_images": np.zeros((7, 6, 6), np.uint8)}, "one label each; got 7 images and 8 labels"),
        ({"train_labels": np.zeros(8)}, r"\[N\] integers \(or strings\); got float64 \[8\]"),
        ({"train_labels": np.zeros((8, 1), int)}, r"got int64 \[8, 1\]"),
        (
            {"train_labels": np.array([0, 1, 2, 3] * 2)},
            r"0\.\.1 \(class_names has 2\); got train_labels\[2\] = 2 and 3 more",
        ),
        ({"train_labels": np.array([0, -1] * 4)}, r"train_labels\[1\] = -1 and 3 more"),
        ({"train_labels": np.array([0, -1] * 4), "class_names": None}, "0 and upwards; got train_labels"),
        ({"test_labels": np.array([0, 1, 5, 0])}, r"got test_labels\[2\] = 5"),
        ({"class_names": np.array(["cat", "cat"])}, "distinct strings; got <U3 .2., 1 of them distinct"),
        ({"class_names": np.array([1, 2])}, "distinct strings"),
        ({"class_names": np.array([b"cat", b"\xe9t\xe9"])}, r"must be UTF-8; got \\udce9t\\udce9"),
        ({"train_images": np.array([None] * 8)}, "plain arrays; got pickled objects"),
        ({"class_names": np.array(["cat", "dog", "eel"])}, "every class must have an image; got none in class 'eel'"),
        ({"train_labels": np.zeros(8, int)}, "every class in test must also stand in train; got class 'dog'"),
        ({"test_labels": np.zeros(4, int)}, "every class in train must also stand in test; got class 'dog'"),
    ],
)
def test_every_fault_has_a_sentence(write, changes, message):
    with pytest.raises(DataError, match=message):
        write(**changes).load(REQUEST)


def test_one_class_only_has_a_sentence(write):
    with pytest.raises(DataError, match="at least two classes; got only class '0'"):
        write(train_labels=np.zeros(8, int), test_labels=np.zeros(4, int), class_names=None).load(REQUEST)


def test_a_missing_or_foreign_or_damaged_file_has_a_sentence(tmp_path, write):
    with pytest.raises(DataError, match="array file must exist"):
        ArraysSpec(path=tmp_path / "none.npz").load(REQUEST)
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "bare.npy", np.zeros(3))
    for name in ("text.npz", "bare.npy"):
        with pytest.raises(DataError, match=f"must be an .npz; got another format in .*{name}"):
            ArraysSpec(path=tmp_path / name).load(REQUEST)
    spec = write(compressed=True)
    content = bytearray(spec.path.read_bytes())
    content[100:140] = bytes(40)
    spec.path.write_bytes(content)
    with pytest.raises(DataError, match="damaged archive"):
        spec.load(REQUEST)


@pytest.mark.real_data
def test_real_sets_load_and_keep_their_counts(real_data):
    plankton = ArraysSpec(path=real_data / "plankton32.npz").load(LoadRequest(size=32))
    counts = plankton.train.class_counts_K
    assert (plankton.train.channels, len(counts), int(counts.max()), int(counts.min())) == (1, 121, 1583, 7)
    assert (len(plankton.train), len(plankton.test)) == (24_265, 6_071)
    colour = ArraysSpec(path=real_data / "cifar10.npz").load(LoadRequest(size=32)).test
    assert (colour.channels, colour.class_counts_K.tolist()) == (3, [1000] * 10)


def test_class_names_may_be_bytes_of_utf8(write):
    assert write(class_names=np.array(["été".encode(), b"cat"])).load(REQUEST).train.classes == ("été", "cat")
