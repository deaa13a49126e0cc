"""What a stream of images does to each layer: how far its means are shifted, and how likely that is mere noise.

Shapes: C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nasimb.adapt.adapter import BatchNormAdapter
from nasimb.adapt.profile import ClassProfile, LayerProfile
from nasimb.adapt.tails import (
    Cumulants,
    Floats,
    cornish_fisher_quantile,
    lugannani_rice_tail,
    noise_rho,
    two_sided_p_value,
)
from nasimb.errors import InputError
from nasimb.nn.mixing import EPSILON, Sampled, effective_n, mixing_weight
from nasimb.nn.moments import Moments

SMALL_SAMPLE = 30
"""Below so many images the tail is a saddlepoint's."""

MOST_RHO3 = 0.5
"""Above this skewness of the statistic itself the tail is a saddlepoint's too: Edgeworth's is no distribution there."""

LEVEL = 0.95

DEAD = 1e-10
"""Variance below which a channel says nothing: that of the means of single images, as a share of the largest one."""

COLUMNS = ("layer", "channels", "shift", "weight", "effective_n", "images", "skewness", "p_value", "tail", "limit",
           "explained")  # fmt: skip


def diagnose(
    adapter: BatchNormAdapter,
    seen: Mapping[str, Sampled] | None = None,
    *,
    shares_K: Tensor | None = None,
    source_images: float | None = None,
) -> pd.DataFrame:
    """`layer_table` of a stream that an adapter has seen, judged by its profile, with the weights it uses now.

    Args:
        seen: what the unadapted layers saw of the stream, for instance of all of it. None: what the adapter remembers
            itself; with a profile and limits that is its newest look, else what its strategy has pooled behind adapted
            layers.
        shares_K: of the classes in `seen`; None: not known, or, of what the adapter remembers, as the unadapted model
            predicts them.
        source_images: see `layer_table`.

    Raises:
        InputError: it remembers neither: nothing came yet, or a strategy of single batches runs without a profile.
    """
    state = adapter.state
    if seen is None:
        pooled = {name: known for name, known in state.known.items() if isinstance(known, Sampled)}
        seen = state.of_source or pooled
        if shares_K is None and state.source_predictions_NK is not None:
            shares_K = state.source_predictions_NK.mean(0)
    if not seen:
        do = "Give it images, a profile, or the strategy mixed."
        raise InputError("an adapter must remember what its layers saw", got="nothing remembered", do=do)
    return layer_table(
        {name: adapter.source_moments(name) for name in seen}, seen, weights=state.weights, profile=adapter.profile,
        shares_K=shares_K, source_images=source_images,
    )  # fmt: skip


def layer_table(
    source: Mapping[str, Moments],
    seen: Mapping[str, Sampled],
    *,
    weights: Mapping[str, Tensor] | None = None,
    profile: ClassProfile | None = None,
    shares_K: Tensor | None = None,
    source_images: float | None = None,
) -> pd.DataFrame:
    """A row a layer, in the order of `seen`.

    Shifts are counted from the training images of the profile, without one from the moments that the norm holds, in
    standard deviations of a channel there or in what was seen, the larger: one that was dead in training must not
    decide for all that live. Columns:

    - `layer`, `channels`, `images` (behind the means seen), `effective_n` (independent values that would give the
      mean as exactly, median over channels);
    - `shift`: of the means, root mean square over channels;
    - `weight`: of the target in the statistics a strategy would use;
    - `skewness`: of the means of single training images, median over channels; NaN without a profile;
    - `p_value`: probability, if the images are like those of training and in the same class mix, of a channel whose
      mean is at least as far off, times the channels (Bonferroni), 1 at most;
    - `tail`: where that comes from. `Edgeworth`; `saddlepoint` (Lugannani and Rice) for fewer than 30 images or in
      channels whose mean is still skewed beyond 0.5; `normal` where no profile tells skewness and kurtosis;
    - `limit`: shift of a single channel that noise keeps below in 95 of 100 cases (Cornish and Fisher), median;
    - `explained`: share of the square shift that the class mix explains, from 0 to 1; NaN without a profile.

    Channels whose mean is the same in every image have no noise to compare with, and enter neither `p_value` nor
    `limit`.

    Args:
        source: moments that the norms hold.
        seen: what the layers saw, unadapted.
        weights: by layer, 0-d; a layer without one gets that of `nasimb.nn.mixing.mixing_weight`.
        shares_K: of the classes in what was seen; None: `explained` is not told.
        source_images: behind the profile, whose means are noise too; None: too many to matter.
    """
    rows = []
    for name, sample in seen.items():
        layer = None if profile is None else profile.layers[name]
        usual = source[name] if layer is None or profile is None else layer.moments(profile.shares_K)
        usual_C, now_C = usual.var_C.double(), sample.moments.var_C.double()
        scale_C = (torch.maximum(usual_C, now_C) + EPSILON).sqrt()
        difference_C = sample.moments.mean_C.double() - usual.mean_C.double()
        shift_C = difference_C / scale_C
        # Noise by the profile is that of images like those of training, whose variance is that of training.
        unit_C = scale_C if layer is None else (usual_C + EPSILON).sqrt()
        weight = (weights or {}).get(name)
        noise = _noise(sample, layer, source_images)
        rows.append(
            {
                "layer": name,
                "channels": len(shift_C),
                "shift": float(shift_C.square().mean().sqrt()),
                "weight": float(_mixing(source[name], sample) if weight is None else weight),
                "effective_n": float(effective_n(sample).nanmedian()),
                "images": sample.images,
                "skewness": float("nan") if layer is None else _skewness(layer),
                **_noise_columns(_array(difference_C), _array(unit_C), noise),
                "explained": _explained(shift_C, scale_C, usual, layer, shares_K),
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


class _Noise:
    """How the mean of a channel varies if nothing is wrong: deviation_C, cumulants of the standardised mean, tail."""

    def __init__(self, deviation_C: Floats, rho: Cumulants, images: float, tail: str) -> None:
        self.deviation_C, self.rho, self.images, self.tail = deviation_C, rho, images, tail

    def p_values(self, t_X: Floats, kept_C: np.ndarray) -> Floats:
        """Two-sided, of standardised means of the channels kept."""
        rho3_X, rho4_X = self.rho.rho3[kept_C], self.rho.rho4[kept_C]
        if self.tail == "normal":
            return two_sided_p_value(t_X, 0.0)
        # The gamma variable with the statistic's own skewness, source included.
        root = self.images**0.5
        upper_X = lugannani_rice_tail(t_X / root, self.images, rho3_X * root)
        saddlepoint_X = np.minimum(1.0, 2 * np.minimum(upper_X, 1 - upper_X))
        if self.tail == "saddlepoint":
            return np.asarray(saddlepoint_X)
        return np.asarray(np.where(np.abs(rho3_X) > MOST_RHO3, saddlepoint_X, two_sided_p_value(t_X, rho3_X, rho4_X)))


def _noise(sample: Sampled, layer: LayerProfile | None, source_images: float | None) -> _Noise:
    """Under the null the target has the cumulants of the source; without a profile its own variance is all there is."""
    if layer is None:
        nothing_C = np.zeros(len(sample.mean_variance_C))
        return _Noise(_array(sample.mean_variance_C.sqrt()), Cumulants(nothing_C, nothing_C), sample.images, "normal")
    n_s = float("inf") if source_images is None else float(source_images)
    one_C, third_C, fourth_C = map(_array, (layer.image_var_C.clamp(min=0), layer.third_C, layer.fourth_C))
    images = 1 / (1 / sample.images + 1 / n_s)
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = noise_rho(third_C, fourth_C, sample.images, one_C, third_C, fourth_C, n_s, one_C)
    tail = "saddlepoint" if sample.images < SMALL_SAMPLE else "Edgeworth"
    return _Noise((one_C / images) ** 0.5, rho, images, tail)


def _noise_columns(difference_C: Floats, unit_C: Floats, noise: _Noise) -> dict[str, object]:
    """The limit is told in `unit_C`."""
    variance_C = noise.deviation_C**2
    kept_C = variance_C > DEAD * variance_C.max(initial=0.0)
    if not kept_C.any():
        return {"p_value": float("nan"), "tail": "none", "limit": float("nan")}
    t_X = difference_C[kept_C] / noise.deviation_C[kept_C]
    p_value = min(1.0, len(t_X) * float(noise.p_values(t_X, kept_C).min()))
    beyond = (1 - LEVEL) / 2
    rho3_X, rho4_X = noise.rho.rho3[kept_C], noise.rho.rho4[kept_C]
    ends_X = [np.abs(cornish_fisher_quantile(alpha, rho3_X, rho4_X, order=2)) for alpha in (beyond, 1 - beyond)]
    limit_X = np.maximum(*ends_X) * noise.deviation_C[kept_C] / unit_C[kept_C]
    return {"p_value": p_value, "tail": noise.tail, "limit": float(np.median(limit_X))}


def _mixing(source: Moments, sample: Sampled) -> Tensor:
    return torch.zeros(()) if sample.images < 2 else mixing_weight(source, sample, None)


def _skewness(layer: LayerProfile) -> float:
    var_C = layer.image_var_C.double()
    kept_C = var_C > DEAD * var_C.max()
    return float((layer.third_C[kept_C].double() / var_C[kept_C] ** 1.5).median()) if kept_C.any() else float("nan")


def _explained(
    shift_C: Tensor, scale_C: Tensor, usual: Moments, layer: LayerProfile | None, shares_K: Tensor | None
) -> float:
    """1 - square shift from the means of this class mix / square shift from those of the usual one, 0 at least."""
    if layer is None or shares_K is None:
        return float("nan")
    by_mix_C = (layer.moments(shares_K).mean_C.double() - usual.mean_C.double()) / scale_C
    square = float(shift_C.square().sum())
    return max(0.0, 1 - float((shift_C - by_mix_C).square().sum()) / square) if square else float("nan")


def _array(values: Tensor) -> Floats:
    return np.asarray(values.double().cpu())
