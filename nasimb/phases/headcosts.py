"""What heads and the test cost, from what was measured on the largest subnet: one arithmetic for runs and for plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from math import inf
from typing import Any

BASELINES = ("smallest", "random")
"""Compared besides the finalists; the largest is compared before the search begins."""
LARGEST_HEADS, OTHER_HEADS = 2, 3
"""Heads to be fitted for the test, on the largest subnet and on others. The latter are closed forms, which take no
time, where there was none to compare others."""
SUBNETS = 4
"""To be timed."""
TIMING_SECONDS, TIMING_PASSES = 0.25, 4
"""Of one subnet on single images: so long, or so many passes if they take longer."""
LAST_SECONDS = 0.4
"""For intervals, files and the report."""
MARGIN = 1.1
"""Above what was measured."""
MOST_FOR_HEADS = 0.2
"""Share of a time limit that comparing heads may keep from the search: half of it on the largest subnet, which every
run compares, and what that leaves on the finalists."""
MOST_FOR_CALIBRATIONS = 0.05
"""Share of a time limit that comparing calibrations may keep from the search and from heads: it explains a result and
does not better it."""
SEARCH_FOR_CALIBRATIONS = 0.1
"""And the share of the search's own time, which is short where the limit is."""
CALIBRATION_MARGIN = 1.5
"""Above what scoring a subnet alone is predicted to take: comparing calibrations may not cost the test its time."""
FIRST_TRIALS = 3


@dataclass(frozen=True, slots=True)
class LastPhase:
    """What the evaluate phase will do.

    Attributes:
        networks: calibrated and shown the test images, in units of the largest subnet.
        passed_again: of them, those that the target images pass through once more.
        fit_seconds: of all their heads, once.
        subnets: to be timed.
    """

    networks: float
    passed_again: float
    fit_seconds: float
    subnets: int


@dataclass(frozen=True, slots=True)
class Most:
    """Seconds that comparisons may keep from the search, once the largest subnet is compared.

    Attributes:
        finalists: comparing heads on the finalists.
        calibrations: comparing calibrations on the winner's subnet.
    """

    finalists: float
    calibrations: float


@dataclass(frozen=True, slots=True)
class HeadCosts:
    """Seconds and numbers of the work on heads; heads are named by `repr`.

    Attributes:
        heads: compared on every finalist.
        finalists: candidates that they are compared on, besides the largest subnet.
        walks: down the penalties in one comparison.
        fitted, held_out, test, target: numbers of images.
        crops: of every image, in the last fit.
        policies: calibrations of the run, which the winner's subnet is compared under.
        normalised: 1 if heads are compared on the largest subnet with the winner's norms too, else 0.
        typical_share, smallest_share: MACs of an average subnet and of the smallest, in units of the largest.
        smallest_seconds: what the smallest takes, in units of the largest.
        calibrate_seconds, image_seconds: of the largest subnet, and of one image through it.
        fit_seconds: of one fit, by head.
        compared_seconds: the longest comparison so far, by head.
    """

    heads: tuple[str, ...]
    finalists: int
    walks: int
    fitted: int
    held_out: int
    test: int
    target: int
    crops: int
    typical_share: float
    policies: int = 1
    normalised: int = 0
    smallest_share: float = 0.0
    smallest_seconds: float = 1.0
    calibrate_seconds: float = 0.0
    image_seconds: float = 0.0
    fit_seconds: Mapping[str, float] = field(default_factory=dict)
    compared_seconds: Mapping[str, float] = field(default_factory=dict)

    def like(self, kept: Mapping[str, Any] | None) -> HeadCosts | None:
        """What was kept of the same work (as `asdict` gives it), or None where it was other work, or nothing."""
        measured = ("smallest_seconds", "calibrate_seconds", "image_seconds", "fit_seconds", "compared_seconds")
        if kept is None or set(kept) != {field.name for field in fields(self)}:
            return None
        found = replace(self, **{name: kept[name] for name in measured})
        return found if {**asdict(found), "heads": list(found.heads)} == kept else None

    def having_fitted(self, head: str, seconds: float) -> HeadCosts:
        """The same, after one fit of a head."""
        return replace(self, fit_seconds={**self.fit_seconds, head: seconds})

    def having_compared(self, head: str, seconds: float) -> HeadCosts:
        """The same, after a comparison of a head on a candidate."""
        longest = max(seconds, self.compared_seconds.get(head, 0.0))
        return replace(self, compared_seconds={**self.compared_seconds, head: longest})

    def relative(self, share: float) -> float:
        """What a subnet takes that has this share of the largest one's MACs, in units of the largest.

        A line through the largest and the smallest: layers take some time however thin they are.
        """
        grown = (share - self.smallest_share) / max(1 - self.smallest_share, 1e-9)
        return self.smallest_seconds + (1 - self.smallest_seconds) * grown

    def features_seconds(self) -> float:
        """Of all images that a comparison needs, through the largest subnet."""
        return self.calibrate_seconds + (self.fitted + self.held_out) * self.image_seconds

    def compare_seconds(self, head: str) -> float:
        """The longest that comparing this head has taken on a candidate; before the first, what its fits would."""
        return self.compared_seconds.get(head, self.walks * self.fit_seconds.get(head, 0.0))

    def finalists_seconds(self) -> float:
        """To compare every head on every finalist and baseline.

        Fits cost much the same for all; features of the largest are at hand but for other norms, those of others cost
        less.
        """
        fit_seconds = sum(self.compare_seconds(head) for head in self.heads)
        networks = self.finalists * self.relative(self.typical_share) + self.normalised
        return networks * self.features_seconds() + (self.finalists + self.normalised) * fit_seconds

    def calibration_seconds(self, share: float, taken_seconds: float = 0.0) -> float:
        """To be kept for one calibration of a subnet with this share of the largest one's MACs.

        Args:
            taken_seconds: the longest that one has taken on it.
        """
        return CALIBRATION_MARGIN * max(self.relative(share) * self.features_seconds(), taken_seconds)

    def calibrations_seconds(self) -> float:
        """To be kept for a subnet of average size under every calibration but the one that it was found with."""
        return (self.policies - 1) * self.calibration_seconds(self.typical_share)

    def expected(self, *, passed_again: bool) -> LastPhase:
        """The evaluate phase before heads were compared on any but the largest subnet.

        Args:
            passed_again: whether the target images pass through every tested network once more.
        """
        # The largest, once or twice, the winner, the best of random, and the smallest.
        networks = 1 + self.normalised + 2 * self.relative(self.typical_share) + self.smallest_seconds
        fit_seconds = (LARGEST_HEADS + self.normalised) * self._longest_seconds
        return LastPhase(networks, networks * passed_again, fit_seconds, SUBNETS + self.normalised)

    def evaluate_seconds(self, last: LastPhase, again_seconds: float | None = None) -> float:
        """What the evaluate phase needs: each head fitted, each subnet timed and shown the test images.

        Args:
            again_seconds: what comes before it in a process that begins it anew, where time for that is to be kept.
        """
        images = last.networks * (self.test + (self.crops - 1) * self.target) + last.passed_again * self.target
        features_seconds = last.networks * self.calibrate_seconds + images * self.image_seconds
        timing_seconds = last.subnets * max(TIMING_SECONDS, TIMING_PASSES * self.image_seconds)
        work_seconds = features_seconds + self.crops * last.fit_seconds + timing_seconds
        # The whole of it, although heads and latencies are kept: with less, a run that was stopped three times in its
        # last phase spent 46.4 of 45 s (tests/test_endurance.py).
        once_more_seconds = 0.0 if again_seconds is None else again_seconds + work_seconds
        return MARGIN * (work_seconds + once_more_seconds) + LAST_SECONDS

    def tail_seconds(self, finished: int, *, most: Most, evaluate_seconds: float) -> float:
        """What must be left when the search ends: the evaluation, and time to compare heads on the finalists, to fit
        those that are chosen, and to compare calibrations.

        Args:
            finished: trials so far. The first ones may use the time of the comparison: without them there is nothing
                to compare.
            most: see `HeadCosts.most`.
            evaluate_seconds: see there.
        """
        if finished < FIRST_TRIALS:
            return evaluate_seconds
        calibrations_seconds = min(self.calibrations_seconds(), most.calibrations)
        return min(self._choosing_seconds, most.finalists) + calibrations_seconds + evaluate_seconds

    def most(
        self, limit_seconds: float | None, *, spent_seconds: float, remaining_seconds: float, searched_seconds: float,
        evaluate_seconds: float,
    ) -> Most:  # fmt: skip
        """What comparisons may keep from the search.

        Args:
            spent_seconds: on heads so far.
            remaining_seconds: of the whole budget.
            searched_seconds: by this run before it was stopped: what a search may lose does not shrink as it goes on.
        """
        if limit_seconds is None:
            return Most(inf, inf)
        finalists_seconds = most_for_finalists(
            limit_seconds, spent_seconds=spent_seconds, remaining_seconds=remaining_seconds,
            evaluate_seconds=evaluate_seconds,
        )  # fmt: skip
        kept_seconds = min(self._choosing_seconds, finalists_seconds) + evaluate_seconds
        search_seconds = max(remaining_seconds + searched_seconds - kept_seconds, 0.0)
        calibrations_seconds = min(MOST_FOR_CALIBRATIONS * limit_seconds, SEARCH_FOR_CALIBRATIONS * search_seconds)
        return Most(finalists_seconds, calibrations_seconds)

    @property
    def _choosing_seconds(self) -> float:
        """To compare heads on the finalists and to fit those that are chosen."""
        return MARGIN * (self.finalists_seconds() + OTHER_HEADS * self.crops * self._longest_seconds)

    @property
    def _longest_seconds(self) -> float:
        """Of one fit of any head."""
        return max(self.fit_seconds.values(), default=0.0)


def most_for_largest(limit_seconds: float | None) -> float:
    """What comparing heads on the largest subnet may take."""
    return inf if limit_seconds is None else MOST_FOR_HEADS / 2 * limit_seconds


def most_for_finalists(
    limit_seconds: float, *, spent_seconds: float, remaining_seconds: float, evaluate_seconds: float
) -> float:
    """What comparing heads on the finalists may keep from the search, once the largest subnet is compared.

    Args:
        spent_seconds: on heads so far.
        remaining_seconds: of the whole budget.
    """
    left_seconds = MOST_FOR_HEADS * limit_seconds - spent_seconds
    # Heads have something to choose from only if the search has at least as long.
    searched_seconds = (remaining_seconds - evaluate_seconds) / 2
    return max(0.0, min(left_seconds, searched_seconds))
