"""Features that lie in a file: read a part at a time, as a tensor that every head takes.

Shapes: N images, D features.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from nasimb.errors import InputError

BYTES = {torch.float16: 2, torch.float32: 4}


def mapped(path: Path, images: int, dimension: int, dtype: torch.dtype) -> Tensor:
    """features_ND over a raw file of numbers, image by image. Pages are read when used and given back under pressure.

    `numpy.memmap` and `numpy.ndarray.tofile` write such files. Changes to the tensor do not reach the file.

    Args:
        dtype: float16 or float32.

    Raises:
        InputError: the file has another size, or is not there.
    """
    expected = images * dimension * BYTES[dtype]
    size = path.stat().st_size if path.is_file() else None
    if size != expected:
        raise InputError(
            f"a file of {images} x {dimension} {dtype} features must have {expected} bytes",
            got=f"{path} with {size} bytes" if size is not None else f"no file {path}",
            do="Write the features again.",
        )
    return torch.from_file(str(path), shared=False, size=images * dimension, dtype=dtype).view(images, dimension)
