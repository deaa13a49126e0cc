from __future__ import annotations

import numpy as np
import pytest
import torch

from nasimb.heads.weights import ClassWeighting

IMAGES = np.array([5000.0, 40.0, 3.0, 1.0])


@pytest.mark.parametrize(
    ("weighting", "weights_P"),
    [
        (ClassWeighting("inverse_frequency"), 1 / IMAGES),
        (ClassWeighting("inverse_sqrt"), IMAGES**-0.5),
        (ClassWeighting("effective_number", 0.99), (1 - 0.99) / (1 - 0.99**IMAGES)),
        (ClassWeighting("effective_number", 0.0), np.ones(4)),
    ],
)
def test_shares_are_those_of_the_weighted_images(weighting: ClassWeighting, weights_P: np.ndarray) -> None:
    mass_P = weights_P * IMAGES
    np.testing.assert_allclose(weighting.shares(torch.tensor(IMAGES)).numpy(), mass_P / mass_P.sum(), rtol=1e-12)


def test_the_effective_number_goes_from_images_alike_to_classes_alike() -> None:
    shares_P = ClassWeighting("effective_number", 1 - 1e-9).shares(torch.tensor(IMAGES))
    np.testing.assert_allclose(shares_P.numpy(), 0.25, rtol=1e-4)
