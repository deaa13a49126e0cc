"""One sentence for every way in which a stream can end."""

from __future__ import annotations

import pytest

from nasimb.adapt import Entry, Reason, Safety
from nasimb.adapt.safety import Evidence
from nasimb.metrics import Difference
from nasimb.onsite.verdict import decide, shares_by_reason

SAFETY = Safety()
ADAPTED = (Reason.SHIFTED, Reason.STEADY, Reason.UNWATCHED)


def entries(*reasons: Reason, unexplained: float | None = 1.0) -> list[Entry]:
    evidence = Evidence(64, shift=1.2, unexplained=unexplained)
    return [Entry(n, 64, reason in ADAPTED, reason, evidence) for n, reason in enumerate(reasons)]


@pytest.mark.parametrize("reason", [one for one in Reason if one not in ADAPTED])
def test_a_refusal_has_a_sentence(reason: Reason) -> None:
    found = decide(entries(reason, reason), SAFETY, 0.4)
    assert not found.adapt
    assert found.sentence.startswith("Do not adapt: ")
    assert found.sentence.endswith(".")


def test_a_shifted_stream_is_adapted_to() -> None:
    found = decide(entries(Reason.FEW_IMAGES, Reason.SHIFTED, Reason.STEADY, Reason.SHIFTED), SAFETY, 0.84)
    assert found.adapt
    assert "0.84 standard deviations, which neither noise nor the class mix explains; 75% of" in found.sentence
    blind = decide(entries(Reason.SHIFTED, unexplained=None), SAFETY, 0.84)
    assert "many classes in no order" in blind.sentence
    assert "class mix explains" not in blind.sentence


def test_what_was_last_found_counts() -> None:
    given_up = decide(entries(Reason.SHIFTED, Reason.SHIFTED, Reason.DEPENDENT, Reason.RESTING), SAFETY, 1.0)
    assert not given_up.adapt
    assert "resemble each other" in given_up.sentence
    assert "was given up" in given_up.sentence
    assert decide(entries(Reason.DEPENDENT, Reason.RESTING, Reason.SHIFTED, Reason.STEADY), SAFETY, 1.0).adapt


def test_labels_overrule_only_beyond_noise() -> None:
    stream = entries(Reason.SHIFTED)
    worse = decide(stream, SAFETY, 1.0, {"balanced_accuracy": Difference(-0.04, -0.058, -0.022)})
    assert not worse.adapt
    assert "-4.0 points [-5.8, -2.2]" in worse.sentence
    unclear = decide(stream, SAFETY, 1.0, {"balanced_accuracy": Difference(-0.01, -0.03, 0.01)})
    assert unclear.adapt
    assert "-1.0 points [-3.0, +1.0]" in unclear.sentence


def test_shares_by_reason_add_up() -> None:
    found = shares_by_reason(entries(Reason.SHIFTED, Reason.FEW_IMAGES, Reason.SHIFTED))
    assert list(found.items()) == [("shifted", (2, 128)), ("too few images yet", (1, 64))]


@pytest.mark.parametrize(
    ("batches", "told"), [(1, "takes 32 images to judge a site, and there are 20"), (5, "give 256")]
)
def test_too_few_images_ask_for_as_many_as_it_takes(batches: int, told: str) -> None:
    """Below 32 nothing is judged; doubtful ones wait for a whole window of 256."""
    few = [Entry(n, 20, False, Reason.FEW_IMAGES, Evidence(20)) for n in range(batches)]
    assert told in decide(few, SAFETY, 0.4).sentence
