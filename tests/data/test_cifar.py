from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from nasimb.data import parse_dataset
from nasimb.data.base import LoadRequest
from nasimb.errors import DataError

CPU = torch.device("cpu")
REQUEST = LoadRequest(size=32)
NAMES = {10: ["plane", "car"], 100: ["apple", "fish", "bear"]}


def write_batch(path: Path, number: int, label_key: str, num_classes: int) -> str:
    """Six images in the format of the official batches; returns the MD5 sum."""
    rng = np.random.default_rng(number)
    batch = {
        "data": rng.integers(0, 256, (6, 3 * 32 * 32), dtype=np.uint8),
        label_key: [position % num_classes for position in range(6)],
    }
    path.write_bytes(pickle.dumps(batch))
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture(params=[10, 100])
def fake(request, tmp_path, monkeypatch):
    """(kind, folder): tiny files in the official format, whose sums torchvision is told to accept."""
    kind = request.param
    reader = CIFAR10 if kind == 10 else CIFAR100
    folder = tmp_path / reader.base_folder
    folder.mkdir()
    label_key = "labels" if kind == 10 else "fine_labels"
    batches = {"train_list": ["data_batch_1", "data_batch_2"] if kind == 10 else ["train"], "test_list": ["test_batch"]}
    for number, (attribute, names) in enumerate(batches.items()):
        sums = [
            [name, write_batch(folder / name, 10 * number + index, label_key, len(NAMES[kind]))]
            for index, name in enumerate(names)
        ]
        monkeypatch.setattr(reader, attribute, sums)
    key = "label_names" if kind == 10 else "fine_label_names"
    (folder / "meta").write_bytes(pickle.dumps({key: NAMES[kind]}))
    md5 = hashlib.md5((folder / "meta").read_bytes()).hexdigest()
    monkeypatch.setattr(reader, "meta", {"filename": "meta", "key": key, "md5": md5})
    return kind, tmp_path


def test_the_official_batches_are_read(fake):
    kind, root = fake
    parts = parse_dataset(f"cifar{kind}:{root}").load(REQUEST)
    assert parts.train.classes == tuple(NAMES[kind])
    assert (len(parts.train), len(parts.test)) == (12 if kind == 10 else 6, 6)
    batch = pickle.loads(
        next((root / ("cifar-10-batches-py" if kind == 10 else "cifar-100-python")).glob("test*")).read_bytes()
    )
    images, _ = next(parts.test.batches(6, CPU))
    assert (images.numpy() == batch["data"].reshape(6, 3, 32, 32)).all()
    assert parts.test.labels_N.tolist() == batch["labels" if kind == 10 else "fine_labels"]


def test_the_batch_folder_itself_may_be_named(fake):
    kind, root = fake
    folder = root / ("cifar-10-batches-py" if kind == 10 else "cifar-100-python")
    above, itself = (parse_dataset(f"cifar{kind}:{path}").load(REQUEST) for path in (root, folder))
    assert itself.train.fingerprint() == above.train.fingerprint()


def test_damaged_batches_are_not_unpickled(fake):
    kind, root = fake
    next(root.glob("*/*test*")).write_bytes(pickle.dumps({"data": 1}))
    with pytest.raises(DataError, match=r"official batches in cifar-.*; got files that are incomplete or damaged"):
        parse_dataset(f"cifar{kind}:{root}").load(REQUEST)


def test_nothing_is_fetched_unless_asked_for(tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr(CIFAR10, "download", lambda self: fetched.append(self.root))
    with pytest.raises(DataError, match=r"must hold the official batches.*--download"):
        parse_dataset(f"cifar10:{tmp_path}").load(REQUEST)
    with pytest.raises(DataError, match=r"data folder must exist.*--download"):
        parse_dataset(f"cifar10:{tmp_path / 'none'}").load(REQUEST)
    assert not fetched
    with pytest.raises(DataError, match="Check the connection"):
        parse_dataset(f"cifar10:{tmp_path}").load(LoadRequest(size=32, download=True))
    assert fetched == [str(tmp_path)]


def test_an_npz_takes_the_place_of_the_batches(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.array([0, 1, 0, 1])
    images = {f"{split}_images": rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8) for split in ("train", "test")}
    np.savez(tmp_path / "cifar100.npz", train_labels=labels, test_labels=labels, **images)
    for value in (tmp_path, tmp_path / "cifar100.npz"):
        parts = parse_dataset(f"cifar100:{value}").load(REQUEST)
        assert (next(parts.train.batches(4, CPU))[0].numpy() == images["train_images"].transpose(0, 3, 1, 2)).all()


@pytest.mark.real_data
def test_real_cifar_loads_and_hashes_quickly(real_data):
    parts = parse_dataset(f"cifar100:{real_data}").load(REQUEST)
    assert parts.train.class_counts_K.tolist() == [500] * 100
    assert len(set(parts.train.hashes())) == 50_000 - 14
    assert len(set(parts.train.hashes()) & set(parts.test.hashes())) == 10
