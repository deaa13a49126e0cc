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
) -> HeadCosts:
    """`costs` with what the largest and the smallest subnet take, all on the images that heads are fitted to."""
    statistics_of(scoring, largest)  # the first call of all is slower than the others will be
    calibrate_seconds, image_seconds = _network(scoring, largest, features, clock)
    whole = calibrate_seconds + len(scoring.fitted) * image_seconds
    calibrate_smallest, image_smallest = _network(scoring, smallest, features, clock)
    share = (calibrate_smallest + len(scoring.fitted) * image_smallest) / whole if whole > 0 else 1.0
    return replace(
        costs, calibrate_seconds=calibrate_seconds, image_seconds=image_seconds, smallest_seconds=min(share, 1.0)
    )


def _network(scoring: Scoring, candidate: Candidate, features: FeaturesOf, clock: Clock) -> tuple[float, float]:
    """Seconds of a calibration, and of one image."""
    start = clock()
    statistics = statistics_of(scoring, candidate)
    middle = clock()
    features(candidate, scoring.fitted, statistics)
    seconds = clock() - middle
    if seconds < SHORT_SECONDS:
        again = clock()
        features_of(scoring, candidate, statistics, scoring.fitted)
        seconds = clock() - again
    return middle - start, seconds / len(scoring.fitted)


def fit_seconds(
    scoring: Scoring, head: Named, features_ND: Tensor, penalties: tuple[float, ...], clock: Clock
) -> float:  # fmt: skip
    """Seconds of one fit at the smallest of the penalties, which takes the longest."""
    start = clock()
    labels_N = scoring.fitted.labels_N.to(scoring.device)
    fit_head(head, features_ND, labels_N, scoring.fitted.num_classes, min(penalties), penalties)
    return clock() - start


def macs_share(scoring: Scoring, subnet: Subnet) -> float:
    """MACs of a subnet, in units of the largest."""
    return scoring.cost_of(subnet)[0] / scoring.cost_of(scoring.supernet.space.largest())[0]


def typical_share(scoring: Scoring) -> float:
    """MACs of an average subnet, in units of the largest."""
    rng = np.random.default_rng(0)
    shares = [macs_share(scoring, scoring.supernet.space.sample(rng)) for _ in range(TYPICAL_SUBNETS)]
    return sum(shares) / len(shares)
