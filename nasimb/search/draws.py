"""Random candidates that were not proposed before, and candidates as Optuna's parameters and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nasimb.search.limits import CostOf, Limits
from nasimb.search.trial import Candidate
from nasimb.space import SearchSpace

DRAWS = 2000
"""Random draws in search of an unseen subnet within the limits before its neighbours are looked at."""


class Draws:
    """What may be drawn: the subnets of a space and the calibrations, within limits.

    Attributes:
        choices: every choice in the order in which a network computes them: the calibration changes all that follows.
    """

    def __init__(self, space: SearchSpace, calibrations: tuple[str, ...], limits: Limits, cost_of: CostOf) -> None:
        self._space, self._calibrations, self._limits, self._cost_of = space, calibrations, limits, cost_of
        several: dict[str, tuple[Any, ...]] = {"calibration": calibrations} if len(calibrations) > 1 else {}
        self.choices: dict[str, tuple[Any, ...]] = {**several, **space.choices()}

    def candidate(self, parameters: Mapping[str, Any]) -> Candidate:
        """The candidate of Optuna's parameters."""
        calibration = parameters.get("calibration", self._calibrations[0])
        return Candidate(self._space.subnet(dict(parameters)), str(calibration))

    def parameters(self, candidate: Candidate) -> dict[str, Any]:
        """Optuna's parameters of the candidate."""
        values = {**self._space.values(candidate.subnet), "calibration": candidate.calibration}
        return {name: values[name] for name in self.choices}

    def unseen(self, rng: np.random.Generator, seen: Mapping[Candidate, None]) -> Candidate | None:
        """A uniform draw among candidates within the limits that are not in `seen`; None where none is found."""
        for _ in range(DRAWS):
            subnet = self._space.sample(rng)
            policy = self._calibrations[rng.integers(len(self._calibrations))]
            candidate = Candidate(subnet, policy)
            if candidate not in seen and self._within(candidate):
                return candidate
        return self._neighbour(rng, seen)

    def _neighbour(self, rng: np.random.Generator, seen: Mapping[Candidate, None]) -> Candidate | None:
        """One choice away from a candidate within the limits: where uniform draws find nothing, little is within.

        Cost falls with every choice towards the smallest, so that whatever is within hangs together by such steps.
        """
        within = [candidate for candidate in seen if self._within(candidate)]
        for position in rng.permutation(len(within)):
            values = self.parameters(within[position])
            steps = [(name, value) for name, options in self.choices.items() for value in options]
            for step in rng.permutation(len(steps)):
                name, value = steps[step]
                candidate = self.candidate({**values, name: value})
                if candidate not in seen and self._within(candidate):
                    return candidate
        return None

    def _within(self, candidate: Candidate) -> bool:
        return self._limits.exceeded(*self._cost_of(candidate.subnet)) is None
