"""Test splits made by hand."""

from __future__ import annotations

import numpy as np

from nasimb.report.tested import TestSplit


def made_split(images: int = 40, seed: int = 0, **wrong: float) -> TestSplit:
    """Three classes, one of each group; every role is wrong on its share of the images, one after the other."""
    labels_N = np.repeat(np.arange(3), images)
    rng = np.random.default_rng(seed)
    predicted = {
        role: np.where(rng.random(len(labels_N)) < share, (labels_N + 1) % 3, labels_N) for role, share in wrong.items()
    }
    return TestSplit(("much", "some", "rare"), np.array([200, 50, 5]), labels_N, predicted, None)


def made_result(norms: str = "bn", winner: str = "bn") -> dict[str, object]:
    """As much of a result as steps need."""
    entries = {
        name: {"subnet": {"norms": [norm]}, "calibration": "source"}
        for name, norm in (("winner", winner), ("largest", norms), ("largest_plain_head", norms))
    }
    return {"winner": entries.pop("winner"), "baselines": entries}
