"""Pictures of the worst mistakes: whose they are, how large, and that they are the images."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import torch
from PIL import Image

from nasimb import evaluate
from nasimb.data.base import ImageSet
from nasimb.data.store import TensorStore
from nasimb.evaluate import assess
from nasimb.phases.examples import MOST_IMAGES, MOST_SIDE, classes_of, thumbnail

COUNTS_K = np.array([30, 10, 4])


def made(channels: int = 1) -> tuple[evaluate.Tested, ImageSet]:
    """Class 1 is wrong on half of its images, class 2 on one; the later an image, the surer."""
    labels_N = torch.arange(3).repeat_interleave(20)
    predicted_N = labels_N.numpy().copy()
    predicted_N[20:30], predicted_N[40] = 0, 1
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (60, channels, 8, 8), dtype=torch.uint8, generator=generator)
    images = ImageSet(TensorStore(pixels, [("made", 60)]), torch.arange(60), labels_N, ("a", "<b>", "c"))
    found = assess(predicted_N, labels_N.numpy(), COUNTS_K, seed=0)
    return evaluate.Tested(predicted_N, found.metrics, found.intervals, np.linspace(0.4, 0.9, 60)), images


def test_the_surest_mistakes_of_the_worst_classes_come_first() -> None:
    tested, images = made()
    found = classes_of(tested, images, images)
    assert json.loads(json.dumps(found)) == found
    assert found["classes"] == ["a", "<b>", "c"]
    assert found["training_images"] == found["test_images"] == [20, 20, 20]
    assert [one["class"] for one in found["worst"]] == [1, 2], "class 0 is all right"
    shown = found["worst"][0]["images"]
    assert [image["image"] for image in shown] == [f"made[{place}]" for place in range(29, 29 - MOST_IMAGES, -1)]
    assert {image["predicted"] for image in shown} == {0}
    assert shown[0]["probability"] == round(float(np.linspace(0.4, 0.9, 60)[29]), 4)


def test_a_picture_is_the_image() -> None:
    for channels, mode in ((1, "L"), (3, "RGB")):
        tested, images = made(channels)
        (first, *_), (number, *_) = classes_of(tested, images, images)["worst"][1]["images"], [40]
        picture = Image.open(io.BytesIO(base64.b64decode(first["png"])))
        assert picture.mode == mode
        stored = images.store.read(torch.tensor([number]), torch.device("cpu"))[0]
        assert np.array_equal(np.asarray(picture).reshape(8, 8, channels), stored.permute(1, 2, 0).numpy())


def test_a_large_image_is_shrunk() -> None:
    picture = Image.open(io.BytesIO(thumbnail(torch.zeros(3, 300, 200, dtype=torch.uint8))))
    assert max(picture.size) == MOST_SIDE
