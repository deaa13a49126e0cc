"""When adapting would hurt: what is known of a stream, the limits it must keep, and the verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from nasimb.adapt.profile import WINDOW, Reference
from nasimb.errors import InputError


class Reason(StrEnum):
    """Why a batch was adapted to or not.

    Example:
        >>> Reason.EXPLAINED.value
        'the class mix explains the shift'
        >>> Reason("as before").name
        'STEADY'
    """

    SHIFTED = "shifted"
    NEVER = "the strategy never adapts"
    UNWATCHED = "nothing is watched"
    FEW_IMAGES = "too few images yet"
    EXPLAINED = "the class mix explains the shift"
    DEPENDENT = "neighbours in the stream resemble each other"
    FEW_CLASSES = "images of one class or a few"
    DRIFT = "further from the source than adaptation can bring back"
    COLLAPSE = "predictions collapse"
    CHANGED = "the images have changed, adaptation begins anew"
    STEADY = "as before"
    RESTING = "refused before, looked at again later"


@dataclass(frozen=True)
class Safety:
    """Limits within which a stream is adapted to.

    Attributes:
        least_images: before so many images were seen together, the source's statistics stay.
        window: newest images whose predictions are watched.
        rest: images after a refused window before the next one; the source's statistics serve them.
        look: images of a healthy adaptation before the unadapted model is run beside it again.
        reach: images up to which two count as neighbours.
        most_dependence: of neighbours' predictions, in standard deviations (`evidence.serial_dependence`).
        least_information: of the predictions (`evidence.information`), as a share of the way from windows of one
            class to windows of many, on training images. Without a profile one class is taken to give half of ln K,
            and many classes ln K.
        sure_information: likewise, from which adaptation begins at once. Below, badly corrupted images of many
            classes and good ones of a single class look alike, until neighbours differ: it begins with a full window.
        doubtful_dependence: beyond which it does not begin then, nor where neighbours resembled each other before.
        explained: times the largest shift that windows of training images have beyond their class mix; a smaller
            one is no reason to adapt. Without a profile this is not tested.
        least_shift: mean square, in standard deviations; one smaller than this beyond the class mix is no reason
            either: networks know the very images they were trained on too well.
        most_shift: of the means of a layer, root mean square in standard deviations.
        least_entropy: of the mean prediction, as a share of what it was when adaptation began; below, it collapses.
        most_change: mean square shift, in standard deviations, of the newest images from the stream so far, beyond
            which adaptation begins anew (or, if that is more, three times what training images show).
        shares_images: images of a window, or a whole smaller one, from which the shares of the classes are estimated
            and corrected for.
        divergence: nats by which the mean prediction must differ from the expected one before classes count as being
            in other shares; corrected in full from twice that.

    Raises:
        InputError: numbers with which nothing could ever be adapted to, or looked at.

    Example:
        >>> cautious = Safety(least_images=128, window=512)
        >>> [cautious.correction(nats) for nats in (0.0, 0.06, 0.1)]  # of other shares of the classes
        [0.0, 0.5, 1.0]
        >>> Safety(least_images=512, window=128)
        Traceback (most recent call last):
        nasimb.errors.InputError: least_images must be from 2 to window; got 512, window 128. ...
    """

    least_images: int = 32
    window: int = 256
    rest: int = 1024
    look: int = 4096
    reach: int = 8
    most_dependence: float = 5.5
    least_information: float = 0.15
    sure_information: float = 0.37
    doubtful_dependence: float = 3.0
    explained: float = 1.5
    least_shift: float = 0.01
    most_shift: float = 3.0
    least_entropy: float = 0.5
    most_change: float = 0.1
    shares_images: int = 128
    divergence: float = 0.04

    def __post_init__(self) -> None:
        for name in ("least_images", "window", "rest", "look", "reach"):
            if not getattr(self, name) >= 1:
                raise InputError(f"{name} must be 1 at least", got=getattr(self, name), do="Give a number of images.")
        if not 2 <= self.least_images <= self.window:
            raise InputError(
                "least_images must be from 2 to window", got=f"{self.least_images}, window {self.window}",
                do="Otherwise no stream would ever be adapted to: widen the window.",
            )  # fmt: skip

    def information(self, share: float, classes: int, reference: Reference | None) -> float:
        """Nats at this share of the way from one class to many."""
        single, many = 0.5 * math.log(classes), math.log(classes)
        if reference is not None:
            many = reference.mixed_information
            # A profile of classes that are all rare has no window of one.
            single = 0.5 * many if reference.single_information is None else reference.single_information
        return single + share * (many - single)

    def correction(self, divergence: float) -> float:
        """Share of the class mix that is corrected for, from 0 to 1."""
        return min(1.0, max(0.0, divergence / self.divergence - 1)) if self.divergence else 1.0


@dataclass(frozen=True)
class Evidence:
    """What is known of a window of the stream; None: not looked at.

    Attributes:
        images: in the window.
        information, dependence: see `nasimb.adapt.evidence`.
        shift: largest root mean square shift of the means of a layer, standard deviations.
        unexplained: see `nasimb.adapt.profile.unexplained_shift`.
        entropy: of the mean prediction, nats; begun_entropy: when adaptation began.
        change: mean square shift of the newest images from the stream before them.
        divergence: of the mean prediction from the expected one, nats.
        flips: share of the images of this look that the adapted model gave another class than the unadapted one.
    """

    images: int
    information: float | None = None
    dependence: float | None = None
    shift: float | None = None
    unexplained: float | None = None
    entropy: float | None = None
    begun_entropy: float | None = None
    change: float | None = None
    divergence: float | None = None
    flips: float | None = None


def judge(
    found: Evidence, safety: Safety, classes: int, reference: Reference | None, *, adapting: bool, suspected: bool
) -> Reason:
    """SHIFTED if all limits are kept, else the first that is not.

    Args:
        classes: K.
        adapting: whether the images before these were adapted to; beginning asks for more.
        suspected: whether neighbours resembled each other earlier in the stream.
    """
    if found.images < safety.least_images:
        return Reason.FEW_IMAGES
    reason = _of_shift(found, safety, reference)
    if reason is not None:
        return reason
    if found.dependence is not None and found.dependence > safety.most_dependence:
        return Reason.DEPENDENT
    if found.information is not None:
        if not found.information >= safety.information(safety.least_information, classes, reference):
            return Reason.FEW_CLASSES
        sure = found.information >= safety.information(safety.sure_information, classes, reference)
        if not adapting and (suspected or not sure):
            if found.images < safety.window:
                return Reason.FEW_IMAGES
            if found.dependence is not None and found.dependence > safety.doubtful_dependence:
                return Reason.DEPENDENT
    begun = found.begun_entropy
    if found.entropy is not None and begun is not None and found.entropy < safety.least_entropy * begun:
        return Reason.COLLAPSE
    return Reason.SHIFTED


def _of_shift(found: Evidence, safety: Safety, reference: Reference | None) -> Reason | None:
    """Whether the statistics are too far from the source's, from those before, or no further than classes explain."""
    if found.shift is not None and not found.shift <= safety.most_shift:
        return Reason.DRIFT
    usual = reference.unexplained if reference is not None else 0.0
    if found.change is not None and found.change > max(safety.most_change, 3 * usual):
        return Reason.CHANGED
    # Small windows vary more than those of the reference.
    limit = max(safety.least_shift, safety.explained * usual * max(1.0, WINDOW / found.images))
    explained = reference is not None and found.unexplained is not None and found.unexplained <= limit
    return Reason.EXPLAINED if explained else None
