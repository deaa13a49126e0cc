"""One line a batch: how far it is from training, what was done with it, what was predicted, and what is alarming.

Shapes: B images of a batch, N images of the window, K classes, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nasimb.adapt.adapter import BatchNormAdapter
from nasimb.adapt.evidence import excess_divergence, serial_dependence
from nasimb.adapt.profile import ClassProfile
from nasimb.adapt.safety import Reason, Safety
from nasimb.metrics import shot_groups
from nasimb.nn.mixing import EPSILON, Sampled
from nasimb.nn.moments import Moments
from nasimb.onsite.images import UNLABELLED, Site
from nasimb.onsite.stream import Seen

MOST_DIVERGENCE = 0.1
"""Nats by which the mean prediction of a window may differ from that on training images; ten times where the adapter
begins to correct for the class mix, since this is to be looked at by a person."""


class Alarm(StrEnum):
    """What a person should look at."""

    DRIFT = "drift"
    COLLAPSE = "collapse"
    CLASS_MIX = "class mix"
    ORDERED = "ordered stream"
    FEW_CLASSES = "few classes"
    CHANGED = "change"


@dataclass(frozen=True)
class Record:
    """What is told of one batch.

    Attributes:
        batch, images: its number from 0, and how many it has.
        shift: of the layer that is furthest from training, root mean square over channels in standard deviations (of
            training or of the batch, the larger), as the unadapted model sees the batch; layer: its name; noise: what
            a batch of this size would show by chance, None for a single image without a profile.
        adapted, reason, weight, rolled_back: see `nasimb.adapt.Entry`.
        flips: share of images that are given another class than by the model as it is.
        mix_K: mean prediction.
        divergence: of the window's mean prediction from that on training images, nats; None without a profile.
        dependence: see `nasimb.adapt.evidence.serial_dependence`, as the adapter found it; None where it did not look.
        labelled: images with a label, accuracy: on them; few: recall (by image) of few-shot classes, on `few_images`.
        alarms: {alarm: sentence}.
    """

    batch: int
    images: int
    shift: float
    layer: str
    noise: float | None
    adapted: bool
    reason: Reason
    weight: float
    rolled_back: bool
    flips: float
    mix_K: tuple[float, ...]
    divergence: float | None
    dependence: float | None
    labelled: int
    accuracy: float | None
    few: float | None
    few_images: int
    alarms: Mapping[Alarm, str]

    def to_dict(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """For programs: one JSON line."""
        values = {name: _rounded(value) for name, value in vars(self).items() if name not in ("mix_K", "alarms")}
        mix = {name: _rounded(share) for name, share in zip(classes, self.mix_K, strict=True)}
        return {**values, "class_mix": mix, "alarms": {alarm.value: text for alarm, text in self.alarms.items()}}


@dataclass(frozen=True, eq=False)
class Recorder:
    """What batches are compared with, and the newest predictions; a value: `record` gives the next one.

    Attributes:
        usual: moments of training, by layer. profile_images: behind the profile; None: too many to matter.
        source_NK, given_NK: predictions of the window, newest last, of the model as it is, and as they were given out.
    """

    classes: tuple[str, ...]
    few: frozenset[int]
    usual: Mapping[str, Moments]
    profile: ClassProfile | None
    safety: Safety
    source_NK: Tensor
    given_NK: Tensor
    profile_images: int | None = None

    @classmethod
    def begin(
        cls,
        adapter: BatchNormAdapter,
        classes: tuple[str, ...],
        class_counts_K: tuple[int, ...],
        profile_images: int | None = None,
    ) -> Recorder:
        """For a stream that begins now."""
        profile = None if adapter.profile is None else adapter.profile.to(torch.device("cpu"))
        usual = {
            name: adapter.source_moments(name) if profile is None else profile.layers[name].moments(profile.shares_K)
            for name in adapter.layers
        }
        nothing_NK = torch.empty(0, len(classes))
        few = frozenset(shot_groups(class_counts_K)["few"].tolist())
        return cls(classes, few, usual, profile, adapter.safety or Safety(), nothing_NK, nothing_NK, profile_images)

    def record(self, seen: Seen, site: Site) -> tuple[Record, Recorder]:
        """Of the next batch, and the recorder for the one after it."""
        window = self.safety.window
        after = replace(
            self,
            source_NK=torch.cat([self.source_NK, seen.source_BK])[-window:],
            given_NK=torch.cat([self.given_NK, seen.adapted_BK])[-window:],
        )
        layer, shift, noise = self._furthest(seen)
        predicted_B, before_B = seen.adapted_BK.argmax(1), seen.source_BK.argmax(1)
        labels_B = site.labels_N[seen.positions_B]
        known_B = labels_B != UNLABELLED
        few_B = known_B & torch.tensor([label in self.few for label in labels_B.tolist()], dtype=torch.bool)
        right_B = predicted_B == labels_B
        divergence = None
        if self.profile is not None:
            divergence = excess_divergence(after.given_NK, self.profile.predicted_K)
        made = Record(
            batch=seen.entry.batch, images=seen.entry.images, shift=shift, layer=layer, noise=noise,
            adapted=seen.entry.adapted, reason=seen.entry.reason, weight=seen.entry.weight,
            rolled_back=seen.entry.rolled_back, flips=float((predicted_B != before_B).float().mean()),
            mix_K=tuple(seen.adapted_BK.mean(0).tolist()), divergence=divergence,
            dependence=seen.entry.evidence.dependence, labelled=int(known_B.sum()), accuracy=_mean(right_B[known_B]),
            few=_mean(right_B[few_B]), few_images=int(few_B.sum()), alarms={},
        )  # fmt: skip
        return replace(made, alarms=after._alarms(made, seen.entry.evidence.shift)), after

    def _furthest(self, seen: Seen) -> tuple[str, float, float | None]:
        """(layer, shift, noise)."""
        found = {}
        for name, sample in seen.layers.items():
            usual = self.usual[name]
            usual_C, now_C = usual.var_C.cpu().double(), sample.moments.var_C.cpu().double()
            # The larger of both: a channel that was dead in training must not decide for all that live.
            scale_C = torch.maximum(usual_C, now_C) + EPSILON
            square_C = (sample.moments.mean_C.cpu().double() - usual.mean_C.cpu().double()) ** 2 / scale_C
            found[name] = (float(square_C.mean()) ** 0.5, self._noise(name, sample, usual_C + EPSILON, scale_C))
        name = max(found, key=lambda name: found[name][0])
        return name, *found[name]

    def _noise(self, name: str, sample: Sampled, usual_C: Tensor, scale_C: Tensor) -> float | None:
        """Of the means of so many images less those of training, where nothing is wrong: root mean square.

        By the profile, since a few images tell next to nothing of how images differ, and one nothing at all; then in
        units of training alone (variances usual_C), the same for every batch of so many.
        """
        if self.profile is not None:
            of_one_C = self.profile.layers[name].image_var_C.clamp(min=0)
            square_C = of_one_C * (1 / sample.images + 1 / (self.profile_images or math.inf)) / usual_C
        elif sample.images > 1:
            square_C = sample.mean_variance_C.cpu() / scale_C
        else:
            return None
        return math.sqrt(float(square_C.mean()))

    def _alarms(self, made: Record, window_shift: float | None) -> dict[Alarm, str]:
        """`self` has the batch in its window, of which the adapter found that shift."""
        safety, alarms = self.safety, {}
        # Of a single image without a profile nobody knows how far it may be off by chance.
        limit = math.inf if made.noise is None else math.hypot(safety.most_shift, made.noise)
        if made.shift > limit:
            alarms[Alarm.DRIFT] = (
                f"the means of {made.layer} are {made.shift:.2f} standard deviations from training (limit {limit:.2f})"
            )
        elif made.reason is Reason.DRIFT:
            assert window_shift is not None
            alarms[Alarm.DRIFT] = (
                f"the means of a layer, over the newest images, are {window_shift:.2f} standard deviations from "
                f"training (limit {safety.most_shift:.2f})"
            )
        if made.reason is Reason.COLLAPSE:
            alarms[Alarm.COLLAPSE] = "adapted predictions collapse onto a few classes; earlier statistics were put back"
        if made.reason is Reason.CHANGED:
            alarms[Alarm.CHANGED] = "the images are no longer those that the model was adapted to; it begins anew"
        if made.reason is Reason.FEW_CLASSES:
            alarms[Alarm.FEW_CLASSES] = "by what is predicted, the newest images are of one class or a few"
        if len(self.source_NK) < safety.least_images:
            return alarms
        # Of the model as it is: where adapting begins or ends, predictions change, but the images need not.
        dependence = serial_dependence(self.source_NK, safety.reach)
        if made.reason is Reason.DEPENDENT:
            dependence = max(dependence, made.dependence or 0.0)
        if dependence > safety.most_dependence:
            alarms[Alarm.ORDERED] = (
                f"images near each other in the stream resemble each other ({dependence:.1f} standard deviations, "
                f"limit {safety.most_dependence:g})"
            )
        if self.profile is not None and made.divergence is not None and made.divergence > MOST_DIVERGENCE:
            alarms[Alarm.CLASS_MIX] = self._mix_sentence(made.divergence, self.profile)
        return alarms

    def _mix_sentence(self, divergence: float, profile: ClassProfile) -> str:
        now_K, usual_K = self.given_NK.mean(0).numpy(), profile.predicted_K.numpy()
        k = int(np.abs(now_K - usual_K).argmax())
        return (
            f"the predicted class mix is {divergence:.2f} nats from that of training (limit {MOST_DIVERGENCE:g}); "
            f"furthest off is class {self.classes[k]!r}, {now_K[k]:.0%} instead of {usual_K[k]:.0%}"
        )


def _mean(right_M: Tensor) -> float | None:
    return float(right_M.float().mean()) if len(right_M) else None


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value
