"""Suspected label errors: confident learning (Northcutt, Jiang and Chuang 2021) by cleanlab.

What cleanlab judges are exact leave-one-out probabilities: no image has a say in what is thought of it, as long as the
features were made without the labels (`nasimb.care.look` sees to that). They are those of the Gaussian discriminant
with the shrinkage of the lowest leave-one-out loss.

Shapes: N images, M judged images, D features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from nasimb.data.base import ImageSet
from nasimb.errors import InputError
from nasimb.heads.gda import GdaSpec

MOST_SHOWN = 20
BELIEVABLE = 0.2
"""Share of suspected images above which the judge is as likely to be wrong as the labels (heuristic)."""


@dataclass(frozen=True, eq=False)
class LabelErrors:
    """The images in the order in which to look at them.

    Attributes:
        ranked: a row a judged image, most suspicious first: position, image, label, guess (the likeliest class),
            quality (0 to 1: how well the label fits; cleanlab's self-confidence, adjusted for what the class usually
            has), and suspected, whether cleanlab thinks the label wrong.
        accuracy: share of the judged images whose guess is their label.
        not_judged: the only images of their classes.
        features: what images were compared by.
    """

    ranked: pd.DataFrame
    accuracy: float
    not_judged: int
    features: str

    @property
    def suspected(self) -> pd.DataFrame:
        """The rows that cleanlab thinks wrong."""
        return self.ranked[self.ranked["suspected"]]

    def lines(self) -> list[str]:
        """What was found, a sentence each."""
        suspected, judged = len(self.suspected), len(self.ranked)
        said = [
            f"Suspected label errors: {suspected:,} of {judged:,} training images (leave-one-out accuracy of the judge "
            f"{100 * self.accuracy:.0f} %)."
        ]
        if suspected > BELIEVABLE * judged:
            said.append(
                "More labels are suspected than can be believed: these features tell the classes apart too poorly, or "
                "very many labels are wrong. Look at the first; features of a good --supernet that was trained on "
                "other images may judge better."
            )
        if self.not_judged:
            said.append(f"Labels not judged, each of the only image of its class: {self.not_judged:,}.")
        return said


def require_cleanlab() -> None:
    """Raise InputError where the optional cleanlab is not installed."""
    try:
        import cleanlab.filter
        import cleanlab.rank  # noqa: F401
    except ImportError:
        do = "Install it: pip install 'nasimb[inspect]'."
        raise InputError("suspected label errors are found with cleanlab", got="no such package", do=do) from None


def label_errors(images: ImageSet, features_ND: Tensor, *, by: str) -> LabelErrors | None:
    """Rank the images by how little their labels fit; None where fewer than two classes have two images.

    Args:
        features_ND: made without the labels.
        by: what these features are called.

    Raises:
        InputError: cleanlab is not installed.
        WorkError: a feature is not finite.
    """
    require_cleanlab()
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    counts_K = images.class_counts_K
    judged_M = (counts_K[images.labels_N] > 1).nonzero().flatten()
    present = torch.unique(images.labels_N[judged_M])
    if len(present) < 2:
        return None
    # cleanlab wants an image of every class, so classes are numbered anew.
    labels_M = torch.searchsorted(present, images.labels_N[judged_M])
    probabilities_MK = left_out_probabilities(features_ND[judged_M], labels_M)
    labels = labels_M.numpy()
    quality_M = get_label_quality_scores(labels, probabilities_MK, method="self_confidence", adjust_pred_probs=True)
    suspected_M = np.asarray(find_label_issues(labels, probabilities_MK, n_jobs=1), dtype=bool)
    guess_M = probabilities_MK.argmax(1)
    names = [images.classes[k] for k in present.tolist()]
    table = pd.DataFrame(
        {
            "position": judged_M.numpy(),
            "image": [images.name(position) for position in judged_M.tolist()],
            "label": [names[k] for k in labels],
            "guess": [names[k] for k in guess_M],
            "quality": quality_M,
            "suspected": suspected_M,
        }
    )
    ranked = table.sort_values("quality", kind="stable").reset_index(drop=True)
    return LabelErrors(ranked, float((guess_M == labels).mean()), len(images) - len(judged_M), by)


def left_out_probabilities(features_ND: Tensor, labels_N: Tensor) -> NDArray[np.float64]:
    """Probabilities [N, K] of every image by the head fitted to all others, at the best shrinkage.

    Args:
        labels_N: every class has two images.
    """
    classes = int(labels_N.max()) + 1
    head = GdaSpec()
    best = min(head.score(features_ND, labels_N, classes), key=lambda found: found.balanced_loss)
    found_NK = head.posteriors(features_ND, labels_N, classes, best.setting).numpy()
    return np.asarray(found_NK / found_NK.sum(1, keepdims=True))
