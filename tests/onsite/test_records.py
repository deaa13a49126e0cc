"""What is told of one batch, against sums by hand; and every alarm by a stream that deserves it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nasimb.adapt import ClassProfile, Entry, Reason, Safety
from nasimb.adapt.diagnostics import layer_table
from nasimb.adapt.profile import LayerProfile, Reference
from nasimb.adapt.safety import Evidence
from nasimb.data.base import ImageSet
from nasimb.data.store import TensorStore
from nasimb.nn.mixing import sampled
from nasimb.onsite.images import Site
from nasimb.onsite.monitor import line, new_alarms
from nasimb.onsite.records import Alarm, Record, Recorder
from nasimb.onsite.stream import Seen

CLASSES = ("a", "b", "c", "d")
EVEN_K = torch.full((4,), 0.25)


def site_of(labels: Sequence[int]) -> Site:
    store = TensorStore(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), [("made", len(labels))])
    images = ImageSet(store, torch.arange(len(labels)), torch.zeros(len(labels), dtype=torch.int64), ("",))
    return Site(images, torch.tensor(labels), ())


@pytest.fixture
def recorder() -> Recorder:
    """Of a layer whose two channels have mean 0 and variance 4, and classes that are predicted alike."""
    layer = LayerProfile(
        torch.zeros(4, 2), torch.full((4, 2), 4.0), *(torch.ones(2) for _ in range(3)), torch.zeros(4, 2)
    )
    profile = ClassProfile(EVEN_K, EVEN_K, {"norm": layer}, {"norm": True}, Reference(1.0, None, 0.0))
    nothing_NK = torch.empty(0, 4)
    usual = {"norm": layer.moments(EVEN_K)}
    return Recorder(CLASSES, frozenset({3}), usual, profile, Safety(), nothing_NK, nothing_NK)


def seen(predicted: Sequence[int], before: Sequence[int] | None = None, *, shift: float = 0.0, **entry: object) -> Seen:
    def probabilities(classes: Sequence[int]) -> Tensor:
        return 0.9 * torch.nn.functional.one_hot(torch.tensor(classes), 4).float() + 0.025

    count = len(predicted)
    x_BCHW = torch.randn(count, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    x_BCHW = x_BCHW - x_BCHW.mean(0) + shift
    values = {"adapted": False, "reason": Reason.FEW_IMAGES, "evidence": Evidence(count), **entry}
    return Seen(
        torch.arange(count), Entry(0, count, **values), probabilities(before or predicted), probabilities(predicted),
        {"norm": sampled(x_BCHW)},
    )  # type: ignore[arg-type]  # fmt: skip


def shuffled(counts: Sequence[int], seed: int = 0) -> list[int]:
    classes = torch.repeat_interleave(torch.arange(4), torch.tensor(counts))
    return classes[torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))].tolist()


def test_numbers_of_a_batch(recorder: Recorder) -> None:
    batch = seen([0, 1, 3, 3, 2], [0, 1, 1, 3, 2], shift=1.0, adapted=True, reason=Reason.SHIFTED, weight=0.5)
    record, after = recorder.record(batch, site_of([0, -1, 3, 3, 3]))
    assert record.shift == pytest.approx(0.5, rel=1e-5)
    assert record.layer == "norm"
    assert record.noise == pytest.approx(math.sqrt(1 / 5 / 4), rel=1e-5), "single images of the profile have variance 1"
    assert record.flips == pytest.approx(1 / 5)
    assert record.mix_K == pytest.approx((0.205, 0.205, 0.205, 0.385))
    assert (record.labelled, record.few_images) == (4, 3)
    assert record.accuracy == pytest.approx(3 / 4)
    assert record.few == pytest.approx(2 / 3)
    assert record.alarms == {}
    assert len(after.source_NK) == len(after.given_NK) == 5
    assert len(recorder.source_NK) == 0, "a recorder is a value"
    told = record.to_dict(CLASSES)
    assert told["class_mix"] == pytest.approx({"a": 0.205, "b": 0.205, "c": 0.205, "d": 0.385})
    assert told["reason"] == "shifted"


@pytest.mark.parametrize("images", [1, 2, 50])
def test_noise_is_what_batches_like_those_of_training_show(recorder: Recorder, images: int) -> None:
    """Means of single images drawn from the profile itself, by Monte Carlo; 100 others are behind its own means."""
    generator = torch.Generator().manual_seed(images)
    usual_TC = torch.randn(4000, 100, 2, generator=generator).mean(1)
    of_batch_TC = torch.randn(4000, images, 2, generator=generator).mean(1)
    shown = float(((of_batch_TC - usual_TC).square() / 4).mean().sqrt())
    record, _ = replace(recorder, profile_images=100).record(seen([0] * images), site_of([-1] * images))
    assert record.noise == pytest.approx(shown, rel=0.05)


def test_noise_without_a_profile_is_the_batch_s_own_and_unknown_of_one_image(recorder: Recorder) -> None:
    blind = replace(recorder, profile=None)
    batch = seen([0, 1, 2])
    record, _ = blind.record(batch, site_of([-1] * 3))
    assert record.noise == pytest.approx(math.sqrt(float((batch.layers["norm"].mean_variance_C / 4).mean())), rel=1e-5)
    alone, _ = blind.record(seen([0], shift=100.0), site_of([-1]))
    assert alone.noise is None
    assert alone.to_dict(CLASSES)["noise"] is None
    assert "(noise unknown)" in line(alone)
    assert alone.alarms == {}, "nobody knows how far a single image may be off by chance"


@pytest.mark.parametrize("profiled", [True, False])
def test_a_channel_that_was_dead_in_training_is_counted_in_units_of_what_it_shows_now(
    recorder: Recorder, profiled: bool
) -> None:
    """As a dead ReLU that comes alive: in float32 its shift would have no finite square."""
    assert recorder.profile is not None
    layer = LayerProfile(
        torch.zeros(4, 2), torch.tensor([[4.0, 0.0]]).repeat(4, 1), torch.tensor([1.0, 0.0]),
        *(torch.zeros(2) for _ in range(2)), torch.zeros(4, 2),
    )  # fmt: skip
    profile = replace(recorder.profile, layers={"norm": layer})
    dead = replace(recorder, usual={"norm": layer.moments(EVEN_K)}, profile=profile if profiled else None)
    x_BC = torch.tensor([[-1.0, 2.0], [1.0, 6.0], [-1.0, 4.0], [1.0, 4.0]])  # means (0, 4), variances (1, 2)
    batch = replace(seen([0, 1, 2, 3]), layers={"norm": sampled(x_BC[:, :, None, None])})
    record, _ = dead.record(batch, site_of([-1] * 4))
    assert record.shift == pytest.approx(math.sqrt((0 + 4**2 / 2) / 2), rel=1e-4)
    # Of four images; their own mean varies by the unbiased variance / 4.
    noise_C = (1 / 4 / 4, 0) if profiled else (4 / 3 / 4 / 4, 8 / 3 / 4 / 2)
    assert record.noise == pytest.approx(math.sqrt(sum(noise_C) / 2), rel=1e-4)
    table = layer_table(dead.usual, batch.layers, profile=dead.profile)
    assert table["shift"].item() == pytest.approx(record.shift, rel=1e-6), "the same figure in a dry run"

    x_BC[:, 1] = 3.0  # the same in all images: dead now too, but elsewhere
    record, _ = dead.record(replace(batch, layers={"norm": sampled(x_BC[:, :, None, None])}), site_of([-1] * 4))
    assert record.shift == pytest.approx(math.sqrt(3**2 / 1e-5 / 2), rel=1e-4)


def test_the_figure_of_a_drift_is_beyond_its_limit(recorder: Recorder) -> None:
    far = Evidence(64, shift=3.456)
    found = alarms(recorder, seen(shuffled([16] * 4), shift=4.0, reason=Reason.DRIFT, evidence=far))
    assert "3.46 standard deviations" in found[Alarm.DRIFT], "that of the window, since 2 of the batch are no drift"
    noisy = replace(recorder, profile_images=1)
    noise = math.hypot(0.5, 0.5)
    assert alarms(noisy, seen([0], shift=6.1)) == {}
    assert f"(limit {math.hypot(3, noise):.2f})" in alarms(noisy, seen([0], shift=6.5))[Alarm.DRIFT]


def test_without_labels_nothing_is_said_of_them(recorder: Recorder) -> None:
    record, _ = recorder.record(seen([0, 1]), site_of([-1, -1]))
    assert (record.labelled, record.accuracy, record.few, record.few_images) == (0, None, None, 0)


def alarms(recorder: Recorder, batch: Seen) -> dict[Alarm, str]:
    record, _ = recorder.record(batch, site_of([-1] * len(batch.positions_B)))
    return dict(record.alarms)


def test_a_healthy_stream_alarms_nobody(recorder: Recorder) -> None:
    for seed in range(10):
        assert alarms(recorder, seen(shuffled([16, 16, 16, 16], seed))) == {}


def test_each_alarm_has_its_stream(recorder: Recorder) -> None:
    even = shuffled([16, 16, 16, 16])
    assert set(alarms(recorder, seen(even, shift=7.0))) == {Alarm.DRIFT}
    assert "3.50 standard deviations" in alarms(recorder, seen(even, shift=7.0))[Alarm.DRIFT]
    assert set(alarms(recorder, seen(sorted(even)))) == {Alarm.ORDERED}
    mix = alarms(recorder, seen(shuffled([58, 2, 2, 2])))
    assert set(mix) == {Alarm.CLASS_MIX}
    assert "class 'a', 84% instead of 25%" in mix[Alarm.CLASS_MIX]
    for reason, alarm in (
        (Reason.COLLAPSE, Alarm.COLLAPSE),
        (Reason.FEW_CLASSES, Alarm.FEW_CLASSES),
        (Reason.CHANGED, Alarm.CHANGED),
        (Reason.DRIFT, Alarm.DRIFT),
    ):
        assert set(alarms(recorder, seen(even, reason=reason, evidence=Evidence(64, shift=4.0)))) == {alarm}
    dependent = seen(even, reason=Reason.DEPENDENT, evidence=Evidence(64, dependence=9.0))
    assert "9.0 standard deviations" in alarms(recorder, dependent)[Alarm.ORDERED]


def test_the_mix_is_not_judged_without_a_profile(recorder: Recorder) -> None:
    blind = replace(recorder, profile=None)
    record, _ = blind.record(seen(shuffled([58, 2, 2, 2])), site_of([-1] * 64))
    assert (record.alarms, record.divergence) == ({}, None)


def test_an_alarm_is_told_when_it_begins(recorder: Recorder) -> None:
    record: Record | None = None
    told = []
    for batch in (seen([0, 1, 2, 3] * 16), seen([0] * 64), seen([0] * 64)):
        before = record
        record, recorder = recorder.record(batch, site_of([-1] * 64))
        told.append(new_alarms(record, before))
    assert told[0] == []
    assert any("class mix" in line for line in told[1])
    assert not any("class mix" in line for line in told[2])
