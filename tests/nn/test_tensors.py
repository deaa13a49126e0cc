"""Tensors as files: what is read is what was written, bit for bit, or the file is refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nasimb.errors import InputError
from nasimb.nn.tensors import read_tensors, write_tensors

TENSORS = {
    "weight": torch.arange(24.0).reshape(2, 3, 4), "half": torch.ones(3, dtype=torch.bfloat16),
    "bytes": torch.arange(7, dtype=torch.uint8), "flags": torch.tensor([True, False]), "none": torch.empty(0),
    "number": torch.tensor(3), "turned": torch.arange(6).reshape(2, 3).T,
}  # fmt: skip
METADATA = {"about": "a network", "hashes": '["a"]'}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_tensors(tmp_path / "made" / "a.safetensors", TENSORS, METADATA)
    return tmp_path / "made" / "a.safetensors"


def test_all_types_and_shapes_come_back(file: Path) -> None:
    tensors, metadata = read_tensors(file)
    assert metadata == METADATA
    assert set(tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def test_files_of_others_have_no_check_and_are_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors", metadata={"format": "pt"})
    assert read_tensors(tmp_path / "a.safetensors")[1] == {"format": "pt"}
    save_file({"a": torch.ones(2)}, tmp_path / "b.safetensors")
    assert read_tensors(tmp_path / "b.safetensors")[1] == {}


def test_one_bit_anywhere_is_found(file: Path) -> None:
    whole = file.read_bytes()
    rng = random.Random(0)
    for position in rng.sample(range(8 * len(whole)), 300):
        changed = bytearray(whole)
        changed[position // 8] ^= 1 << position % 8
        file.write_bytes(changed)
        try:
            tensors, metadata = read_tensors(file)
        except InputError:
            continue
        # The name of the check itself, or a blank of the header: nothing that is used.
        assert {name: value for name, value in metadata.items() if name in METADATA} == METADATA
        assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())


def test_another_types_bytes_or_names_are_not_the_same(tmp_path: Path, file: Path) -> None:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        check = opened.metadata()["check"]
    others = (
        {**TENSORS, "number": torch.tensor(4)}, {**TENSORS, "number": torch.tensor(3, dtype=torch.int32)},
        {**TENSORS, "weight": TENSORS["weight"].reshape(6, 4)}, {**TENSORS, "more": torch.ones(1)},
    )  # fmt: skip
    for tensors in others:
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, tmp_path / "b.safetensors", metadata={**METADATA, "check": check})
        with pytest.raises(InputError, match="do not match their check"):
            read_tensors(tmp_path / "b.safetensors")
    save_file(
        {name: tensor.contiguous() for name, tensor in TENSORS.items()}, tmp_path / "b.safetensors",
        metadata={**METADATA, "about": "another", "check": check},
    )  # fmt: skip
    with pytest.raises(InputError, match="do not match their check"):
        read_tensors(tmp_path / "b.safetensors")
