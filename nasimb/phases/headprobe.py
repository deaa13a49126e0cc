"""What subnets and heads take on this machine, measured where a run can use what it computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from torch import Tensor

from nasimb.budget import Clock
from nasimb.data.base import ImageSet
from nasimb.heads.compare import Named, fit_head
from nasimb.nn.moments import Statistics
from nasimb.phases.headcosts import HeadCosts
from nasimb.search.candidate import Scoring, features_of, statistics_of
from nasimb.search.failures import FAILURES, Problem
from nasimb.search.trial import Candidate
from nasimb.space import Subnet

SHORT_SECONDS = 0.3
"""What is over sooner is measured again: the first time is slower than the others."""
TYPICAL_SUBNETS = 32
"""Sampled to know what a candidate costs on average, against the largest."""

FeaturesOf = Callable[[Candidate, ImageSet, Statistics], Tensor]
"""features_ND of a candidate; kept for whoever asks again."""


def measured_networks(
    costs: HeadCosts, scoring: Scoring, largest: Candidate, smallest: Candidate, features: FeaturesOf, clock: Clock
) -> tuple[HeadCosts, Problem | None]:
    """`costs` with what the largest and the smallest subnet take, all on the images that heads are fitted to.

    Where the smallest fails, all are taken to be as slow as the largest; where that fails (then the second value says
    why), it is taken to be as much slower than the smallest as its MACs are more.
    """
    problem = None
    try:
        statistics = statistics_of(scoring, largest)  # the first call of all is slower than the others will be
        found = _network(scoring, largest, features, clock, statistics)
    except FAILURES as error:
        found, problem = None, Problem.of(error)
    try:
        least = _network(scoring, smallest, features, clock)
    except FAILURES:
        least = found or (0.0, 0.0)
    if found is None:
        found = least[0] / costs.smallest_share, least[1] / costs.smallest_share
    images = len(scoring.fitted)
    whole_seconds, least_seconds = (calibrate + images * image for calibrate, image in (found, least))
    share = min(least_seconds / whole_seconds, 1.0) if whole_seconds > 0 else 1.0
    return replace(costs, calibrate_seconds=found[0], image_seconds=found[1], smallest_seconds=share), problem


def _network(
    scoring: Scoring, candidate: Candidate, features: FeaturesOf, clock: Clock, own: Statistics | None = None
) -> tuple[float, float]:
    """Seconds of a calibration, by the policy that takes the most images, and of one image.

    Args:
        own: statistics of the candidate, where they are known.
    """
    slowest = max(scoring.calibrations, key=lambda policy: len(scoring.calibrations[policy]))
    start = scoring.now(clock)
    timed = statistics_of(scoring, replace(candidate, calibration=slowest))
    calibrate_seconds = scoring.now(clock) - start
    statistics = timed if candidate.calibration == slowest else own or statistics_of(scoring, candidate)
    middle = scoring.now(clock)
    features(candidate, scoring.fitted, statistics)
    seconds = scoring.now(clock) - middle
    if seconds < SHORT_SECONDS:
        again = scoring.now(clock)
        features_of(scoring, candidate, statistics, scoring.fitted)
        seconds = scoring.now(clock) - again
    return calibrate_seconds, seconds / len(scoring.fitted)


def fit_seconds(
    scoring: Scoring, head: Named, features_ND: Tensor, penalties: tuple[float, ...], clock: Clock
) -> float:  # fmt: skip
    """Seconds of one fit at the smallest of the penalties, which takes the longest."""
    start = scoring.now(clock)
    labels_N = scoring.fitted.labels_N.to(scoring.device)
    fit_head(head, features_ND, labels_N, scoring.fitted.num_classes, min(penalties), penalties)
    return scoring.now(clock) - start


def macs_share(scoring: Scoring, subnet: Subnet) -> float:
    """MACs of a subnet, in units of the largest."""
    return scoring.cost_of(subnet)[0] / scoring.cost_of(scoring.supernet.space.largest())[0]


def typical_share(scoring: Scoring) -> float:
    """MACs of an average subnet, in units of the largest."""
    rng = np.random.default_rng(0)
    shares = [macs_share(scoring, scoring.supernet.space.sample(rng)) for _ in range(TYPICAL_SUBNETS)]
    return sum(shares) / len(shares)
