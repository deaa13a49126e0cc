"""How much of a closed-form head's objective each class is.

Shapes: P classes with images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from nasimb.losses.weights import effective_number_weights

WeightingName = Literal["inverse_frequency", "inverse_sqrt", "effective_number"]


@dataclass(frozen=True)
class ClassWeighting:
    """A rule that weighs an image of a class by the number of images n of that class.

    Attributes:
        name: inverse_frequency, 1 / n: all classes count alike. inverse_sqrt, n^-1/2: half-way to counting all images
            alike. effective_number, (1 - beta) / (1 - beta^n) (Cui et al. 2019, equation 2).
        beta: of effective_number, 0 <= beta < 1: at 0 all images count alike, towards 1 all classes do.
    """

    name: WeightingName
    beta: float = 0.0

    def shares(self, images_P: Tensor) -> Tensor:
        """shares_P of all images of each class together; they add up to 1.

        Args:
            images_P: images of each class, at least 1, float64.
        """
        if self.name == "inverse_frequency":
            mass_P = images_P.new_ones(len(images_P))
        elif self.name == "inverse_sqrt":
            mass_P = images_P.sqrt()
        else:
            mass_P = images_P * effective_number_weights(images_P, self.beta)
        return mass_P / mass_P.sum()


BALANCED = ClassWeighting("inverse_frequency")
