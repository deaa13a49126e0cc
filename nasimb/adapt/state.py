"""What an adapter has learned from a stream, as a value; and what it says of each batch.

Shapes: B images of a batch, N images of a window, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean

import torch
from torch import Tensor

from nasimb.adapt.pixels import pixel_change
from nasimb.adapt.profile import square_shift
from nasimb.adapt.safety import Evidence, Reason
from nasimb.adapt.strategies import Known
from nasimb.nn.mixing import Sampled, pooled_samples
from nasimb.nn.moments import Moments


@dataclass(frozen=True)
class Entry:
    """What was done with one batch.

    Attributes:
        batch: its number, from 0.
        images: in it.
        adapted: whether its predictions come from adapted statistics.
        reason: why, or why not.
        evidence: of the window it ends.
        weight: mean over the layers of the target's weight.
        rolled_back: whether earlier statistics were put back.

    Example:
        >>> from nasimb.adapt import BatchNormAdapter
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> adapter = BatchNormAdapter(model)
        >>> for _ in range(2):
        ...     logits_BK = adapter(torch.randn(8, 1, 2, 2))
        >>> [(entry.batch, entry.images, entry.adapted, entry.reason.name) for entry in adapter.log]
        [(0, 8, False, 'FEW_IMAGES'), (1, 8, False, 'FEW_IMAGES')]
    """

    batch: int
    images: int
    adapted: bool
    reason: Reason
    evidence: Evidence
    weight: float = 0.0
    rolled_back: bool = False


@dataclass(frozen=True)
class State:
    """All that an adapter has learned from a stream; a value, replaced as a whole after every batch.

    Attributes:
        batches: so far; since: number of the batch from which on images are known.
        known: what the strategy carries, by layer.
        moments: what each layer normalises with; none: with the source's.
        weights: of the target in them; weight: their mean over the layers.
        shift: largest of a layer's means, see `Evidence`.
        of_source: what the unadapted model's layers saw in this look.
        of_look: what the adapted model's layers saw in this look, after it had begun; before_look: `known` until then.
        pixels: of the stream's first images; newest_pixels: of the images since the evidence was last weighed.
        predictions_NK: of the adapted model, newest last; source_predictions_NK: of the unadapted one, where it ran.
        shares_K: images of each class so far, as estimated; None without a profile. correction: see `Safety`.
        adapting: whether the newest batch was adapted to.
        measured: images behind `known`; unmeasured: images since it was last brought up to date.
        looked: images for which the unadapted model ran beside, in this look; flipped: those of them that the adapted
            one gave another class. rested: images since the last look.
        unjudged: images since the evidence was last weighed.
        suspected: whether neighbours in the stream resembled each other so far.
        begun_entropy: of the mean prediction when it began, nats.
        good: the state at the last look that found nothing wrong.
    """

    batches: int = 0
    since: int = 0
    known: Mapping[str, Known] = field(default_factory=dict)
    moments: Mapping[str, Moments] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    weight: float = 0.0
    shift: float = 0.0
    of_source: Mapping[str, Sampled] = field(default_factory=dict)
    of_look: Mapping[str, Sampled] = field(default_factory=dict)
    before_look: Mapping[str, Known] = field(default_factory=dict)
    pixels: Sampled | None = None
    newest_pixels: Sampled | None = None
    predictions_NK: Tensor | None = None
    source_predictions_NK: Tensor | None = None
    shares_K: Tensor | None = None
    correction: float = 0.0
    adapting: bool = False
    measured: int = 0
    unmeasured: int = 0
    looked: int = 0
    flipped: int = 0
    rested: int = 0
    unjudged: int = 0
    suspected: bool = False
    begun_entropy: float | None = None
    good: State | None = None


def new_look(state: State) -> State:
    """Before the unadapted model runs beside again."""
    state = replace(state, looked=0, flipped=0, rested=0, of_source={}, source_predictions_NK=None)
    if state.adapting:
        return replace(state, of_look={}, before_look=state.known)
    return replace(
        state, since=state.batches, predictions_NK=None, pixels=None, known={}, moments={}, weights={}, weight=0.0,
        measured=0,
    )  # fmt: skip


def remember(state: State, logits_BK: Tensor, source_logits_BK: Tensor | None, window: int) -> State:
    """With the newest predictions, and without those older than the window."""
    predictions_NK = _newest(state.predictions_NK, logits_BK, window)
    state = replace(state, predictions_NK=predictions_NK, unjudged=state.unjudged + len(logits_BK))
    if source_logits_BK is None:
        return state
    # Of a whole look, like the maps of the unadapted model beside them.
    whole = len(source_logits_BK) + (0 if state.source_predictions_NK is None else len(state.source_predictions_NK))
    return replace(state, source_predictions_NK=_newest(state.source_predictions_NK, source_logits_BK, whole))


def mean_weight(weights: Mapping[str, Tensor]) -> float:
    """Of the target, over the layers; 0 where there is none."""
    return float(torch.stack([weight.cpu() for weight in weights.values()]).mean()) if weights else 0.0


def _newest(before_NK: Tensor | None, logits_BK: Tensor, window: int) -> Tensor:
    newest_BK = logits_BK.float().softmax(1)
    return (newest_BK if before_NK is None else torch.cat([before_NK, newest_BK]))[-window:]


def pooled(before: Sampled | None, newest: Sampled | None) -> Sampled:
    """What was seen before, if anything, and what was seen now."""
    assert newest is not None
    return newest if before is None else pooled_samples(before, newest)


def change(state: State, looks: bool, least_images: int) -> float | None:
    """How far the newest images are from the stream before them, mean square, standard deviations: by their pixels,
    and after a look by the layers (their mean); None where fewer images than the least were seen."""
    found = []
    for name, one in state.of_look.items() if looks else ():
        before = state.before_look.get(name)
        if isinstance(before, Sampled) and one.images >= least_images:
            noise_C = one.mean_variance_C + before.mean_variance_C
            of_var_C = one.var_variance_C + before.var_variance_C
            both = replace(one, mean_variance_C=noise_C, var_variance_C=of_var_C)
            found.append(square_shift(before.moments, both))
    changes = [fmean(found)] if found else []
    if state.pixels is not None and state.newest_pixels is not None and state.newest_pixels.images >= least_images:
        changes.append(pixel_change(state.pixels, state.newest_pixels))
    return max(changes, default=None)
