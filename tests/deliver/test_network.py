"""What is shipped says what the model says, with every norm, and its recipe is enough to feed it without nasimb."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from nasimb.deliver.formats import FORMATS
from nasimb.deliver.network import resizing_weights, ship
from nasimb.export import Model
from nasimb.nn.norms import NORMS


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_is_shipped(make_model: Callable[..., Model], images_N3HW: Tensor, norm: str) -> None:
    model = make_model(norm)
    for inside in (False, True):
        shipped = ship(model, with_preprocessing=inside)
        given = shipped.prepare(images_N3HW)
        assert given.shape[1:] == shipped.input_shape
        assert given.dtype == shipped.input_dtype
        torch.testing.assert_close(shipped.network(given)[:, :2], model(images_N3HW)[:, :2], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("norm", "inside"), [("bn", False), *((norm, True) for norm in NORMS)])
def test_onnx_says_the_same(
    make_model: Callable[..., Model], images_N3HW: Tensor, norm: str, inside: bool, tmp_path: Path
) -> None:
    """What is folded is the same graph for every batch norm; capturing takes as long as a network is deep."""
    model = make_model(norm, depth=1)
    shipped = ship(model, with_preprocessing=inside)
    given = shipped.prepare(images_N3HW)
    FORMATS["onnx"]().write(shipped, {"classes": "[]"}, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for count in (1, 7):  # neither is the batch that it was captured with
        (logits,) = session.run(["logits"], {"images": given[:count].numpy()})
        np.testing.assert_allclose(logits[:, :2], model(images_N3HW[:count])[:, :2], atol=1e-4, rtol=1e-4)


def test_batch_norms_are_gone_and_others_are_named(make_model: Callable[..., Model]) -> None:
    network = ship(make_model("bn"), with_preprocessing=False)
    assert network.notes == ()
    assert not any(isinstance(one, nn.BatchNorm2d) for one in network.network.modules())
    assert "GroupNorm" in " ".join(ship(make_model("gn"), with_preprocessing=False).notes)


def test_the_model_stays_as_it_is(make_model: Callable[..., Model], images_N3HW: Tensor) -> None:
    model = make_model("bn")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for parameter in ship(model, with_preprocessing=True).network.state_dict().values():
        parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_cosine_head_stays_and_says_so(make_model: Callable[..., Model], images_N3HW: Tensor) -> None:
    model = make_model(cosine=True)
    shipped = ship(model, with_preprocessing=True)
    assert "cosine head" in " ".join(shipped.notes)
    torch.testing.assert_close(shipped.network(images_N3HW), model(images_N3HW), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("size", "resolution"), [(8, 6), (32, 20), (6, 8), (5, 15), (32, 31)])
def test_resizing_is_torchs_own(size: int, resolution: int) -> None:
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)) * 255
    weights_RS = resizing_weights(size, resolution)
    expected = nn.functional.interpolate(images, (resolution,) * 2, mode="bilinear", antialias=size > resolution)
    torch.testing.assert_close(weights_RS @ images @ weights_RS.T, expected, atol=1e-3, rtol=1e-5)


def by_recipe(file: Path, recipe: dict[str, Any]) -> np.ndarray:
    """The input of the network from an image file, by what the recipe says alone."""
    image: Any = None
    values: Any = None
    for step in recipe["steps"]:
        if step.get("inside_model"):
            continue
        if step["step"] == "convert":
            image = image.convert(step["mode"])
        elif step["step"] == "decode":
            image = Image.open(file)
            image.draft(None, tuple(step["jpeg"]["size"]))
            image = ImageOps.exif_transpose(image)
        elif step["step"] == "resize" and step.get("as") == "Pillow":
            values = np.asarray(image.resize(step["size"], Image.Resampling.BILINEAR))
            values = values.reshape(*step["size"], -1).transpose(2, 0, 1)
        elif step["step"] == "resize":
            planes = [Image.fromarray(plane.astype(np.float32)) for plane in values]  # Pillow antialiases, in float
            values = np.stack([plane.resize(step["size"], Image.Resampling.BILINEAR) for plane in planes])
        elif step["step"] == "standardise":
            mean, std = (np.reshape(step[name], (-1, 1, 1)) for name in ("mean", "std"))
            values = (values - mean) / std
        else:
            raise AssertionError(step)
    return values[None].astype(recipe["input"]["dtype"])


@pytest.mark.parametrize("inside", [False, True], ids=["tensors", "pixels"])
@pytest.mark.parametrize(("name", "height", "width"), [("photo.png", 21, 13), ("photo.jpg", 700, 1000)])
def test_the_recipe_is_enough(
    make_model: Callable[..., Model], inside: bool, name: str, height: int, width: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    file = tmp_path / name
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file)
    model = make_model()
    shipped = ship(model, with_preprocessing=inside)
    given = by_recipe(file, json.loads(json.dumps(shipped.recipe())))
    if inside:  # to the bit, which JPEG files decoded in full are not
        np.testing.assert_array_equal(given, model.pixels([file]).numpy())
    assert list(given.shape[1:]) == shipped.recipe()["input"]["shape"][1:]
    found = shipped.network(torch.from_numpy(given)).softmax(1)
    np.testing.assert_allclose(found, model.predict_proba([file]), atol=1e-3)
