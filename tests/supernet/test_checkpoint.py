"""Super-networks as files: whole or absent, and nothing that unpickles."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nasimb.errors import InputError
from nasimb.space import SearchSpace
from nasimb.supernet.base import Supernet
from nasimb.supernet.checkpoint import load_supernet, read_tensors, save_supernet, write_tensors

NewSupernet = Callable[..., Supernet]
INFO = {"classes": ["ä", "b"], "steps": 12, "recipe": {"learning_rate": 0.1}}


def test_a_super_network_survives_its_files(new_supernet: NewSupernet, space: SearchSpace, tmp_path: Path) -> None:
    supernet = new_supernet(num_classes=7)
    save_supernet(supernet, tmp_path / "new" / "folder", INFO)
    loaded, info = load_supernet(tmp_path / "new" / "folder")
    assert info == INFO
    assert loaded.space == space
    assert (loaded.in_channels, loaded.num_classes) == (1, 7)
    assert loaded.state_dict().keys() == supernet.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in supernet.state_dict().items())
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_the_description_beside_the_weights_is_the_one_inside(new_supernet: NewSupernet, tmp_path: Path) -> None:
    save_supernet(new_supernet(), tmp_path, INFO)
    _, metadata = read_tensors(tmp_path / "supernet.safetensors")
    beside = json.loads((tmp_path / "supernet.json").read_text(encoding="utf-8"))
    assert json.loads(metadata["supernet.json"]) == beside
    assert beside["info"] == INFO
    assert sorted(path.name for path in tmp_path.iterdir()) == ["supernet.json", "supernet.safetensors"]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_gets_a_sentence(new_supernet: NewSupernet, tmp_path: Path, share: float) -> None:
    save_supernet(new_supernet(), tmp_path, INFO)
    path = tmp_path / "supernet.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match="must be a whole safetensors file"):
        load_supernet(tmp_path)


def test_a_missing_file_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must exist; got no such file"):
        load_supernet(tmp_path)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "supernet.safetensors").write_bytes(pickle.dumps({"weight": [1, 2, 3]}))
    with pytest.raises(InputError, match="must be a whole safetensors file"):
        load_supernet(tmp_path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "must be a super-network"),
        ({"supernet.json": "{not json"}, "must be a super-network"),
        ({"supernet.json": "[1]"}, "must be a super-network"),
        ({"supernet.json": '{"schema": 9}'}, "must have schema 1; got 9"),
    ],
)
def test_a_foreign_file_gets_a_sentence(tmp_path: Path, metadata: dict[str, str] | None, message: str) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "supernet.safetensors", metadata=metadata)
    with pytest.raises(InputError, match=message):
        load_supernet(tmp_path)


def test_weights_of_another_network_get_a_sentence(new_supernet: NewSupernet, tmp_path: Path) -> None:
    save_supernet(new_supernet(), tmp_path, INFO)
    path = tmp_path / "supernet.safetensors"
    tensors, metadata = read_tensors(path)
    write_tensors(path, {name: tensor for name, tensor in tensors.items() if "stem" not in name}, metadata)
    with pytest.raises(InputError, match="must fit the network it describes"):
        load_supernet(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.safetensors"
    write_tensors(path, {"weight": torch.zeros(3)}, {})

    def full_disk(*args: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_tensors(path, {"weight": torch.ones(3)}, {})
    tensors, _ = read_tensors(path)
    assert torch.equal(tensors["weight"], torch.zeros(3))
