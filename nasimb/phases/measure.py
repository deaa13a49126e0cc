"""For a plan: what one candidate, and one comparison of heads, takes on these images and this machine.

Measured in seconds on the real images, on a part of them where they are many: passes through a network take as long as
there are images, so that what was measured on a part is scaled. Nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nasimb.budget import Budget, Clock
from nasimb.ledger import Ledger
from nasimb.phases.companies import LATE, REHEARSED, companies, share_within, typical_subnets
from nasimb.phases.comparison import Comparison
from nasimb.phases.headcosts import HeadCosts
from nasimb.phases.headprobe import SHORT_SECONDS
from nasimb.phases.heads import KEPT_MIB, PHASE, HeadWork
from nasimb.phases.promotion import MOST_TOGETHER_SECONDS
from nasimb.progress import Silent
from nasimb.search.candidate import Features, Scoring, judge, judge_part, sweep
from nasimb.search.predict import fitting
from nasimb.search.screening import class_capped
from nasimb.search.study import Question
from nasimb.search.trial import Candidate
from nasimb.session import Session
from nasimb.supernet.calibrate import Calibration
from nasimb.supernet.tree import SubnetTree

PASS_SECONDS = 1.0
"""What passes of images through one network, or through one batch of candidates, may take of a plan."""
LEAST_IMAGES = 64
"""Fewer at a time take longer each (CPU)."""
JUDGED = 20_000
"""Images from which a closed form's time is taken as proportional to their number."""
HEADS_BUDGET = Budget("100s", wall_seconds=100.0)
"""Of which a run compares heads on the largest subnet for ten at most: so long may a plan."""


@dataclass(frozen=True, slots=True)
class Images:
    """How many images a candidate sees.

    Attributes:
        whole: fitted and held out.
        part: of them, those that screen; 0 where none do.
        eta: one candidate in so many is promoted from the part to the whole.
    """

    whole: int
    part: int = 0
    eta: int = 1


@dataclass(frozen=True, slots=True)
class CandidateCosts:
    """Seconds that one candidate takes, in its company.

    Attributes:
        macs: on average.
        calibrate_seconds, image_seconds: of its calibration, and of one image.
        judge_seconds, judge_part_seconds: of its closed-form heads on all images, and on the part that screens.
    """

    macs: float
    calibrate_seconds: float
    image_seconds: float
    judge_seconds: float
    judge_part_seconds: float = 0.0

    def seconds(self, images: int) -> float:
        """To score it on so many images, which are all."""
        return self.calibrate_seconds + images * self.image_seconds + self.judge_seconds

    def screening_seconds(self, images: int) -> float:
        """To score it on so many images, which are the part that screens."""
        return self.calibrate_seconds + images * self.image_seconds + self.judge_part_seconds

    def first_seconds(self, images: Images) -> float:
        """To score it for the first time: on the part that screens, where one does."""
        return self.screening_seconds(images.part) if images.part else self.seconds(images.whole)


def mean_costs(several: Sequence[CandidateCosts]) -> CandidateCosts:
    """Of a candidate that may come in any of these companies."""
    names = CandidateCosts.__slots__
    return CandidateCosts(*(sum(getattr(one, name) for one in several) / len(several) for name in names))


@dataclass(frozen=True, slots=True)
class SearchCosts:
    """What the candidates of a search take.

    Attributes:
        typical: the smallest, the median and the largest subnet, each alone.
        companies: late batches, by what wins: small networks, any, or large ones.
        asking_seconds: a trial, to propose it and to write it down.
        most: candidates there are within the limits.
    """

    images: Images
    typical: Mapping[str, CandidateCosts]
    companies: Mapping[str, CandidateCosts]
    asking_seconds: float
    most: int

    def alone(self, macs: float) -> CandidateCosts:
        """What a candidate of so many MACs takes by itself, between those that were measured."""
        measured = sorted(self.typical.values(), key=lambda one: one.macs)
        sizes = [one.macs for one in measured]
        names = [name for name in CandidateCosts.__slots__ if name != "macs"]
        return CandidateCosts(
            macs, *(float(np.interp(macs, sizes, [getattr(one, name) for one in measured])) for name in names)
        )


@dataclass(frozen=True, eq=False)
class Rig:
    """What measuring is done with: a scoring on as few images as take a moment, and how few they are.

    Attributes:
        scoring: of the run, on all images.
        image_seconds: of the largest subnet, as far as known.
        pass_seconds: what one pass may take.
        shown: what is being measured, for whoever watches.
    """

    scoring: Scoring
    image_seconds: float
    clock: Clock
    shown: Callable[[str], None] = lambda what: None
    pass_seconds: float = PASS_SECONDS

    def now(self) -> float:
        """Seconds, as `Scoring.now`."""
        return self.scoring.now(self.clock)

    def taken(self, work: Callable[[], Any]) -> float:
        """Seconds that `work` takes."""
        for _ in range(2):
            start = self.now()
            work()
            seconds = self.now() - start
            if seconds > SHORT_SECONDS:
                break
        return seconds

    def images_for(self, relative_macs: float) -> int:
        """How many images pass within `pass_seconds` through networks of so many MACs, in units of the largest."""
        return max(int(self.pass_seconds / max(self.image_seconds * relative_macs, 1e-9)), LEAST_IMAGES)


def search_costs(rig: Rig, question: Question) -> SearchCosts:
    """Measure candidates alone, and in the company that the run's sampler brings them in."""
    scoring, policy = rig.scoring, question.calibrations[0]
    rig.shown("candidates alone")
    subnets = typical_subnets(question.space, scoring.cost_of)
    _company(rig, [Candidate(subnets["median"], policy)])  # the first pass of all is slower than the others will be
    typical = {name: _company(rig, [Candidate(subnet, policy)]) for name, subnet in subnets.items()}
    rig.shown("the sampler")
    start = rig.clock()
    batches = companies(question, scoring.cost_of)
    asking_seconds = (rig.clock() - start) / (len(batches) * REHEARSED)
    images = _images(scoring)
    seen = [(int(one.macs), one.first_seconds(images)) for one in typical.values()]
    shorter = replace(rig, pass_seconds=rig.pass_seconds / LATE)
    found = {}
    for name, late in batches.items():
        rig.shown(f"candidates together, if {name} networks win")
        found[name] = mean_costs([_company(shorter, _together(scoring, batch, seen)) for batch in late])
    there_are = question.space.size() * len(question.calibrations)
    most = max(1, round(there_are * share_within(question, scoring.cost_of)))
    return SearchCosts(images, typical, found, asking_seconds, most)


def _together(scoring: Scoring, batch: Sequence[Candidate], seen: Sequence[tuple[int, float]]) -> Sequence[Candidate]:
    """The first of a batch, as many as the run will score together: fewer than all where they take long."""
    macs = [scoring.cost_of(member.subnet)[0] for member in batch]
    return batch[: max(fitting(macs, seen, MOST_TOGETHER_SECONDS), 1)]


def _company(rig: Rig, members: Sequence[Candidate]) -> CandidateCosts:
    """What one of them takes when they are scored together."""
    scoring = rig.scoring
    macs = [scoring.cost_of(member.subnet)[0] for member in members]
    largest = scoring.cost_of(scoring.supernet.space.largest())[0]
    number = rig.images_for(sum(macs) / largest)
    fitted = scoring.fitted.subset(_some(scoring.fitted.labels_N, number))
    limited, scale = _limited(scoring, number)
    start = rig.now()
    tree = SubnetTree(
        scoring.supernet, [(member.calibration, member.subnet) for member in members], limited, dtype=scoring.dtype,
        limit_bytes=scoring.memory_mib * 2**20,
    )  # fmt: skip
    middle = rig.now()
    features = sweep(scoring, tree, fitted, range(len(members)))
    end = rig.now()
    features_MD = features[_typical_place(macs)]
    whole_seconds, part_seconds = _judging(rig, features_MD, fitted.labels_N)
    return CandidateCosts(
        macs=sum(macs) / len(macs),
        calibrate_seconds=scale * (middle - start) / len(members),
        image_seconds=(end - middle) / len(members) / len(fitted),
        judge_seconds=whole_seconds,
        judge_part_seconds=part_seconds,
    )


def _limited(scoring: Scoring, number: int) -> tuple[dict[str, Calibration], float]:
    """Calibrations on at most so many images of a side, and how much longer those on all images take."""
    limited = {policy: calibration.limited(number) for policy, calibration in scoring.calibrations.items()}
    return limited, max(map(len, scoring.calibrations.values())) / max(map(len, limited.values()))


def _judging(rig: Rig, features_MD: Tensor, labels_M: Tensor) -> tuple[float, float]:
    """Seconds of the closed-form heads on all images, and on the part that screens (0 where none does)."""
    scoring, screen = rig.scoring, rig.scoring.screen

    def like(labels_N: Tensor) -> Tensor:
        """Features for images of these labels: each is given those of an image of its class, a little moved."""
        generator = torch.Generator().manual_seed(0)
        order_M = labels_M.argsort(stable=True)
        counts_K = torch.bincount(labels_M, minlength=scoring.fitted.num_classes)
        starts_K = counts_K.cumsum(0) - counts_K
        drawn_N = torch.randint(2**31, (len(labels_N),), generator=generator) % counts_K[labels_N].clamp(min=1)
        place_N = (starts_K[labels_N] + drawn_N).clamp(max=len(labels_M) - 1)
        chosen_ND = features_MD[order_M[place_N].to(features_MD.device)]
        noise_ND = torch.randn(chosen_ND.shape, generator=generator).to(chosen_ND)
        return chosen_ND + 0.1 * features_MD.std() * noise_ND

    def held_out(most: int) -> Tensor | None:
        return None if scoring.validation is None else like(scoring.validation.labels_N[:most])

    asked = scoring
    if len(scoring.fitted) > JUDGED:
        some = scoring.fitted.subset(_some(scoring.fitted.labels_N, JUDGED))
        asked = replace(scoring, fitted=some)
    if scoring.validation is not None and len(scoring.validation) > JUDGED:
        asked = replace(asked, validation=scoring.validation.subset(torch.arange(JUDGED)))
    whole = Features(like(asked.fitted.labels_N), held_out(JUDGED))
    whole_seconds = rig.taken(lambda: judge(asked, whole)) * len(scoring.fitted) / len(asked.fitted)
    if screen is None:
        return whole_seconds, 0.0
    held_M = screen.validation_M
    parts = Features(
        like(scoring.fitted.labels_N[screen.fitted_M]),
        None if held_M is None or scoring.validation is None else like(scoring.validation.labels_N[held_M]),
    )
    return whole_seconds, rig.taken(lambda: judge_part(scoring, screen, parts))


def _typical_place(macs: Sequence[int]) -> int:
    """Of the one in the middle by MACs."""
    return sorted(range(len(macs)), key=lambda place: macs[place])[len(macs) // 2]


def _images(scoring: Scoring) -> Images:
    validation, screen = scoring.validation, scoring.screen
    whole = len(scoring.fitted) + (0 if validation is None else len(validation))
    if screen is None:
        return Images(whole)
    part = len(screen.fitted_M) + (0 if screen.validation_M is None else len(screen.validation_M))
    return Images(whole, part, screen.eta)


def _some(labels_N: Tensor, number: int) -> Tensor:
    """About so many positions, rare classes whole; all of them where that is a third of them or more."""
    if number >= len(labels_N):
        return torch.arange(len(labels_N))
    positions = class_capped(labels_N, seed=0, cap=max(2, number // int(labels_N.max() + 1)))
    return torch.arange(len(labels_N)) if positions is None else positions


def head_costs(rig: Rig, comparison: Comparison, session: Session, *, num_test: int, flip: bool) -> HeadCosts:
    """Let the run's own work on heads measure itself on the largest subnet, on a part of the images, and scale it up.

    Args:
        comparison: of the run.
        session: whose folder may be written in; its ledger is not charged.
    """
    rig.shown("heads")
    scoring = replace(rig.scoring, dtype=torch.float32)
    space, fitted = scoring.supernet.space, scoring.fitted
    dimension = scoring.supernet.feature_dim(space.largest())
    sized = comparison.sized(len(fitted) * dimension * fitted.num_classes)
    number = rig.images_for(1.0)
    limited, calibration = _limited(scoring, number)
    part = replace(
        scoring, fitted=fitted.subset(_some(fitted.labels_N, number)), calibrations=limited, screen=None,
        validation=None if scoring.validation is None else scoring.validation.subset(
            _some(scoring.validation.labels_N, number)),
    )  # fmt: skip
    ledger = Ledger(None, rig.clock, HEADS_BUDGET)
    work = HeadWork(replace(session, ledger=ledger, watcher=Silent()), part, sized, num_test=num_test, flip=flip)
    with ledger.phase(PHASE):
        work.measure_largest(Candidate(space.largest(), next(iter(limited))))
    return _scaled(work.costs, scoring, len(fitted) / len(part.fitted), calibration)


def _scaled(costs: HeadCosts, scoring: Scoring, images: float, calibration: float) -> HeadCosts:
    """As they are on all images: so many times those that were measured on, and times the calibration images."""
    return replace(
        costs,
        fitted=len(scoring.fitted),
        held_out=0 if scoring.validation is None else len(scoring.validation),
        calibrate_seconds=calibration * costs.calibrate_seconds,
        fit_seconds={head: images * seconds for head, seconds in costs.fit_seconds.items()},
        compared_seconds={head: images * seconds for head, seconds in costs.compared_seconds.items()},
    )


def passed_again(scoring: Scoring, costs: HeadCosts) -> bool:
    """Whether target images pass through tested subnets once more: not where comparing heads keeps their features."""
    dimension = scoring.supernet.feature_dim(scoring.supernet.space.largest())
    kept_bytes = 4 * (costs.finalists + 1) * len(scoring.fitted) * dimension
    return scoring.validation is not None or kept_bytes > KEPT_MIB * 2**20
