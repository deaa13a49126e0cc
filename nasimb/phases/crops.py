"""Several crops of every image for the last refit of a head: the image itself, and others as training saw it.

The head of every model that is tested is refitted with the same number, so that no baseline is at a disadvantage.
Heads were chosen, with their penalty, on single images; more crops are more images of the same kind, so both stay.
Shapes: N images, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from nasimb.data.augment import augmented
from nasimb.data.base import ImageSet
from nasimb.heads import Head, is_closed_form
from nasimb.heads.checkpoint import Checkpoint
from nasimb.heads.compare import Named, fit_head, unseen
from nasimb.heads.logistic import Progress
from nasimb.heads.stacked import full_batch_fits
from nasimb.losses.repeated import repeated
from nasimb.supernet.recipe import Recipe
from nasimb.supernet.sampling import generator_for

CROPS_MIB = 2048
"""Most that the features of all crops may take."""
FULL_BATCH, MINIBATCH = "full batch", "minibatch"
"""See `Head.solver`."""


@dataclass(frozen=True, slots=True)
class Crops:
    """Which crops of every image a head is fitted to.

    Attributes:
        count: of every image, itself included; 1 is the image alone.
        flip: whether a mirrored image keeps its label.
        seed: of shifts and flips.
    """

    count: int = 1
    flip: bool = False
    seed: int = 0

    def fitting(self, num_images: int, feature_dim: int) -> Crops:
        """The same with no more crops than their features have room for."""
        return replace(self, count=max(1, min(self.count, CROPS_MIB * 2**20 // (4 * num_images * feature_dim))))

    def notes(self, asked: int) -> list[str]:
        """What is to be said where `asked` were asked for."""
        fewer = f"Heads are fitted to {self.count} crops of every image: the features of {asked} need more than"
        return [] if self.count == asked else [f"{fewer} {CROPS_MIB} MiB."]

    def views(self, images: ImageSet) -> list[ImageSet]:
        """The images as they are, and `count - 1` times moved, each time in other ways."""
        # As far as the default recipe shifts them in training.
        pad = int(Recipe().shift * images.size)
        moved = [augmented(images, generator_for(self.seed, 4, view), self.flip, pad) for view in range(1, self.count)]
        return [images, *moved]

    def features(self, features_of: Callable[[ImageSet], Tensor], images: ImageSet) -> Tensor:
        """float32 [count * N, D]: those of all images, then those of all images in their next view, and so on.

        Args:
            features_of: features_ND of a set of images through the frozen subnet, in the set's order.
        """
        first, *others = self.views(images)
        first_ND = features_of(first)
        if not others:
            return first_ND
        features_ND = first_ND.new_empty(self.count * len(images), first_ND.shape[1])
        features_ND[: len(images)] = first_ND
        for number, view in enumerate(others, start=1):
            features_ND[number * len(images) : (number + 1) * len(images)] = features_of(view)
        return features_ND

    def fit(
        self, head: Named, features_ND: Tensor, labels_N: Tensor, num_classes: int, setting: float,
        penalties: tuple[float, ...], *, checkpoint: Checkpoint | None = None, progress: Progress = unseen,
    ) -> Head:  # fmt: skip
        """The head fitted to the crops in `features_ND`, as `fit_head` does to images.

        Args:
            features_ND: as `features` gives them.
            labels_N: of the images, each once.
            checkpoint, progress: as `fit_head` takes them.
        """
        watch: dict[str, Any] = {"checkpoint": checkpoint, "progress": progress}
        if self.count == 1 or is_closed_form(head):
            labels_N = labels_N.repeat(self.count)
            return fit_head(head, features_ND, labels_N, num_classes, setting, penalties, **watch)
        name = head if isinstance(head, str) else str(head["name"])
        wrapped = repeated(head, self.count)
        fitted = fit_head(wrapped, features_ND, labels_N.repeat(self.count), num_classes, setting, penalties, **watch)
        return replace(fitted, name=fitted.name.replace(str(wrapped["name"]), name))


def solver_notes(head: Head, compared: int, dimension: int, class_counts_K: Tensor) -> list[str]:
    """What is to be said where the penalty of `head` was chosen with another solver than it was fitted by at last.

    Args:
        compared: images that heads were fitted to when the penalty was chosen.
    """
    chosen_by = FULL_BATCH if full_batch_fits(compared, dimension, int((class_counts_K > 0).sum())) else MINIBATCH
    if head.solver in (None, chosen_by):
        return []
    return [
        f"the last fit is by {head.solver} gradients; its penalty was chosen by {chosen_by} ones, which so many images "
        "had no room or time for."
    ]
