"""Units of work measured on a clock that only passes of images and fits move: the oracle is their number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import nasimb.phases.headprobe
import nasimb.phases.heads
import nasimb.phases.measure as measure
from nasimb.nn.moments import Statistics
from nasimb.phases.measure import Rig, head_costs, passed_again, search_costs
from nasimb.search.candidate import Scoring
from nasimb.search.screening import Screen
from nasimb.supernet.fold import FoldedBlock, FoldedStem
from nasimb.supernet.resnet import ResNetSupernet

Workshop = Callable[..., Any]
IMAGE, SETTLED, FIT, JUDGED, JUDGED_PART = 1e-3, 3e-3, 0.5, 0.7, 0.07


@pytest.fixture
def shop(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Every step of a network costs a millisecond an image, and three for images that calibrate."""
    shop = workshop(limit=1000.0)
    clock = shop.clock
    for kind in (FoldedStem, FoldedBlock):
        forward = kind.forward

        def slower(module: Any, maps_BCHW: torch.Tensor, forward: Any = forward) -> Any:
            clock.now += IMAGE * len(maps_BCHW)
            return forward(module, maps_BCHW)

        monkeypatch.setattr(kind, "forward", slower)
    settle = ResNetSupernet.settle

    def slow_settle(supernet: ResNetSupernet, step: Any, parts: list[torch.Tensor], new: Any) -> tuple[Statistics, Any]:
        clock.now += SETTLED * sum(len(part) for part in parts)
        return settle(supernet, step, parts, new)

    monkeypatch.setattr(ResNetSupernet, "settle", slow_settle)

    def taking(module: Any, name: str, seconds: float) -> None:
        original = getattr(module, name)

        def slower(*args: Any, **options: Any) -> Any:
            clock.now += seconds
            return original(*args, **options)

        monkeypatch.setattr(module, name, slower)

    taking(measure, "judge", JUDGED)
    taking(measure, "judge_part", JUDGED_PART)
    taking(nasimb.phases.headprobe, "fit_head", FIT)
    taking(nasimb.phases.heads, "by_folds", 3 * FIT)
    return shop


def rig(shop: Any, scoring: Scoring | None = None, image_seconds: float = IMAGE) -> Rig:
    return Rig(scoring or shop.scoring, image_seconds, shop.clock)


def steps(scoring: Scoring, subnet: Any) -> int:
    return len(scoring.supernet.steps(subnet))


@pytest.mark.parametrize("image_seconds", [IMAGE, 1e6])
def test_a_candidate_alone_costs_its_steps_however_few_images_were_looked_at(shop: Any, image_seconds: float) -> None:
    scoring, space = shop.scoring, shop.ground.space
    found = search_costs(rig(shop, image_seconds=image_seconds), shop.question)
    calibration = len(scoring.calibrations["source"])
    for name, subnet in (("smallest", space.smallest()), ("largest", space.largest())):
        one, number = found.typical[name], steps(scoring, subnet)
        assert one.image_seconds == pytest.approx(IMAGE * number)
        assert one.calibrate_seconds == pytest.approx(SETTLED * number * calibration)
        assert (one.judge_seconds, one.judge_part_seconds) == (pytest.approx(JUDGED), 0.0)
        assert one.macs == scoring.cost_of(subnet)[0]
    assert found.images.whole == len(scoring.fitted)
    assert found.images.part == 0


def test_in_company_first_steps_are_shared(shop: Any) -> None:
    found = search_costs(rig(shop), shop.question)
    fewest, most = (
        steps(shop.scoring, subnet) for subnet in (shop.ground.space.smallest(), shop.ground.space.largest())
    )
    for one in found.companies.values():
        assert one.image_seconds < IMAGE * most
        assert one.image_seconds > IMAGE * (fewest - 1) / 16
        alone = found.typical["smallest"]
        assert one.calibrate_seconds < alone.calibrate_seconds * most / fewest
    assert found.most == shop.ground.space.size()


def test_with_screening_both_parts_are_measured(shop: Any) -> None:
    part_M = torch.arange(0, len(shop.scoring.fitted), 2)
    scoring = replace(shop.scoring, screen=Screen(part_M, None, eta=4))
    found = search_costs(rig(shop, scoring), shop.question)
    assert (found.images.whole, found.images.part, found.images.eta) == (len(scoring.fitted), len(part_M), 4)
    one = found.companies["any"]
    assert (one.judge_seconds, one.judge_part_seconds) == pytest.approx((JUDGED, JUDGED_PART))
    assert one.seconds(100) - one.screening_seconds(100) == pytest.approx(JUDGED - JUDGED_PART)


def test_a_hold_out_is_seen_by_every_candidate(workshop: Workshop) -> None:
    shop = workshop(source="target", folder="other")
    found = search_costs(rig(shop), shop.question)
    assert found.images.whole == len(shop.scoring.fitted) + len(shop.scoring.validation)


@pytest.mark.parametrize("image_seconds", [IMAGE, 1e6])
def test_heads_are_measured_by_the_runs_own_work_and_scaled(
    shop: Any, monkeypatch: pytest.MonkeyPatch, image_seconds: float
) -> None:
    monkeypatch.setattr(measure, "LEAST_IMAGES", 20)
    scoring, task = shop.scoring, shop.ground.task
    found = head_costs(
        rig(shop, image_seconds=image_seconds), shop.work.comparison, shop.session, num_test=100, flip=False
    )  # fmt: skip
    number = steps(scoring, shop.ground.space.largest())
    assert found.image_seconds == pytest.approx(IMAGE * number)
    assert (found.fitted, found.target, found.test) == (len(scoring.fitted), len(task.target), 100)
    assert found.heads == shop.work.costs.heads
    part = next(iter(found.fit_seconds.values())) / FIT
    assert part == 1 if image_seconds == IMAGE else part > 1
    assert found.compared_seconds["'balanced_softmax'"] == pytest.approx(part * 3 * FIT)
    calibration = len(scoring.calibrations["source"])
    assert found.calibrate_seconds == pytest.approx(SETTLED * number * calibration)
    assert shop.session.ledger.spent() == 0.0, "the run is not charged"


def test_features_that_will_not_be_kept_pass_again(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = shop.work.costs
    assert not passed_again(shop.scoring, costs)
    monkeypatch.setattr(measure, "KEPT_MIB", 0)
    assert passed_again(shop.scoring, costs)
