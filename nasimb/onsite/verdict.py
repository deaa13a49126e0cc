"""Whether a model should be adapted to a site: one sentence, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nasimb.adapt import Entry
from nasimb.adapt.safety import Reason, Safety
from nasimb.metrics import Difference

UNDECIDED = (Reason.RESTING, Reason.FEW_IMAGES, Reason.STEADY)
"""Nothing was found out at these batches."""


@dataclass(frozen=True)
class Verdict:
    """Attributes: adapt, and the sentence that says so and why."""

    adapt: bool
    sentence: str


def decide(
    entries: Sequence[Entry], safety: Safety, shift: float, gains: Mapping[str, Difference] | None = None
) -> Verdict:
    """What the log of an adapter says, and where labels are known, what they say of it.

    Adapt if the stream was being adapted to when it was last looked at, unless balanced accuracy falls by more than
    sampling noise.

    Args:
        entries: one a batch, none left out, from an adapter with the limits `safety`.
        shift: largest of a layer, standard deviations.
        gains: of the adapted over the unadapted model, by metric.
    """
    looked = [entry for entry in entries if entry.reason not in UNDECIDED]
    if not looked or not looked[-1].adapted:
        return Verdict(False, f"Do not adapt: {_refusal(entries, looked, safety)}.")
    gain = (gains or {}).get("balanced_accuracy")
    if gain is not None and gain.high < 0:
        return Verdict(False, f"Do not adapt: on the labelled images balanced accuracy changes by {_points(gain)}.")
    share = sum(entry.images for entry in entries if entry.adapted) / sum(entry.images for entry in entries)
    judged = any(entry.evidence.unexplained is not None for entry in looked)
    more = (
        "which neither noise nor the class mix explains" if judged else "and the stream shows many classes in no order"
    )
    found = f"a layer is shifted by {shift:.2f} standard deviations, {more}"
    begun = "" if share == 1 else f"; {share:.0%} of the images were adapted to"
    checked = "" if gain is None else f"; on the labelled images balanced accuracy changes by {_points(gain)}"
    return Verdict(True, f"Adapt: {found}{begun}{checked}.")


def _refusal(entries: Sequence[Entry], looked: Sequence[Entry], safety: Safety) -> str:
    if not looked:
        images = sum(entry.images for entry in entries)
        if images < safety.least_images:
            return f"it takes {safety.least_images} images to judge a site, and there are {images}"
        return (
            f"by what is predicted, the {images} images may be of a few classes only; give {safety.window}, by which "
            "that can be told"
        )
    reason, last = looked[-1].reason, looked[-1].evidence
    given_up = ", and what was begun before was given up" if any(entry.adapted for entry in looked) else ""
    return {
        Reason.NEVER: "the strategy source never does",
        Reason.EXPLAINED: "the class mix and noise explain what is different about the images",
        Reason.DEPENDENT: "neighbours in the stream resemble each other, so that its statistics are those of a few "
        "classes; if their order means nothing, give --order shuffled",
        Reason.FEW_CLASSES: "by what is predicted, the images are of one class or a few, and a site has other "
        "statistics than they",
        Reason.DRIFT: f"the images are further from training ({last.shift or 0:.2f} standard deviations) than "
        f"adaptation can bring back ({safety.most_shift:.2f}); look at them, and train on such images",
        Reason.COLLAPSE: "adapted predictions collapse onto a few classes",
        Reason.CHANGED: "the images changed not long before the end; look at those after the change by themselves",
    }[reason] + given_up


def _points(gain: Difference) -> str:
    return f"{100 * gain.difference:+z.1f} points [{100 * gain.low:+z.1f}, {100 * gain.high:+z.1f}]"


def shares_by_reason(entries: Sequence[Entry]) -> dict[str, tuple[int, int]]:
    """{reason: (batches, images)}, most images first."""
    batches: Counter[str] = Counter()
    images: Counter[str] = Counter()
    for entry in entries:
        batches[entry.reason.value] += 1
        images[entry.reason.value] += entry.images
    return {reason: (batches[reason], count) for reason, count in images.most_common()}
