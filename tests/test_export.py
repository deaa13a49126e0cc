"""A saved model predicts what was tested, from any form of images, and nothing of the super-network is in it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_run import DATA
from torch import Tensor, nn

import nasimb
from nasimb.data import parse_dataset
from nasimb.data.base import LoadRequest
from nasimb.errors import DataError, InputError
from nasimb.export import Description, Model, load, save
from nasimb.nn.norms import NORMS
from nasimb.nn.tensors import read_tensors
from nasimb.space import SearchSpace
from nasimb.supernet import build_supernet
from nasimb.supernet.calibrate import calibrate


@pytest.fixture(scope="module")
def model(finished_run: Path) -> Model:
    return nasimb.load(finished_run / "best")


@pytest.fixture(scope="module")
def table(finished_run: Path) -> pd.DataFrame:
    """The test split as the run saw it: label and prediction of every image."""
    return pd.read_csv(finished_run / "predictions.csv", dtype=str)


@pytest.fixture(scope="module")
def images_N1HW(table: pd.DataFrame) -> Tensor:
    """The test split, loaded again."""
    test = parse_dataset({**DATA, "digits": (0, 1, 2, 3, 4)}).load(LoadRequest(size=8)).test
    assert test is not None
    assert [test.classes[k] for k in test.labels_N.tolist()] == table["label"].tolist()
    return next(test.batches(len(test), torch.device("cpu")))[0]


@pytest.mark.parametrize("batch_size", [7, 256])
def test_predictions_are_those_that_were_tested(
    model: Model, table: pd.DataFrame, images_N1HW: Tensor, batch_size: int
) -> None:
    predicted = model.predict(images_N1HW, batch_size=batch_size)
    assert predicted.tolist() == table["winner"].tolist()
    told = model.description.metrics["test"]["accuracy"]
    assert np.mean(predicted == table["label"].to_numpy(dtype=str)) == pytest.approx(told)


def test_every_form_of_images_is_the_same(
    model: Model, table: pd.DataFrame, images_N1HW: Tensor, tmp_path: Path
) -> None:
    grey_NHW = images_N1HW[:, 0].numpy()
    colour_NHW3 = np.repeat(grey_NHW[..., None], 3, axis=3)
    paths = [tmp_path / f"{number:03d}.png" for number in range(20)]
    for path, pixels in zip(paths, grey_NHW, strict=False):
        Image.fromarray(pixels).save(path)
    expected = table["winner"].tolist()
    assert model.predict(grey_NHW).tolist() == expected
    assert model.predict(grey_NHW[..., None]).tolist() == expected
    assert model.predict(colour_NHW3).tolist() == expected
    assert model.predict(torch.from_numpy(colour_NHW3).permute(0, 3, 1, 2)).tolist() == expected
    assert model.predict(grey_NHW[::-1]).tolist() == expected[::-1], "views count too"
    assert model.predict(paths).tolist() == expected[:20]
    assert model.predict([str(path) for path in paths]).tolist() == expected[:20]
    assert model.predict(paths[3]).tolist() == expected[3:4]


def test_images_of_another_size_are_resized(model: Model) -> None:
    """Brightness ramps stay ramps, whatever their size."""
    for size in (5, 8, 32):
        ramp = np.linspace(0, 255, size).round().astype(np.uint8)
        pixels = model.pixels(np.broadcast_to(ramp, (3, size, size)).copy())
        assert pixels.shape == (3, 1, 8, 8)
        assert pixels.dtype == torch.uint8
        steps = pixels[0, 0, 0].int().diff()
        assert (steps > 0).all()
        assert torch.equal(pixels[0, 0, 0], pixels[2, 0, 7])


def test_probabilities(model: Model, images_N1HW: Tensor) -> None:
    probabilities_NK = model.predict_proba(images_N1HW)
    assert probabilities_NK.shape == (len(images_N1HW), 5)
    np.testing.assert_allclose(probabilities_NK.sum(1), 1, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(probabilities_NK), model(images_N1HW).softmax(1), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("nothing", [[], np.empty((0, 8, 8), np.uint8), torch.empty(0, 3, 9, 9, dtype=torch.uint8)])
def test_no_image_is_no_prediction(model: Model, nothing: list[str] | np.ndarray | Tensor) -> None:
    assert model.predict(nothing).tolist() == []
    assert model.predict_proba(nothing).shape == (0, 5)


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (np.zeros((2, 8, 8), np.float32), "float32 [2, 8, 8]"),
        (np.zeros((2, 8, 8), np.uint16), "uint16 [2, 8, 8]"),
        (np.zeros((2, 8, 8), bool), "bool [2, 8, 8]"),
        (np.array(["a.png", "b.png"]), "[2]"),
        (np.array([None]), "object [1]"),
        (np.zeros((8, 8), np.uint8), "uint8 [8, 8]"),
        (np.zeros((2, 8, 8, 4), np.uint8), "[2, 8, 8, 4]"),
        (np.zeros((2, 0, 8), np.uint8), "[2, 0, 8]"),
        (torch.zeros(2, 1, 8, 8), "torch.float32 [2, 1, 8, 8]"),
        (torch.zeros(2, 8, 8, dtype=torch.uint8), "[2, 8, 8]"),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), "[2, 8, 8, 3]"),
        (np.zeros((8, 8, 3), np.uint8), "Add an axis"),
        (np.zeros((8, 8, 1), np.uint8), "one image [H, W, C]"),
        ([np.zeros((8, 8), np.uint8)], "ndarray"),
        (["nowhere.png"], "nowhere.png (no such file)"),
        ("nowhere.png", "nowhere.png (no such file)"),
        ([Path(__file__)], "not an image"),
    ],
)
def test_other_things_are_refused_in_a_sentence(model: Model, images: object, told: str) -> None:
    with pytest.raises(DataError) as refused:
        model.predict(images)  # type: ignore[arg-type]
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_nothing_of_the_supernetwork_is_in_it(model: Model, finished_run: Path) -> None:
    result = json.loads((finished_run / "result.json").read_text())["winner"]
    params = sum(parameter.numel() for parameter in model.parameters())
    assert params == result["cost"]["params"] == model.description.metrics["cost"]["params"]
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training
    modules = {type(module).__module__ for module in model.modules()}
    assert not any(name in ("nasimb.nn.elastic", "nasimb.supernet.resnet") for name in modules)
    with safe_open(finished_run / "best" / "model.safetensors", framework="pt") as file:
        stored = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    buffers = sum(buffer.numel() for buffer in model.buffers())
    assert stored == params + buffers


def test_the_description_says_what_it_is(model: Model, finished_run: Path) -> None:
    values = json.loads((finished_run / "best" / "model.json").read_text())
    result = json.loads((finished_run / "result.json").read_text())
    assert values["schema"] == 1
    assert values["classes"] == ["0", "1", "2", "3", "4"]
    assert values["class_counts_K"] == sorted(values["class_counts_K"], reverse=True)
    assert values["subnet"] == result["winner"]["subnet"]
    assert values["metrics"]["test"] == result["winner"]["test"]
    assert values["provenance"]["data"] == result["provenance"]["data"]
    assert values["norms"] == list(model.description.subnet.norms)


def test_saving_again_changes_nothing(model: Model, tmp_path: Path, images_N1HW: Tensor) -> None:
    save(model, tmp_path / "a")
    save(load(tmp_path / "a"), tmp_path / "b")
    assert (tmp_path / "a" / "model.json").read_bytes() == (tmp_path / "b" / "model.json").read_bytes()
    # safetensors writes the entries of its header in any order.
    (tensors, about), (again, about_again) = (read_tensors(tmp_path / n / "model.safetensors") for n in "ab")
    assert about == about_again
    assert list(tensors) == list(again)
    assert all(torch.equal(tensors[name], again[name]) for name in tensors)
    assert {file.name for file in (tmp_path / "a").iterdir()} == {"model.safetensors", "model.json"}
    assert torch.equal(load(tmp_path / "b")(images_N1HW), model(images_N1HW))


def test_each_file_is_on_the_disk_before_it_replaces_another(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("synced"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda old, new: (done.append(Path(new).name), replace(old, new)))
    save(model, tmp_path / "model")
    # The bytes, the name, and the folder that has the name.
    assert done == ["synced", "model.safetensors", "synced", "synced", "model.json", "synced"]


@pytest.fixture
def copied(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run / "best", tmp_path / "best")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_a_truncated_file_is_a_sentence(copied: Path, share: float) -> None:
    file = copied / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match=r"model\.safetensors must be a whole") as refused:
        load(copied)
    assert "\n" not in str(refused.value)


def test_a_model_needs_its_description(copied: Path, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, copied / "model.safetensors")
    with pytest.raises(InputError, match="without their description"):
        load(copied)
    with pytest.raises(InputError, match=r"must hold model\.safetensors"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("schema", 2, "schema"),
        ("subnet", None, "description"),
        ("space", {}, "space"),
        ("classes", None, "description"),
    ],
)
def test_a_description_that_is_not_ours(copied: Path, key: str, value: object, told: str) -> None:
    tensors, values = _contents(copied)
    save_file(tensors, copied / "model.safetensors", {"model.json": json.dumps({**values, key: value})})
    with pytest.raises(InputError, match=told):
        load(copied)


def test_weights_of_another_network(copied: Path) -> None:
    tensors, values = _contents(copied)
    tensors["head.weight"] = torch.zeros(5, 3)
    first = next(name for name in tensors if name.startswith("backbone.") and tensors[name].ndim == 4)
    other = {**tensors, first: torch.zeros(1, 1, 1, 1)}
    for wrong in (other, {name: tensor for name, tensor in tensors.items() if name != first}):
        save_file(wrong, copied / "model.safetensors", {"model.json": json.dumps(values)})
        with pytest.raises(InputError, match="must fit the network"):
            load(copied)


def _contents(folder: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["model.json"])


@pytest.mark.parametrize("where", ["last", "all"])
@pytest.mark.parametrize("name", NORMS)
def test_a_model_of_every_norm_is_saved_and_loaded_bit_for_bit(name: str, where: str, tmp_path: Path) -> None:
    options = {} if name == "bn" else {"mine_1": {"name": name, "where": where}}
    stage = {"depths": [2], "widths": [12], "norms": [*options] or ["bn"]}
    values = {"name": "s", "backbone": "resnet", "stem_width": 4, "resolutions": [8], "stages": [stage]}
    space, generator = SearchSpace.model_validate({**values, "norm_options": options}), torch.Generator().manual_seed(0)
    supernet = build_supernet(space, 1, 3, torch.tensor([90.0]), torch.tensor([50.0]), generator)
    with torch.no_grad():
        for parameter in (one for one in supernet.parameters() if one.ndim <= 1):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    images_BCHW = torch.randint(0, 256, (9, 1, 8, 8), generator=generator, dtype=torch.uint8)
    subnet = space.largest()
    backbone = supernet.extract(subnet, calibrate(supernet, subnet, images_BCHW))
    description = Description(("a", "b", "c"), (3, 3, 3), 1, 8, space, subnet, "source", {"name": "ridge"})
    made = Model(backbone, nn.Linear(12, 3), description)
    save(made, tmp_path)
    found = load(tmp_path)
    assert found.description == description
    with torch.no_grad():
        assert torch.equal(found(images_BCHW), made(images_BCHW))
