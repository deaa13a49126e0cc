"""What a report shows of the test images besides numbers: counts by class, and pictures of the worst mistakes."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nasimb.data.base import ImageSet
from nasimb.evaluate import Tested

MOST_CLASSES, MOST_IMAGES, MOST_SIDE = 6, 6, 64
"""Of the classes with the lowest recall, and of their images the wrong ones that the winner was surest of."""


def classes_of(winner: Tested, test: ImageSet, target: ImageSet) -> dict[str, Any]:
    """classes.json: {"classes", "training_images", "test_images", "worst"}.

    "worst" lists the classes in which the winner was wrong, lowest recall first: {"class": index, "images": [{"image":
    name, "predicted": index, "probability", "png": base64}]}.
    """
    return {
        "classes": list(test.classes),
        "training_images": target.class_counts_K.tolist(),
        "test_images": test.class_counts_K.tolist(),
        "worst": [
            {"class": k, "images": [_example(winner, test, position) for position in surest_mistakes(winner, test, k)]}
            for k in worst_classes(winner)
        ],
    }


def worst_classes(winner: Tested) -> list[int]:
    """Indices of the classes that are not all right, lowest recall first, the first `MOST_CLASSES`."""
    recalls = [(recall, k) for k, recall in enumerate(winner.metrics.recalls_K) if recall is not None and recall < 1]
    return [k for _, k in sorted(recalls)[:MOST_CLASSES]]


def surest_mistakes(winner: Tested, test: ImageSet, label: int) -> list[int]:
    """Positions of the images of a class that were taken for another, the surest first."""
    labels_N = test.labels_N.numpy()
    wrong = np.flatnonzero((labels_N == label) & (winner.predicted_N != label))
    assert winner.probability_N is not None
    order = np.argsort(-winner.probability_N[wrong], kind="stable")
    return [int(position) for position in wrong[order][:MOST_IMAGES]]


def _example(winner: Tested, test: ImageSet, position: int) -> dict[str, Any]:
    assert winner.probability_N is not None
    (image_CHW,) = test.store.read(test.indices_N[[position]], torch.device("cpu"))
    return {
        "image": test.name(position),
        "predicted": int(winner.predicted_N[position]),
        "probability": round(float(winner.probability_N[position]), 4),
        "png": base64.b64encode(thumbnail(image_CHW)).decode(),
    }


def thumbnail(image_CHW: Tensor) -> bytes:
    """A PNG of a uint8 image, grey or RGB, shrunk to `MOST_SIDE` pixels where it is larger."""
    pixels_HWC = image_CHW.permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels_HWC[..., 0] if pixels_HWC.shape[2] == 1 else pixels_HWC)
    image.thumbnail((MOST_SIDE, MOST_SIDE))
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()
