"""Deferred reweighting: two parts, the first without class weights."""

from __future__ import annotations

import pytest
import torch

from nasimb.losses import LossSpec, parse_loss

COUNTS = torch.tensor([200, 30, 4])


def value(loss: object, cosine: bool) -> float:
    logits_BK = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels_B = torch.arange(20) % 3
    return loss(logits_BK.tanh() if cosine else logits_BK, labels_B).item()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("base", "first", "last"),
    [
        ("class_balanced", "cross_entropy", "class_balanced"),
        ("balanced_softmax", "cross_entropy", "balanced_softmax"),
        ("ldam", "ldam", {"name": "ldam", "class_balanced": True}),
        (
            {"name": "focal", "gamma": 2.0},
            {"name": "focal", "gamma": 2.0},
            {"name": "focal", "gamma": 2.0, "class_balanced": True},
        ),
    ],
)
def test_parts(base: object, first: object, last: object) -> None:
    spec = parse_loss({"name": "deferred", "base": base, "share": 0.75})
    parts = spec.phases(COUNTS)
    assert [part.share for part in parts] == [0.75, 0.25]
    for part, expected in zip(parts, (first, last), strict=True):
        theirs = parse_loss(expected).build(COUNTS)  # type: ignore[arg-type]
        assert value(part.loss, spec.cosine) == pytest.approx(value(theirs, spec.cosine), rel=1e-12)


def test_cosine_as_its_base() -> None:
    assert parse_loss({"name": "deferred", "base": {"name": "ldam", "scale": 20.0}}).cosine_scale == 20.0
    assert not parse_loss("deferred").cosine


def test_written_out_and_read_back() -> None:
    spec = parse_loss({"name": "deferred", "base": {"name": "class_balanced", "beta": 0.99}, "share": 0.5})
    values = spec.model_dump()
    assert values["base"]["beta"] == 0.99
    again: LossSpec = parse_loss(values)
    assert again == spec
    assert hash(again) == hash(spec)
