"""Super-networks as files: safetensors and JSON, nothing that unpickles.

```
FOLDER/supernet.safetensors   weights; the description travels in its header too, so that the two cannot come apart
FOLDER/supernet.json          space, channels, classes and whatever `info` was given, for people and programs
```
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nasimb import seal
from nasimb.durable import replace_whole
from nasimb.errors import InputError
from nasimb.nn.tensors import read_tensors as read_tensors
from nasimb.nn.tensors import write_tensors as write_tensors
from nasimb.space import SearchSpace
from nasimb.spec import parse
from nasimb.supernet import build_supernet
from nasimb.supernet.base import Supernet

SCHEMA = 1
DESCRIPTION = "supernet.json"
WEIGHTS = "supernet.safetensors"


def save_supernet(supernet: Supernet, folder: Path, info: dict[str, Any]) -> None:
    """Write a super-network; a reader sees the old one or the new one, whole.

    Args:
        info: anything JSON can hold, given back by `load_supernet`: classes, recipe, steps, provenance.
    """
    description = seal.sealed({
        "schema": SCHEMA,
        "space": supernet.space.model_dump(mode="json"),
        "in_channels": supernet.in_channels,
        "num_classes": supernet.num_classes,
        "info": info,
    })  # fmt: skip
    text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    write_tensors(folder / WEIGHTS, supernet.state_dict(), {DESCRIPTION: text})
    replace_whole(folder / DESCRIPTION, text.encode())


def load_supernet(folder: Path) -> tuple[Supernet, dict[str, Any]]:
    """The super-network and the `info` of `save_supernet`: on the CPU, frozen, in eval mode.

    Raises:
        InputError: a file is missing, damaged, of another version, or not a super-network.
    """
    path = folder / WEIGHTS
    tensors, metadata = read_tensors(path)
    try:
        description = json.loads(metadata[DESCRIPTION])
        version = description["schema"]
    except (KeyError, TypeError, json.JSONDecodeError):
        raise InputError(
            f"{path} must be a super-network",
            got="a file without its description",
            do="Name a folder that `nasimb supernet train` wrote.",
        ) from None
    if version != SCHEMA:
        raise InputError(
            f"{path} must have schema {SCHEMA}", got=version, do="Train it again, or use the nasimb that wrote it."
        )
    space = parse(SearchSpace, description["space"], what=f"the space of {path}")
    in_channels = description["in_channels"]
    zeros_C, ones_C = torch.zeros(in_channels), torch.ones(in_channels)
    supernet = build_supernet(space, in_channels, description["num_classes"], zeros_C, ones_C, torch.Generator())
    load_weights(supernet, tensors, path)
    return supernet.eval().requires_grad_(False), description["info"]


def load_weights(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy `tensors` into `module`, every name and shape alike.

    Raises:
        InputError: they belong to another network; `path` is named.
    """
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path} must fit the network it describes", got=reason, do="Use the file that belongs to it."
        ) from None
