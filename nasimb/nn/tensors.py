"""Tensors as safetensors files: nothing that unpickles, written whole, with a check of all they say.

The check is a CRC-32 over names, types, shapes and bytes, and over what else the header says. Files that were written
elsewhere have none, and are read as they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from zlib import crc32

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nasimb.durable import replacing
from nasimb.errors import InputError
from nasimb.seal import KEY

_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Replace a safetensors file atomically; it is on the disk when this returns.

    Raises:
        DiskFullError: there is no space. OSError: something else is wrong with the disk. The file is as it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as part:
        try:
            save_file(on_cpu, part, metadata={**metadata, KEY: _check(on_cpu, metadata)})
        except SafetensorError as error:
            number = _OS_ERROR.search(str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors (on the CPU) and the metadata of a safetensors file, without its check.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
            metadata = dict(file.metadata() or {})
    except FileNotFoundError:
        raise InputError(f"{path} must exist", got="no such file", do="Check the folder.") from None
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None
    check = metadata.pop(KEY, None)
    if check is not None and check != _check(tensors, metadata):
        raise _damaged(path, "contents that do not match their check")
    return tensors, metadata


def _check(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    total = 0
    for name, tensor in sorted(tensors.items()):
        total = crc32(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode(), total)
        total = crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, total)
    for name, text in sorted(metadata.items()):
        total = crc32(f"{name} {text}\n".encode(), total)
    return f"{total:08x}"


def _damaged(path: Path, found: object) -> InputError:
    return InputError(
        f"{path} must be a whole safetensors file", got=found, do="Restore it, or delete it to have it made again."
    )
