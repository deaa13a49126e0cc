"""Whether a head does, measured: against scikit-learn with images left out for real, and on digits made unlike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from care.pairs import coloured, digits, made, pixels
from nasimb.care.features import simple
from nasimb.care.head import MOST_BEHIND, HeadCheck, head_check
from nasimb.care.look import look_closer
from nasimb.data.digits import DigitsSpec
from nasimb.heads.gda import GdaSpec


def test_each_image_is_left_out_of_the_head_that_judges_it() -> None:
    rng = np.random.default_rng(0)
    labels_N = torch.tensor([0] * 12 + [2] * 9 + [3])  # no image of 1, one of 3, which is not judged
    features_ND = torch.tensor(rng.normal(size=(22, 3)) + labels_N.numpy()[:, None]).float()
    images = made(torch.zeros(22, 1, 8, 8, dtype=torch.uint8), labels_N)
    found = head_check(images, features_ND, torch.zeros(22, 2))
    assert found is not None
    kept_MD, kept_M = features_ND[:21], (labels_N[:21] > 0).long()
    best = min(GdaSpec().score(kept_MD, kept_M, 2), key=lambda one: one.balanced_loss)
    predicted = []
    for left_out in range(21):
        rest = torch.arange(21) != left_out
        head = GdaSpec().fit(kept_MD[rest], kept_M[rest], 2, best.setting)
        predicted.append(int(head.to_module()(kept_MD[~rest]).argmax(1)))
    assert found.frozen == pytest.approx(balanced_accuracy_score(kept_M.numpy(), predicted))
    assert found.simple == pytest.approx(0.5)


def test_it_is_as_far_behind_as_may_be() -> None:
    assert HeadCheck(0.8, 0.8 + MOST_BEHIND - 0.001).suffices
    assert not HeadCheck(0.8, 0.8 + MOST_BEHIND + 0.001).suffices
    assert "is likely to suffice" in HeadCheck(0.9, 0.8).sentence
    assert "is not likely to suffice" in HeadCheck(0.3, 0.8).sentence
    assert "30.0 %" in HeadCheck(0.3, 0.8).sentence


def test_one_class_tells_nothing() -> None:
    images = made(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 0, 0, 1]))
    assert head_check(images, torch.zeros(4, 2), torch.zeros(4, 2)) is None


def test_a_super_network_has_the_last_word_unless_it_has_learned_the_target(finished_run: Path) -> None:
    known = DigitsSpec(digits=(0, 1, 2, 3, 4), source_per_class=12, target_per_class=30, test_per_class=10)
    found = look_closer(known, supernet=finished_run / "supernet", labels=False)
    assert found.head is not None
    assert found.lines()[0] == found.head.sentence
    assert found.values()["head"]["suffices"] == found.head.suffices
    assert look_closer(known, labels=False).head is None


def test_colours_that_features_have_never_met() -> None:
    """Features that hold nothing but how much of an image is red."""
    target = coloured(digits().train)
    red_ND = pixels(target)[:, 0].float().mean((1, 2))[:, None]
    found = head_check(target, red_ND, simple().of(target))
    assert found is not None
    assert not found.suffices
