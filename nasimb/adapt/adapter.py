"""A model whose norms follow the images it is given, as far as that is safe.

Shapes: B images of a batch, N images of a window, K classes, C channels.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from nasimb.adapt.distinct import Distinct
from nasimb.adapt.evidence import class_shares, entropy, excess_divergence, information, serial_dependence
from nasimb.adapt.looks import LOOK, only, some
from nasimb.adapt.passes import Passes, check_images
from nasimb.adapt.pixels import pixels_with
from nasimb.adapt.profile import ClassProfile, check_classes, check_profile, unexplained_shift
from nasimb.adapt.safety import Evidence, Reason, Safety, judge
from nasimb.adapt.state import Entry, State, change, mean_weight, new_look, pooled, remember
from nasimb.adapt.strategies import MEMORY, Correct, named, unchanged
from nasimb.errors import InputError
from nasimb.nn.mixing import EPSILON, Sampled, fading, sampled
from nasimb.nn.moments import Moments

SETTLED, SPARSE = 512, 64
"""Once a strategy that learns has seen so many images, one batch in 64 brings it up to date."""

JUDGED, JUDGED_SETTLED = 32, 192
"""New images after which the evidence is weighed again, and that once the strategy is settled."""

PIXEL_IMAGES = 2048
"""Images whose pixels the newest ones are compared with: those from the start, so that no slow drift is averaged in."""

LOG = 10_000
"""Batches whose entries are kept."""

PRIOR_IMAGES = 16
"""Images that the expected shares of the classes count for, beside those of the stream."""


class BatchNormAdapter:
    """Gives a model's logits with norms that are adapted to the images, batch after batch.

    >>> from torchvision.models import resnet18
    >>> adapter = BatchNormAdapter(resnet18(), strategy="mixed")
    >>> adapter(torch.rand(4, 3, 64, 64)).shape
    torch.Size([4, 1000])
    >>> adapter.log[-1].reason.value
    'too few images yet'

    The model itself stays as it is: the adapter works on a copy, in evaluation mode. It is never trained; what changes
    are the mean and variance that batch norms normalise with (group and layer norms: see `nasimb.adapt.layers`).

    **Safety.** A stream of one class after the other, or one whose classes are in other shares than in training,
    shifts the statistics too; following that shift costs tens of points of accuracy. So the adapter begins with the
    source's statistics, runs the unadapted model beside the adapted one for a window of images, and adapts only if the
    window shows many classes in no order, and a shift that their shares do not explain (`nasimb.adapt.safety`). What
    other shares of the classes do explain is taken out of the statistics before they are used. Later it looks again
    from time to time. `adapter.log` says what was done with each batch and why. The last two need a `profile` of
    training images; without one, limits are cautious guesses.

    Calls from several threads wait for each other; `log`, `state` and `adapted_model` may be read at any time, and
    show the adapter between two batches.

    Args:
        model: gives logits [B, K]; batch norms with running statistics, or group and layer norms and a profile.
        strategy: `source`, `batch`, `prior:16`, `ema:0.1`, `mixed`, `mean-step:0.5` or `huber-step:1.5`; see
            `nasimb.adapt.strategies`.
        profile: of training images (`class_profile`), of this model.
        safety: limits; None: adapt to every batch, whatever it is.

    Raises:
        InputError: there is nothing to adapt in the model, the strategy is unknown, or the profile is of another model.
    """

    def __init__(
        self,
        model: nn.Module,
        strategy: str = "mixed",
        *,
        profile: ClassProfile | None = None,
        safety: Safety | None = Safety(),  # noqa: B008  (a value)
    ) -> None:
        self._strategy = named(strategy)
        self._passes = Passes(model, profile.outputs() if profile else None)
        if profile is not None:
            check_profile(profile, self._passes)
            profile = profile.to(self._passes.device)
        self.profile, self.safety = profile, safety
        self._lock = threading.RLock()
        self._written: Mapping[str, Moments] | None = {}
        self._state, self._log, self._distinct = self._fresh()

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        """logits_BK, no gradients.

        Raises:
            InputError: pixels that are not finite, no image at all, or images that the model does not take. What was
                learned before stays.
        """
        check_images(images_BCHW)
        with self._lock:
            logits_BK, self._state, entry = self._step(images_BCHW, self._state)
            self._log.append(entry)
        return logits_BK

    @property
    def state(self) -> State:
        """What was learned so far; later batches do not change it."""
        return self._state

    @property
    def log(self) -> tuple[Entry, ...]:
        """An entry a batch, newest last; the last 10,000."""
        return tuple(self._log)

    @property
    def newest(self) -> Entry | None:
        """The entry of the newest batch, without a copy of the others."""
        log = self._log  # another thread may reset it
        return log[-1] if log else None

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that are adapted."""
        return tuple(self._passes.layers)

    def source_moments(self, layer: str) -> Moments:
        """Moments that a layer has from training."""
        return self._passes.layers[layer].source

    def reset(self) -> None:
        """Forget the stream, and the log."""
        with self._lock:
            self._state, self._log, self._distinct = self._fresh()

    def _fresh(self) -> tuple[State, deque[Entry], Distinct]:
        return State(), deque(maxlen=LOG), Distinct()

    def rollback(self) -> None:
        """Go back to the last state that was found healthy; to the source's statistics where there is none."""
        with self._lock:
            self._state = self._rolled_back(self._state)

    def adapted_model(self) -> nn.Module:
        """A plain copy of the model with the statistics that its logits come from now, for export: the source's where
        the newest batch was not adapted to.

        Raises:
            InputError: group or layer norms were adapted, whose correction is no part of a plain model.

        >>> model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> adapter = BatchNormAdapter(model, "ema:0.1", safety=None)
        >>> logits_BK = adapter(torch.full((8, 1, 2, 2), 5.0))
        >>> adapter.adapted_model()[0].running_mean, model[0].running_mean
        (tensor([0.5000]), tensor([0.]))
        """
        with self._lock:
            if any(not layer.running for layer in self._passes.layers.values()):
                do = "Use the adapter itself."
                raise InputError("only batch norms keep what they adapted to", got="group or layer norms", do=do)
            serves = self._state.adapting or self.safety is None
            self._use(self._state.moments if serves else {})
            return self._passes.copied()

    # One batch -----------------------------------------------------------------------------------------------------

    def _step(self, images: Tensor, state: State) -> tuple[Tensor, State, Entry]:
        images = images.detach().to(self._passes.device)
        number, state = state.batches, replace(state, batches=state.batches + 1)
        if not self._strategy.adapts:
            self._use({})
            return self._passes.run(images), state, Entry(number, len(images), False, Reason.NEVER, Evidence(0))
        if self.safety is None:
            logits, state = self._adapted(images, state, fully=False)
            entry = Entry(number, len(images), True, Reason.UNWATCHED, Evidence(0), state.weight)
            return logits, state, entry
        if not state.adapting and self._rests(state, self.safety):
            self._use({})
            state = replace(state, rested=state.rested + len(images))
            return self._passes.run(images), state, Entry(number, len(images), False, Reason.RESTING, Evidence(0))
        return self._watched(images, state, number, self.safety)

    def _watched(self, images: Tensor, state: State, number: int, safety: Safety) -> tuple[Tensor, State, Entry]:
        looks = not self._rests(state, safety)
        logits_source = None
        some_B = some(images, state.batches)
        beside_B = some_B if state.adapting else None
        if looks:
            if state.rested:  # what was seen before the rest is no neighbour of what comes now
                state = new_look(state)
            logits_source, state = self._unadapted(only(images, beside_B), state)
        else:
            state = replace(state, rested=state.rested + len(images))
        logits, after = self._adapted(images, state, fully=looks)
        check_classes(self.profile, logits.shape[1])
        after = remember(after, logits, logits_source, safety.window)
        if logits_source is not None:
            flipped = int((only(logits, beside_B).argmax(1) != logits_source.argmax(1)).sum())
            after = replace(after, flipped=after.flipped + flipped)
        if after.moments is not state.moments:
            after = replace(after, shift=self._shift(after))
        settled = state.adapting and state.measured >= SETTLED
        judged = min(JUDGED_SETTLED, safety.window) if settled else JUDGED
        if looks or after.unjudged > judged - max(JUDGED, len(images)):  # only those that will be judged next
            after = replace(after, newest_pixels=pixels_with(after.newest_pixels, only(images, some_B)))
        if state.adapting and not looks and after.unjudged < judged:
            entry = Entry(number, len(images), True, Reason.STEADY, Evidence(0), after.weight)
            return logits, after, entry
        found = self._evidence(after, looks)
        if state.adapting:
            found = replace(found, change=change(after, looks, JUDGED))
        reference = self.profile.reference if self.profile else None
        reason = judge(found, safety, logits.shape[1], reference, adapting=state.adapting, suspected=state.suspected)
        before = after.pixels
        if before is None or before.images < PIXEL_IMAGES:
            after = replace(after, pixels=pooled(before, after.newest_pixels))
        after = replace(after, newest_pixels=None)
        if reason is Reason.SHIFTED:
            after = self._accepted(replace(after, unjudged=0), logits, found, safety)
            after = replace(after, good=replace(after, good=None)) if looks else after
            return logits, after, Entry(number, len(images), True, reason, found, after.weight)
        if logits_source is None or len(logits_source) < len(images):
            self._use({})
            logits_source = self._passes.run(images)
        entry = Entry(number, len(images), False, reason, found, 0.0, reason is Reason.COLLAPSE)
        return logits_source, self._refused(state, after, reason, safety), entry

    def _rests(self, state: State, safety: Safety) -> bool:
        """Whether the unadapted model need not run beside: it has for a window, and not long ago."""
        if state.adapting:
            return state.looked >= min(LOOK, safety.window) and state.rested < safety.look
        return state.looked >= safety.window and state.rested < safety.rest

    def _unadapted(self, images: Tensor, state: State) -> tuple[Tensor, State]:
        self._use({})
        fresh = self._distinct.fresh(images, state.since).positions
        keep_B = None if len(fresh) == len(images) else fresh
        of_source = dict(state.of_source)

        def seen(name: str, x_BCHW: Tensor) -> None:
            of_source[name] = pooled(of_source.get(name), sampled(only(x_BCHW, keep_B)))

        logits = self._passes.run(images, seen if self.profile and len(fresh) else None)
        return logits, replace(state, of_source=of_source, looked=state.looked + len(images), rested=0)

    def _adapted(self, images: Tensor, state: State, *, fully: bool) -> tuple[Tensor, State]:
        """Logits with statistics that have seen these images, if it is their turn to be looked at.

        Args:
            fully: they are looked at in any case, and what they say by themselves is kept too.
        """
        settled = self._strategy.learns and state.adapting and state.measured >= SETTLED
        if settled and not fully and state.unmeasured < (SPARSE - 1) * len(images):
            self._use(state.moments)
            return self._passes.run(images), replace(state, unmeasured=state.unmeasured + len(images))
        some_B = some(images, state.batches) if settled else None
        fresh = self._distinct.fresh(only(images, some_B), state.since) if self._strategy.learns else None
        if fresh is not None and not len(fresh.positions):
            self._use(state.moments)
            return self._passes.run(images), replace(state, unmeasured=0)
        keep_B = None
        if fresh is not None and len(fresh.positions) < len(images):
            keep_B = fresh.positions if some_B is None else some_B[fresh.positions]
        known, moments, weights = dict(state.known), dict(state.moments), dict(state.weights)
        of_look = dict(state.of_look)

        def seen(name: str, x_BCHW: Tensor) -> Moments:
            x_BCHW = only(x_BCHW, keep_B)
            source = self._passes.layers[name].source_beside(x_BCHW)
            found = self._strategy.estimate(source, x_BCHW, known.get(name), self._correct(name, state))
            if fully and state.adapting:
                of_look[name] = pooled(of_look.get(name), found.newest or sampled(x_BCHW))
            known[name], moments[name], weights[name] = found.known, found.moments, found.weight
            return found.moments

        self._written = None
        logits = self._passes.run(images, seen)
        self._written = moments
        if fresh is not None:
            self._distinct.remember(fresh, state.batches)
        measured = state.measured + (len(images) if keep_B is None else len(keep_B))
        after = replace(
            state, known=known, moments=moments, weights=weights, weight=mean_weight(weights), of_look=of_look,
            measured=measured, unmeasured=0,
        )  # fmt: skip
        return logits, after

    def _correct(self, name: str, state: State) -> Correct:
        """Takes out what other shares of the classes explain."""
        if self.profile is None or not state.correction or state.shares_K is None:
            return unchanged
        layer, expected_K = self.profile.layers[name], self.profile.shares_K
        shares_K = torch.lerp(expected_K, self._shares(state), state.correction)
        usual, unusual = layer.moments(expected_K), layer.moments(shares_K)
        shift_C = unusual.mean_C - usual.mean_C
        ratio_C = (usual.var_C + EPSILON) / (unusual.var_C + EPSILON)
        return lambda found: Moments(found.mean_C - shift_C, found.var_C * ratio_C)

    def _shares(self, state: State) -> Tensor:
        assert self.profile is not None
        assert state.shares_K is not None
        total_K = state.shares_K + PRIOR_IMAGES * self.profile.shares_K
        return total_K / total_K.sum()

    def _evidence(self, state: State, looks: bool) -> Evidence:
        predictions_NK = state.predictions_NK
        assert predictions_NK is not None
        assert self.safety is not None
        found = Evidence(
            len(predictions_NK),
            information(predictions_NK),
            serial_dependence(predictions_NK, self.safety.reach),
            state.shift,
            entropy=float(entropy(predictions_NK.mean(0))),
            begun_entropy=state.begun_entropy,
        )
        if self.profile is not None:
            found = replace(found, divergence=excess_divergence(predictions_NK, self.profile.predicted_K))
        source_NK = state.source_predictions_NK
        if not looks or source_NK is None:
            return found
        found = replace(found, flips=state.flipped / state.looked)
        if self.profile is None or not state.of_source or next(iter(state.of_source.values())).images < 2:
            return found
        unexplained = unexplained_shift(self.profile.layers, source_NK.mean(0), state.of_source)
        return replace(found, unexplained=unexplained)

    def _shift(self, state: State) -> float:
        """Largest root mean square shift of the means of a layer, in standard deviations of the source."""
        largest = 0.0
        for name, now in state.moments.items():
            if not self._passes.layers[name].knows_mean:
                continue
            source = self._passes.layers[name].source
            scale_C = torch.maximum(source.var_C, now.var_C) + EPSILON
            largest = max(largest, float(((now.mean_C - source.mean_C) ** 2 / scale_C).mean().sqrt()))
        return largest

    def _accepted(self, state: State, logits: Tensor, found: Evidence, safety: Safety) -> State:
        begun = state.begun_entropy if state.adapting else found.entropy
        state = replace(state, adapting=True, begun_entropy=begun)
        if self.profile is not None:
            state = self._with_shares(state, logits.float().softmax(1), found, safety)
        return state

    def _with_shares(self, state: State, newest_BK: Tensor, found: Evidence, safety: Safety) -> State:
        """The state with the classes of this batch in their shares."""
        assert self.profile is not None
        assert found.divergence is not None
        if found.images >= min(safety.shares_images, safety.window):
            state = replace(state, correction=safety.correction(found.divergence))
        predicted_K = self.profile.predicted_K
        before_K = torch.zeros_like(predicted_K) if state.shares_K is None else state.shares_K
        believed_K = torch.lerp(predicted_K, self._shares(replace(state, shares_K=before_K)), state.correction)
        before_K = before_K * (MEMORY / before_K.sum().clamp(min=MEMORY))
        return replace(state, shares_K=before_K + class_shares(newest_BK, believed_K, predicted_K))

    def _refused(self, before: State, after: State, reason: Reason, safety: Safety) -> State:
        """The state after a batch that was not adapted to."""
        if reason is Reason.COLLAPSE:
            return self._rolled_back(after)
        suspected = before.suspected or reason is Reason.DEPENDENT
        if before.adapting:  # what was learned is of no use here: begin anew
            return _begun_anew(after.batches, suspected=suspected)
        known = {
            name: fading(one, safety.window) if isinstance(one, Sampled) else one for name, one in after.known.items()
        }
        return replace(after, known=known, suspected=suspected)

    def _rolled_back(self, state: State) -> State:
        good = state.good
        if good is None:
            return _begun_anew(state.batches, suspected=state.suspected)
        return replace(good, good=None, batches=state.batches)

    def _use(self, moments: Mapping[str, Moments]) -> None:
        if moments is self._written:
            return
        self._written = None  # should writing fail half-way
        self._passes.write_source()
        self._passes.write(moments)
        self._written = moments


def _begun_anew(batches: int, *, suspected: bool) -> State:
    """Nothing is known; images that come again are news."""
    return State(batches=batches, since=batches + 1, suspected=suspected)
