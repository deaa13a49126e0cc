"""The verdict on a window, limit by limit."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from nasimb.adapt.profile import Reference
from nasimb.adapt.safety import Evidence, Reason, Safety, judge
from nasimb.errors import InputError

CLASSES = 10
REFERENCE = Reference(mixed_information=2.0, single_information=0.5, unexplained=0.05)
FINE = Evidence(
    images=256, information=1.9, dependence=0.5, shift=0.8, unexplained=0.6, entropy=2.2, begun_entropy=2.3, change=0.0,
    divergence=0.0, flips=0.3,
)  # fmt: skip


def verdict(
    safety: Safety = Safety(),  # noqa: B008
    reference: Reference | None = REFERENCE,
    *,
    adapting: bool = True,
    suspected: bool = False,
    **changes: float | None,
) -> Reason:
    found = replace(FINE, **changes)  # type: ignore[arg-type]
    return judge(found, safety, CLASSES, reference, adapting=adapting, suspected=suspected)


def test_a_window_within_all_limits_is_adapted_to() -> None:
    assert verdict() is verdict(adapting=False) is verdict(adapting=False, suspected=True) is Reason.SHIFTED


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"images": 31}, Reason.FEW_IMAGES),
        ({"shift": 3.1}, Reason.DRIFT),
        ({"shift": math.nan}, Reason.DRIFT),
        ({"change": 0.16}, Reason.CHANGED),
        ({"unexplained": 0.05}, Reason.EXPLAINED),
        ({"dependence": 5.6}, Reason.DEPENDENT),
        ({"information": 0.7}, Reason.FEW_CLASSES),
        ({"information": math.nan}, Reason.FEW_CLASSES),
        ({"entropy": 1.1}, Reason.COLLAPSE),
    ],
)
def test_each_limit_has_its_reason(changes: dict[str, float], reason: Reason) -> None:
    assert verdict(**changes) is reason
    # What was not looked at gives no reason.
    unknown = {name: None for name in changes if name != "images"}
    assert unknown == {} or verdict(**unknown) is Reason.SHIFTED


def test_limits_are_met_from_the_right_side() -> None:
    assert verdict(images=32) is Reason.SHIFTED
    assert verdict(shift=2.9) is Reason.SHIFTED
    assert verdict(change=0.14) is Reason.SHIFTED  # three times what training images show
    assert verdict(unexplained=0.08) is Reason.SHIFTED
    assert verdict(dependence=5.4) is Reason.SHIFTED
    assert verdict(information=0.8) is Reason.SHIFTED
    assert verdict(entropy=1.2) is Reason.SHIFTED


def test_in_doubt_a_full_window_in_no_order_is_asked_for_to_begin_with() -> None:
    unsure = {"information": 0.9}
    assert verdict(images=100, **unsure) is Reason.SHIFTED
    assert verdict(images=100, adapting=False, **unsure) is Reason.FEW_IMAGES
    assert verdict(images=256, adapting=False, **unsure) is Reason.SHIFTED
    assert verdict(images=256, adapting=False, dependence=3.1, **unsure) is Reason.DEPENDENT
    assert verdict(images=100, adapting=False, suspected=True) is Reason.FEW_IMAGES
    assert verdict(images=100, adapting=False) is Reason.SHIFTED


def test_without_a_profile_nothing_is_explained_and_information_is_a_share_of_that_of_the_classes() -> None:
    assert verdict(reference=None, unexplained=0.0) is Reason.SHIFTED
    least = 0.5 * math.log(CLASSES) * 1.15
    assert verdict(reference=None, information=least - 0.01) is Reason.FEW_CLASSES
    assert verdict(reference=None, information=least + 0.01) is Reason.SHIFTED


def test_a_profile_without_windows_of_one_class_takes_half_of_the_others() -> None:
    rare = replace(REFERENCE, single_information=None)
    assert Safety().information(0.0, CLASSES, rare) == 1.0
    assert Safety().information(1.0, CLASSES, rare) == 2.0
    assert Safety().information(0.5, CLASSES, REFERENCE) == 1.25


def test_the_class_mix_is_corrected_for_from_a_divergence_on() -> None:
    safety = Safety(divergence=0.1)
    found = [safety.correction(value) for value in (0.0, 0.1, 0.15, 0.2, 3.0)]
    assert found == pytest.approx([0, 0, 0.5, 1, 1])
    assert Safety(divergence=0).correction(0.0) == 1


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"window": 16}, "least_images must be from 2 to window; got 32, window 16"),
        ({"least_images": 1}, "least_images must be from 2 to window; got 1, window 256"),
        ({"look": 0}, "look must be 1 at least; got 0"),
        ({"rest": 0}, "rest must be 1 at least; got 0"),
        ({"reach": 0}, "reach must be 1 at least; got 0"),
    ],
)
def test_limits_under_which_nothing_could_happen_are_refused(limits: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Safety(**limits)  # type: ignore[arg-type]
