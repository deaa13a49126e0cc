"""Heads of any kind on the same footing: predictions for images that a head was not fitted to.

A head is named by a string ("gda", "balanced_softmax") or by options, those of a loss ({name: focal, gamma: 2}) or of a
closed form ({name: gda, class_weighting: inverse_frequency}). A loss that does not balance the classes comes with its
free corrections: {..., posthoc: logit_adjustment, tau: 1.0}; a closed form with the taus it is given. Of those the one
that was chosen stays: {name: gda, taus: [0.5]}.

Shapes: N fitted images, M held-out images, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nasimb.heads import ClosedFormSpec, Head, LeaveOneOut, is_closed_form, parse_head
from nasimb.heads.checkpoint import Checkpoint
from nasimb.heads.folds import out_of_fold, predict_held_out, stratified_folds
from nasimb.heads.logistic import LogisticSpec, Progress
from nasimb.heads.posthoc import logit_adjusted, tau_normalised
from nasimb.losses import parse_loss
from nasimb.metrics import measure

Named = str | dict[str, Any]

LOGIT_TAUS = (0.5, 1.0, 1.5)
NORM_TAUS = (0.5, 1.0)
"""Few: with many variants to choose from the luckiest wins, which is not the best."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What one head with one setting predicts for images it was not fitted to.

    Attributes:
        head: as `fit_head` takes it, the post-hoc correction and the one tau included.
        predicted_M: int64 on the CPU; `NO_PREDICTION` where there is none.
        balanced_loss: mean over classes of their images' mean negative log likelihood, the logits taken as such.
    """

    head: Named
    setting: float
    predicted_M: Tensor
    balanced_loss: float


def by_folds(
    head: Named, features_ND: Tensor, labels_N: Tensor, num_classes: int, *, penalties: tuple[float, ...], folds: int,
    seed: int, between: Callable[[], None] = lambda: None,
) -> list[HeldOut]:  # fmt: skip
    """Out-of-fold predictions: a logistic head at every penalty, a closed form at its best leave-one-out setting.

    Args:
        between: called before every fit; what it raises ends the comparison.

    Raises:
        InputError: no such head. WorkError: a feature is not finite.
    """
    spec = _spec(head, penalties, folds)
    if isinstance(spec, LogisticSpec):
        found = spec.cross_validate(features_ND, labels_N, num_classes, seed=seed, between=between)
        counts_K = torch.bincount(labels_N.cpu(), minlength=num_classes)
        results = [HeldOut(head, one.setting, one.predicted_N, one.balanced_loss) for one in found]
        for one in found:
            for options, adjust in _corrections(spec, counts_K):
                adjusted = one.adjusted(features_ND, labels_N, adjust)
                corrected = {**_options(head), **options}
                results.append(HeldOut(corrected, one.setting, adjusted.predicted_N, adjusted.balanced_loss))
        return results
    between()
    best = _best(spec, features_ND, labels_N, num_classes)
    spec = spec.chosen(best.tau)
    fold_N = torch.from_numpy(stratified_folds(labels_N.cpu().numpy(), folds, seed))
    kept = [(fold_N != fold).nonzero().squeeze(1).to(features_ND.device) for fold in range(folds)]
    heads = []
    for rows in kept:
        between()
        heads.append(spec.fit(features_ND[rows], labels_N[rows], num_classes, best.setting))
    left_out = out_of_fold(features_ND, labels_N, fold_N, heads)
    return [HeldOut(_chosen(head, best.tau), best.setting, left_out.predicted_N, left_out.balanced_loss)]


def by_holdout(
    head: Named, features_ND: Tensor, labels_N: Tensor, held_out_MD: Tensor, held_out_labels_M: Tensor,
    num_classes: int, *, penalties: tuple[float, ...], between: Callable[[], None] = lambda: None,
) -> list[HeldOut]:  # fmt: skip
    """Predictions for the hold-out by the head fitted to all of `features_ND`, at every setting.

    Args, raises: as `by_folds`.
    """
    spec = _spec(head, penalties, 2)
    counts_K = torch.bincount(labels_N.cpu(), minlength=num_classes)
    results = []
    for fitted in _fits(spec, features_ND, labels_N, num_classes, between):
        corrections = _corrections(spec, counts_K) if isinstance(spec, LogisticSpec) else ()
        variants = [
            (_chosen(head, fitted.tau), fitted),
            *(({**_options(head), **options}, adjust(fitted)) for options, adjust in corrections),
        ]
        for name, variant in variants:
            predicted_M, loss = predict_held_out(variant, held_out_MD, held_out_labels_M)
            results.append(HeldOut(name, fitted.setting, predicted_M, loss))
    return results


def _fits(
    spec: ClosedFormSpec | LogisticSpec, features_ND: Tensor, labels_N: Tensor, num_classes: int,
    between: Callable[[], None],
) -> Iterator[Head]:  # fmt: skip
    """The head at every setting."""
    if isinstance(spec, LogisticSpec):
        yield from spec.walk(features_ND, labels_N, num_classes, between)
        return
    between()
    for _, fitted in spec.fit_grid(features_ND, labels_N, num_classes):
        yield fitted


def unseen(share: float, objective: float) -> None:
    """The progress of a fit that nobody watches."""


def fit_head(
    head: Named, features_ND: Tensor, labels_N: Tensor, num_classes: int, setting: float, penalties: tuple[float, ...],
    *, checkpoint: Checkpoint | None = None, progress: Progress = unseen,
) -> Head:  # fmt: skip
    """The head fitted to all images, its post-hoc correction applied. Raises as `by_folds`.

    Args:
        head: of several taus of a closed form the first is taken.
        penalties: that `setting` was chosen from; the fit goes the same way through the larger ones.
        checkpoint, progress: of a logistic head, see `LogisticSpec.fit`; a closed form takes no time for either.
    """
    spec = _spec(head, penalties, 2)
    if isinstance(spec, LogisticSpec):
        fitted = spec.fit(features_ND, labels_N, num_classes, setting, checkpoint=checkpoint, progress=progress)
    else:
        fitted = spec.fit(features_ND, labels_N, num_classes, setting)
    options = _options(head)
    counts_K = torch.bincount(labels_N.cpu(), minlength=num_classes)
    if options.get("posthoc") == "logit_adjustment":
        return logit_adjusted(fitted, counts_K, options["tau"])
    if options.get("posthoc") == "tau_normalisation":
        return tau_normalised(fitted, options["tau"])
    return fitted


def label(head: Named) -> str:
    """What a reader calls a head: "gda", "cross_entropy + logit_adjustment(1)"."""
    if isinstance(head, str):
        return head
    correction = f" + {head['posthoc']}({head['tau']:g})" if "posthoc" in head else ""
    if is_closed_form(head) and any(head.get("taus", ())):
        correction = f" + logit_adjustment({', '.join(f'{tau:g}' for tau in head['taus'])})"
    return f"{head['name']}{correction}"


def named(spec: ClosedFormSpec) -> Named:
    """The closed form as a configuration names it: what it takes to refit it at one of its settings."""
    options = spec.model_dump(mode="json", exclude_defaults=True, exclude={"name", "grid"})
    return {"name": spec.name, **options} if options else spec.name


def _spec(head: Named, penalties: tuple[float, ...], folds: int) -> ClosedFormSpec | LogisticSpec:
    if is_closed_form(head):
        return parse_head(head)
    loss = {
        key: value for key, value in _options(head).items() if key not in ("posthoc", "tau") or "posthoc" not in head
    }
    return LogisticSpec(loss=parse_loss(loss), penalties=penalties, folds=folds)


def _options(head: Named) -> dict[str, Any]:
    return {"name": head} if isinstance(head, str) else head


def _corrections(spec: LogisticSpec, counts_K: Tensor) -> Iterator[tuple[dict[str, Any], Callable[[Head], Head]]]:
    """Post-hoc corrections of a head whose loss leaves the imbalance in; they cost no fit."""
    if spec.loss.balances or spec.loss.cosine:
        return
    for tau in LOGIT_TAUS:
        options = {"posthoc": "logit_adjustment", "tau": tau}
        yield options, partial(logit_adjusted, class_counts_K=counts_K, tau=tau)
    for tau in NORM_TAUS:
        yield {"posthoc": "tau_normalisation", "tau": tau}, partial(tau_normalised, tau=tau)


def _chosen(head: Named, tau: float) -> Named:
    """With this tau alone, where a closed form was given some."""
    if isinstance(head, str) or not is_closed_form(head) or "taus" not in head:
        return head
    return {**head, "taus": [tau]}


def _best(spec: ClosedFormSpec, features_ND: Tensor, labels_N: Tensor, num_classes: int) -> LeaveOneOut:
    """By leave-one-out balanced accuracy, ties by its loss."""
    labels = labels_N.cpu()
    counts_K = torch.bincount(labels, minlength=num_classes)
    results = spec.score(features_ND, labels_N, num_classes)
    return max(results, key=lambda r: (measure(r.predicted_N, labels, counts_K).balanced_accuracy, -r.balanced_loss))
