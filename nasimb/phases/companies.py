"""In which company candidates come: batches that the run's own sampler proposes when scores have been made up.

What a candidate costs depends on its company, since candidates of a batch share their first blocks, and on where the
sampler goes, which nobody knows beforehand. So the search is rehearsed without scoring anybody: where small networks
win, where size makes no difference, and where large ones win.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log, sqrt

import numpy as np

from nasimb.search.limits import CostOf
from nasimb.search.study import Proposal, Question, Study
from nasimb.search.trial import FINISHED, Candidate, Trial
from nasimb.space import SearchSpace, Subnet

LIKINGS = {"small": -0.7, "any": 0.0, "large": 0.7}
"""Correlation of the made-up scores with the logarithm of MACs."""
REHEARSED = 108
"""Trials: smallest and largest, the random start, and six batches."""
LATE = 2
"""So many of the last batches count."""
SAMPLES = 501
"""Drawn to know the sizes of a space; as many as show its range to the user."""


def companies(question: Question, cost_of: CostOf, trials: int = REHEARSED) -> dict[str, list[list[Candidate]]]:
    """Batches of candidates for every liking, as they would be scored together late in a search."""
    return {name: _late_batches(question, cost_of, liking, trials) for name, liking in LIKINGS.items()}


def _late_batches(question: Question, cost_of: CostOf, liking: float, trials: int) -> list[list[Candidate]]:
    sizes = np.log([macs for macs, _ in _samples(question.space, cost_of)])
    mean, spread = float(sizes.mean()), float(sizes.std()) or 1.0
    rng = np.random.default_rng([question.seed, 6])
    batches: list[list[Candidate]] = []

    def made_up(proposals: Sequence[Proposal]) -> list[Trial]:
        batches.append([proposal.candidate for proposal in proposals])
        return [_scored(one, liking * (log(one.macs) - mean) / spread, rng.normal()) for one in proposals]

    def _scored(one: Proposal, size: float, noise: float) -> Trial:
        score = 1 / (1 + np.exp(-(size + sqrt(1 - liking**2) * noise)))
        return Trial(number=one.number, state=FINISHED, kind=one.kind, candidate=one.candidate, macs=one.macs,
                     params=one.params, score=float(score))  # fmt: skip

    for _ in Study(question, cost_of).batches(made_up, len, trials):
        pass
    whole = [batch for batch in batches if len(batch) >= question.batch_size // 2]
    return (whole or batches)[-LATE:]


def typical_subnets(space: SearchSpace, cost_of: CostOf) -> dict[str, Subnet]:
    """The smallest, the median (by MACs, of a random sample) and the largest subnet."""
    rng = np.random.default_rng(0)
    drawn = sorted((cost_of(subnet), number, subnet) for number, subnet in enumerate(_drawn(space, rng)))
    return {"smallest": space.smallest(), "median": drawn[len(drawn) // 2][2], "largest": space.largest()}


def share_within(question: Question, cost_of: CostOf) -> float:
    """Of random subnets, how many keep the limits."""
    within = [question.limits.exceeded(*cost) is None for cost in _samples(question.space, cost_of)]
    return sum(within) / len(within)


def _samples(space: SearchSpace, cost_of: CostOf) -> list[tuple[int, int]]:
    return [cost_of(subnet) for subnet in _drawn(space, np.random.default_rng(0))]


def _drawn(space: SearchSpace, rng: np.random.Generator) -> list[Subnet]:
    return [space.sample(rng) for _ in range(SAMPLES)]
