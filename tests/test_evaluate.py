"""The test split: one pass for all heads of a backbone, and numbers that are those of `nasimb.metrics`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from nasimb.data.base import ImageSet
from nasimb.data.store import TensorStore
from nasimb.evaluate import assess, gain, predict_test

COUNTS_K = np.array([200, 50, 5])


def made(num_images: int) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2 * num_images, 1, 4, 4), dtype=torch.uint8, generator=generator)
    indices = torch.randperm(2 * num_images, generator=generator)[:num_images]
    return ImageSet(TensorStore(pixels, [("made", 2 * num_images)]), indices, indices % 3, ("a", "b", "c"))


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, images_BCHW: Tensor) -> Tensor:
        self.seen += len(images_BCHW)
        return images_BCHW.flatten(1).float()


def test_all_heads_share_one_pass_in_the_order_of_the_split() -> None:
    test, backbone = made(23), Counting()
    heads = {name: nn.Linear(16, 3).requires_grad_(False) for name in ("one", "two")}
    found = predict_test(backbone, heads, test, batch_size=5, device=torch.device("cpu"))
    assert backbone.seen == len(test)
    images = test.store.read(test.indices_N, torch.device("cpu")).flatten(1).float()
    for name, head in heads.items():
        logits = head(images)
        assert found[name].predicted_N.tolist() == logits.argmax(1).tolist()
        np.testing.assert_allclose(found[name].probability_N, logits.softmax(1).max(1).values, rtol=1e-5)


def test_an_assessment_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    predicted = np.array([0, 0, 0, 1, 1, 0, 2, 2])
    values = assess(predicted, labels, COUNTS_K, seed=0).to_dict()
    assert values["recalls"] == [0.75, 0.5, 1.0]
    assert values["balanced_accuracy"] == 0.75
    assert values["accuracy"] == 0.75
    assert (values["many"], values["medium"], values["few"]) == (0.75, 0.5, 1.0)
    low, high = values["ci95"]["balanced_accuracy"]
    assert low <= 0.75 <= high
    assert low < high
    assert values["ci95"]["few"] == [1.0, 1.0], "resampling right images leaves them right"


def test_an_empty_group_is_null() -> None:
    values = assess(np.array([0, 1]), np.array([0, 1]), np.array([50, 30]), seed=0).to_dict()
    assert values["many"] is None
    assert values["few"] is None
    assert values["medium"] == 1.0
    assert "many" not in values["ci95"] or values["ci95"]["many"] is None


def test_a_gain_is_the_better_minus_the_other() -> None:
    test = made(60)
    labels = test.labels_N.numpy()
    right = assess(labels.copy(), labels, COUNTS_K, seed=0)
    wrong = assess((labels + 1) % 3, labels, COUNTS_K, seed=0)
    assert gain(right, wrong, test, COUNTS_K, seed=0)["balanced_accuracy"] == [1.0, 1.0, 1.0]
    assert gain(wrong, right, test, COUNTS_K, seed=0)["balanced_accuracy"] == [-1.0, -1.0, -1.0]
    assert gain(right, right, test, COUNTS_K, seed=0)["few"] == [0.0, 0.0, 0.0]


def test_a_gain_in_a_group_nobody_is_in_is_null() -> None:
    test = made(30)
    tested = assess(test.labels_N.numpy(), test.labels_N.numpy(), np.array([50, 50, 50]), seed=0)
    found = gain(tested, tested, test, np.array([50, 50, 50]), seed=0)
    assert found.get("few") is None
    assert found["medium"] == [0.0, 0.0, 0.0]
