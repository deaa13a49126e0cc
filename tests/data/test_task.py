from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from nasimb.data import parse_dataset
from nasimb.data.arrays import ArraysSpec
from nasimb.data.base import DatasetSpec, LoadRequest, Parts
from nasimb.data.digits import DigitsSpec
from nasimb.data.splits import check_disjoint
from nasimb.data.task import load_task
from nasimb.errors import DataError, InputError

REQUEST = LoadRequest(size=6)


@pytest.fixture
def arrays(tmp_path: Path) -> Callable[..., ArraysSpec]:
    """Writes an .npz with these images per class; every image is new."""
    rng = np.random.default_rng(0)
    files = iter(range(100))

    def write(train: list[int], channels: int = 1, **others: list[int] | np.ndarray) -> ArraysSpec:
        made = {}
        for split, counts_K in {"train": train, **others}.items():
            labels = np.repeat(np.arange(len(counts_K)), counts_K)
            shape = (len(labels), 6, 6) if channels == 1 else (len(labels), 6, 6, 3)
            made |= {f"{split}_labels": labels, f"{split}_images": rng.integers(0, 256, shape, dtype=np.uint8)}
        path = tmp_path / f"{next(files)}.npz"
        np.savez(path, **made)
        return ArraysSpec(path=path)

    return write


def change(spec: ArraysSpec, edit: Callable[[dict[str, np.ndarray]], None]) -> None:
    made = dict(np.load(spec.path))
    edit(made)
    np.savez(spec.path, **made)


def test_digits_have_a_source_of_their_own_and_a_long_tail():
    task = load_task(DigitsSpec(), request=LoadRequest(size=8))
    assert not task.source_is_target
    assert task.validation is None
    assert not task.flip
    assert (len(task.source), len(task.test)) == (540, 600)
    assert task.target.class_counts_K.tolist() == [60, 43, 30, 22, 15, 11, 8, 5, 4, 3]
    made = "The target was made long-tailed (exponential, imbalance factor 20, seed 0)"
    assert task.notes == (f"{made}: 201 of 600 images, 60 to 3 a class.",)
    check_disjoint({"source": task.source, "target": task.target, "test": task.test})


def test_a_factor_asked_for_replaces_the_default():
    task = load_task(DigitsSpec(), request=LoadRequest(size=8), imbalance_factor=10, profile="step")
    assert task.target.class_counts_K.tolist() == [60] * 5 + [6] * 5
    assert len(load_task(DigitsSpec(), request=LoadRequest(size=8), imbalance_factor=1).target) == 600


def test_the_seed_moves_the_long_tail_but_not_the_test_split():
    first, second = (load_task(DigitsSpec(), request=LoadRequest(size=8), seed=seed) for seed in (0, 1))
    assert first.test.fingerprint() == second.test.fingerprint()
    assert first.target.fingerprint() != second.target.fingerprint()
    assert load_task(DigitsSpec(), request=LoadRequest(size=8)).fingerprints() == first.fingerprints()


def test_some_digits_as_source_for_others():
    task = load_task(parse_dataset("digits:5-9"), parse_dataset("digits:0-4"), request=LoadRequest(size=8))
    assert task.source.classes == tuple("01234")
    assert task.target.classes == tuple("56789")
    assert task.source.class_counts_K.tolist() == [54] * 5
    assert task.test.class_counts_K.tolist() == [60] * 5


def test_other_data_stay_as_they_are_unless_asked(arrays):
    spec = arrays([30, 20, 10], test=[5, 5, 5])
    task = load_task(spec, "target", request=REQUEST)
    assert task.target.class_counts_K.tolist() == [30, 20, 10]
    assert load_task(spec, "target", request=REQUEST, imbalance_factor=5).target.class_counts_K.tolist() == [30, 13, 6]


@pytest.mark.parametrize("source", ["target", None])
def test_the_target_as_source_keeps_a_hold_out(arrays, source: Literal["target"] | None):
    task = load_task(arrays([30, 20, 1], test=[5, 5, 5]), source, request=REQUEST)
    assert task.source_is_target
    assert task.validation.class_counts_K.tolist() == [6, 4, 0]
    assert task.source.class_counts_K.tolist() == [24, 16, 1]
    assert sorted(task.source.indices_N.tolist() + task.validation.indices_N.tolist()) == task.target.indices_N.tolist()
    assert "Fewer than two training images: class '2'." in task.notes
    assert "The validation split has no image of class '2'." in task.notes
    assert any("trained on the target itself (41 images); 10 are kept from it" in note for note in task.notes)
    assert set(task.splits()) == set(task.fingerprints()) == {"source", "target", "test", "validation"}
    assert task.splits()["validation"] == task.validation.indices_N.tolist()


def test_an_official_validation_split_ranks_where_the_source_is_the_target(arrays):
    spec = arrays([30, 20], test=[5, 5], val=[4, 4])
    task = load_task(spec, "target", request=REQUEST)
    assert task.validation.class_counts_K.tolist() == [4, 4]
    assert task.source is task.target
    assert len(task.target) == 50
    other = load_task(spec, arrays([9, 9]), request=REQUEST)
    assert other.validation is None
    assert any("validation split of the data (8 images) is not used" in note for note in other.notes)


def test_a_test_split_is_made_before_the_long_tail(arrays):
    spec = arrays([50, 50, 50])
    plain = load_task(spec, "target", request=REQUEST, test_fraction=0.3)
    tailed = load_task(spec, "target", request=REQUEST, test_fraction=0.3, imbalance_factor=7)
    assert plain.test.class_counts_K.tolist() == [15] * 3
    assert tailed.test.fingerprint() == plain.test.fingerprint()
    assert tailed.target.class_counts_K.tolist() == [35, 13, 5]
    assert any("no test split: 45 images (30%, stratified, seed 0)" in note for note in plain.notes)
    assert load_task(spec, "target", request=REQUEST, seed=1).test.fingerprint() != plain.test.fingerprint()


def test_the_official_test_split_is_never_touched(arrays):
    spec = arrays([50, 50], test=[7, 9])
    for factor in (None, 25):
        task = load_task(spec, "target", request=REQUEST, imbalance_factor=factor)
        assert task.test.fingerprint() == spec.load(REQUEST).test.fingerprint()


def test_the_target_takes_the_channels_of_the_source(arrays):
    colour, grey = arrays([9, 9], channels=3), arrays([9, 9])
    assert load_task(grey, colour, request=REQUEST).test.channels == 3
    assert load_task(colour, grey, request=REQUEST).target.channels == 1
    assert load_task(colour, "target", request=REQUEST).source.channels == 3
    assert load_task(grey, "target", request=LoadRequest(size=6, channels=3)).source.channels == 3


def test_flips_need_the_consent_of_both(arrays):
    spec = arrays([9, 9])
    still = ArraysSpec(path=arrays([9, 9]).path, flip=False)
    assert load_task(spec, arrays([9, 9]), request=REQUEST).flip
    assert not load_task(spec, still, request=REQUEST).flip
    assert not load_task(still, spec, request=REQUEST).flip


def test_the_same_data_as_source_and_target_leak(arrays):
    spec = arrays([9, 9], test=[3, 3])
    with pytest.raises(DataError, match=r"source and target must not share an image; got 18 shared.*--source target"):
        load_task(spec, spec, request=REQUEST)


def test_a_source_that_holds_the_test_split_leaks(arrays):
    data, source = arrays([9, 9], test=[30, 30]), arrays([40, 40])

    def plant(made):
        made["train_images"][:5] = np.load(data.path)["test_images"][:5]

    change(source, plant)
    with pytest.raises(DataError, match=r"source and test must not share an image; got 5 shared, such as .*npz:train"):
        load_task(data, source, request=REQUEST)


def test_a_few_images_repeated_between_official_splits_leave_training(arrays):
    spec = arrays([150, 150], test=[100, 100])

    def plant(made):
        made["train_images"][[3, 200]] = made["test_images"][[8, 9]]

    change(spec, plant)
    for source in ("target", arrays([50, 50])):
        task = load_task(spec, source, request=REQUEST)
        assert task.target.class_counts_K.tolist() == [149, 149]
        assert len(task.test) == 200
        assert any(note.startswith("Left out of train because also in test: 2 (first: ") for note in task.notes)


def test_many_images_repeated_between_official_splits_are_an_error(arrays):
    spec = arrays([150, 150], test=[100, 100])
    change(spec, lambda made: made["train_images"].__setitem__(slice(0, 3), made["test_images"][:3]))
    with pytest.raises(DataError, match="train and test must not share an image; got 3 shared"):
        load_task(spec, "target", request=REQUEST)


def test_repeats_never_straddle_a_split_that_is_made_here(arrays):
    spec = arrays([40, 40])
    # Every image twice, and a blank one ten times over.
    change(spec, lambda made: made["train_images"].__setitem__(slice(1, 80, 2), made["train_images"][::2]))
    change(spec, lambda made: made["train_images"].__setitem__(slice(10, 20), 0))
    task = load_task(spec, "target", request=REQUEST)
    sets = [set(image_set.hashes()) for image_set in (task.source, task.validation, task.test)]
    assert sum(map(len, sets)) == len(set.union(*sets)) == 36
    assert any("copies of test images were left out of training" in note for note in task.notes)
    assert any("copies of validation images were left out" in note for note in task.notes)


def test_a_class_that_repeats_leave_empty_is_an_error(arrays):
    spec = arrays([30, 2])
    # Both images of the second class also stand in the first.
    change(spec, lambda made: made["train_images"].__setitem__(slice(30, 32), made["train_images"][:2]))
    messages = set()
    for seed in range(8):
        try:
            load_task(spec, "target", request=REQUEST, seed=seed)
        except DataError as error:
            messages.add(str(error).split(";")[1])
    assert messages == {
        " got none in class '1', after repeated images were left out. Give the class images of its own."
    }


def test_files_left_out_are_counted(tmp_path, picture):
    for name in ("a/1.png", "a/2.png", "a/3.png", "b/1.png", "b/2.png"):
        picture(name)
    (tmp_path / "a/0.png").write_bytes(b"broken")
    spec = parse_dataset(f"folder:{tmp_path}")
    with pytest.raises(DataError, match=r"0\.png"):
        load_task(spec, "target", request=REQUEST)
    task = load_task(spec, "target", request=LoadRequest(size=6, skip_bad_images=True))
    assert task.notes[0].startswith("1 files of the target could not be read and were left out: ")
    assert len(task.target) + len(task.test) == 5


def test_streamed_and_stored_images_make_the_same_task(tmp_path, picture):
    for number in range(24):
        picture(f"{'ab'[number % 2]}/{number}.png")
    spec = parse_dataset(f"folder:{tmp_path}")
    stored = load_task(spec, "target", request=REQUEST)
    streamed = load_task(spec, "target", request=LoadRequest(size=6, memory_mib=0, workers=0))
    assert stored.fingerprints() == streamed.fingerprints()
    assert stored.splits() == streamed.splits()


@pytest.mark.parametrize(
    ("option", "value"), [("test_fraction", 1.0), ("validation_fraction", 0), ("imbalance_factor", 0.1)]
)
def test_wrong_options_get_a_sentence(arrays, option, value):
    with pytest.raises(InputError):
        load_task(arrays([9, 9]), "target", request=REQUEST, **{option: value})


def test_a_data_set_of_the_users_own_is_checked_like_the_others(image_set):
    class Own(DatasetSpec):
        name: str = "own"

        def read(self, request: LoadRequest) -> Parts:
            return Parts(image_set([5, 0, 5]))

    with pytest.raises(DataError, match="none in class '1'"):
        load_task(Own(), "target", request=REQUEST)


@pytest.mark.real_data
def test_cifar_pairs(real_data):
    request = LoadRequest(size=32)
    task = load_task(
        parse_dataset(f"cifar10:{real_data}"),
        parse_dataset(f"cifar100:{real_data}"),
        request=request,
        imbalance_factor=100,
    )
    assert (len(task.target), len(task.test)) == (12_406, 10_000)
    # One CIFAR-100 training image is also a CIFAR-10 test image.
    assert len(task.source) == 49_999
    own = load_task(parse_dataset(f"cifar100:{real_data}"), "target", request=request, imbalance_factor=100)
    assert len(own.target) == 10_847
    assert any(note.startswith("Left out of train because also in test: 10 ") for note in own.notes)
    assert len(own.source) + len(own.validation) <= len(own.target)
    counts = own.validation.class_counts_K
    assert torch.equal(counts > 0, own.target.class_counts_K > 1)
