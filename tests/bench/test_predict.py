"""What the benchmark of `nasimb predict` measures: the same images, by the command and by the model alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from nasimb.bench.predict import _model, _written
from nasimb.data.decode import decode
from nasimb.space import SearchSpace


def test_files_hold_the_images_that_the_model_alone_is_given(tmp_path: Path) -> None:
    images_BCHW, paths = _written(tmp_path, 3, 8)
    assert images_BCHW.shape == (3, 3, 8, 8)
    for image_CHW, path in zip(images_BCHW, paths, strict=True):
        np.testing.assert_array_equal(decode(path, 8, 3), image_CHW.numpy())


def test_models_are_whole(tmp_path: Path) -> None:
    space = SearchSpace.load("digits-resnet")
    side = space.max_resolution
    for subnet in (space.largest(), space.smallest()):
        assert _model(space, subnet)(torch.zeros(2, 3, side, side)).shape == (2, 10)
