"""The head phase: full heads for the best candidates and for the baselines, compared on images they did not see.

Every (candidate, head) is one unit of work: it is started only if it is expected to fit, written down when it is
done, and never done twice. What has no time keeps the closed-form head that ranked it, so there is always a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Tensor

from nasimb.data.base import ImageSet
from nasimb.errors import WorkError
from nasimb.heads import Head
from nasimb.heads.compare import HeldOut, Named, by_folds, by_holdout, fit_head
from nasimb.metrics import Metrics, measure, objective_value
from nasimb.nn.moments import Statistics
from nasimb.phases.choice import SHOWN, Choice, merit
from nasimb.search.candidate import FAILURES, Scoring, features_of, statistics_of
from nasimb.search.limits import Limits
from nasimb.search.trial import Candidate, Trial, best_first
from nasimb.session import Session

T = TypeVar("T")

FILE = "heads.jsonl"
PLAIN = "cross_entropy"
PHASE = "head"
BASELINES = ("smallest", "random")
"""Compared besides the finalists; the largest is compared before the search begins."""
MODELS = 5
LARGE_MODELS = 3.25
"""Subnets to be tested, in units of the largest: it, the winner, the best of random, and the smallest."""
KEPT_MIB = 512
LARGE_PROBLEM = 10**8
"""Images x features x classes from which one logistic fit takes seconds on a CPU."""
LARGE_FOLDS, LARGE_PENALTIES = 3, (1e-3, 1e-4)
SMALL_FOLDS, SMALL_PENALTIES = 5, (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
TIMING_SECONDS = 0.4
START_SECONDS = 0.5
MARGIN = 1.2
MOST_FOR_HEADS = 0.2
"""Share of a time limit that comparing heads may keep from the search."""
FIRST_TRIALS = 3


@dataclass(frozen=True, eq=False)
class Comparison:
    """How heads are compared.

    Attributes:
        heads: tried on every finalist.
        count: how many of the best candidates are finalists.
        folds: stratified; not used where there is a hold-out. None: 5, or 3 for a large problem.
        penalties: of the logistic head. None: five from 0.1 to 1e-5, or two for a large problem.
        seed: of the folds.
    """

    heads: tuple[Named, ...]
    count: int
    folds: int | None
    penalties: tuple[float, ...] | None
    seed: int

    def sized(self, numbers: int) -> Comparison:
        """The same with folds and penalties for a problem of so many images x features x classes."""
        large = numbers > LARGE_PROBLEM
        folds, penalties = (LARGE_FOLDS, LARGE_PENALTIES) if large else (SMALL_FOLDS, SMALL_PENALTIES)
        return replace(self, folds=self.folds or folds, penalties=self.penalties or penalties)


class HeadWork:
    """The units of work of one run, done and to do.

    Args:
        session: where they are written and charged.
        scoring: how features are made.
        num_test: images of the test split, which the evaluate phase has to afford.
    """

    def __init__(self, session: Session, scoring: Scoring, comparison: Comparison, *, num_test: int) -> None:
        largest = scoring.supernet.feature_dim(scoring.supernet.space.largest())
        numbers = len(scoring.fitted) * largest * scoring.fitted.num_classes
        self.session, self.scoring, self.comparison = session, scoring, comparison.sized(numbers)
        assert self.comparison.folds is not None
        assert self.comparison.penalties is not None
        self._folds, self._penalties = self.comparison.folds, self.comparison.penalties
        self._num_test = num_test
        self._done: dict[tuple[Candidate, str], list[Choice]] = {}
        for line in session.run.read_lines(FILE):
            choices = [Choice.from_line(values) for values in line["choices"]]
            self._done[choices[0].candidate, repr(line["unit"])] = choices
        self._calibrate_seconds, self._image_seconds = 0.0, 0.0
        self._fit_seconds: dict[str, float] = {}
        self._most_seconds = 0.0
        self._kept: dict[tuple[Candidate, int], Tensor] = {}
        self._progress, self._detail = 0.0, "largest subnet"

    def features(self, candidate: Candidate, images: ImageSet, statistics: Statistics | None = None) -> Tensor:
        """features_ND of a candidate; kept (up to a limit) for the head and evaluate phases, which ask twice."""
        key = candidate, id(images)
        if key not in self._kept:
            statistics = statistics or statistics_of(self.scoring, candidate)
            features_ND = features_of(self.scoring, candidate, statistics, images)
            kept_bytes = sum(tensor.nbytes for tensor in self._kept.values())
            if kept_bytes + features_ND.nbytes > KEPT_MIB * 2**20:
                return features_ND
            self._kept[key] = features_ND
        return self._kept[key]

    def measure_largest(self, candidate: Candidate) -> None:
        """Try every head on the largest subnet: a baseline needs it, and it tells what a finalist costs at most.

        Where even that would take more than the heads' share of the time, no more is done than to measure.
        """
        limit = self.session.ledger.limit_seconds
        reserve_seconds = 0.0 if limit is None else self.session.ledger.remaining() - MOST_FOR_HEADS * limit
        heads = _distinct([PLAIN, *self.comparison.heads])
        try:
            features = self._measure_features(candidate)
            for head in heads:
                self._measure_fit(candidate, head, features[0])
        except FAILURES as error:
            self.session.watcher.say(f"The largest subnet cannot be used: {_one_line(error)}")
            return
        self._try(candidate, heads, max(reserve_seconds, self.evaluate_seconds()), 0.0, features)
        if limit is not None:
            # Heads have something to choose from only if the search has at least as long.
            self._most_seconds = min(
                MOST_FOR_HEADS * limit, (self.session.ledger.remaining() - self.evaluate_seconds()) / 2
            )

    def evaluate_seconds(self) -> float:
        """What the evaluate phase needs: each model with a fit and a timing, each subnet with its test features."""
        # Features of the target are kept by the comparison, unless it uses a part of it, or has no time.
        again = 0 if self._done and self.scoring.validation is None else len(self.scoring.fitted)
        features_seconds = self._calibrate_seconds + (self._num_test + again) * self._image_seconds
        fit_seconds = max(self._fit_seconds.values(), default=0.0)
        work_seconds = LARGE_MODELS * features_seconds + MODELS * (fit_seconds + TIMING_SECONDS)
        return MARGIN * work_seconds + START_SECONDS

    def tail_seconds(self, finished: int) -> float:
        """What must be left when the search ends: the evaluation, and time to compare heads on the finalists.

        Args:
            finished: trials so far. The first ones may use the time of the comparison: without them there is nothing
                to compare.
        """
        if finished < FIRST_TRIALS:
            return self.evaluate_seconds()
        candidates = self.comparison.count + len(BASELINES)
        seconds = self._features_seconds() + sum(self._expected_seconds(head) for head in self.comparison.heads)
        return min(MARGIN * candidates * seconds, self._most_seconds) + self.evaluate_seconds()

    def choose(self, trials: Sequence[Trial], limits: Limits) -> dict[str, Choice]:
        """The winner and every baseline with their heads: winner, smallest, largest, largest_plain_head, random.

        Raises:
            WorkError: no trial within the limits has a score. Interrupted: as `Session.tick`.
        """
        ranked = best_first(list(trials))
        within = [trial for trial in ranked if limits.exceeded(trial.macs, trial.params) is None]
        if not within:
            raise WorkError(
                "a candidate within the limits must have a score",
                got=f"none of {len(trials)} trials",
                do="See the reasons in trials.csv; train the super-network longer, or raise the limits.",
            )
        baselines = {kind: next((t for t in ranked if t.kind == kind), None) for kind in ("smallest", "largest")}
        baselines["random"] = next((t for t in within if t.kind == "random"), None)
        finalists = self._compare_finalists(within, [t for t in baselines.values() if t is not None])
        # A value of folds and one of leave-one-out do not compare: only those that had time stand for election.
        tried = [trial for trial in finalists if self._tried(trial.candidate)] or finalists[:1]
        found = {"winner": max((self._best(trial) for trial in tried), key=merit)}
        found |= {kind: self._best(trial) for kind, trial in baselines.items() if trial is not None}
        largest = baselines["largest"]
        return found if largest is None else {**found, "largest_plain_head": self._plain(largest)}

    def _compare_finalists(self, within: list[Trial], baselines: list[Trial]) -> list[Trial]:
        """Heads for the best candidates and the baselines; what time a limit leaves goes to the next best ones."""
        count, reserve_seconds = self.comparison.count, self.evaluate_seconds()
        finalists = within[:count]
        order = _distinct([within[0], *baselines, *finalists[1:]])
        for number, trial in enumerate(order):
            self._try(trial.candidate, self.comparison.heads, reserve_seconds, number / len(order))
        if self.session.ledger.limit_seconds is None:
            return finalists
        for trial in within[count:]:
            if not self._try(trial.candidate, self.comparison.heads, reserve_seconds, 1.0):
                break
            finalists.append(trial)
        return finalists

    def fit(self, choice: Choice, features_ND: Tensor, labels_N: Tensor) -> Head:
        """The chosen head, fitted to all of these images."""
        return fit_head(
            choice.head, features_ND, labels_N, self.scoring.fitted.num_classes, choice.setting, self._penalties
        )

    def _tried(self, candidate: Candidate) -> list[Choice]:
        """The best of every head that has been compared for a candidate; the plain head is no choice of its own."""
        units = [self._done.get((candidate, repr(head)), []) for head in self.comparison.heads]
        return [choice for unit in units for choice in unit]

    def _best(self, trial: Trial) -> Choice:
        tried = self._tried(trial.candidate)
        estimator = "leave-one-out" if self.scoring.validation is None else "holdout"
        return max(tried, key=merit) if tried else Choice.of_trial(trial, estimator)

    def _plain(self, largest: Trial) -> Choice:
        """The unweighted head; where there was no time to compare its penalties, the middle one, held out nowhere."""
        unit = self._done.get((largest.candidate, repr(PLAIN)))
        if unit is not None:
            return unit[0]
        penalties = sorted(self._penalties)
        metrics = dict.fromkeys(SHOWN)
        return Choice(
            largest.candidate, PLAIN, penalties[len(penalties) // 2], float("-inf"), None, metrics, "not held out", 0.0
        )

    def _try(
        self,
        candidate: Candidate,
        heads: Sequence[Named],
        reserve_seconds: float,
        done: float,
        features: tuple[Tensor, Tensor | None] | None = None,
    ) -> bool:
        """Compare every head of `heads` on a candidate that is not done and still fits; False if one did not fit."""
        everything = True
        for head in heads:
            if (candidate, repr(head)) in self._done:
                continue
            expected = self._expected_seconds(head) + (self._features_seconds() if features is None else 0.0)
            if expected > self.session.ledger.remaining() - reserve_seconds:
                everything = False
                continue
            try:
                features = features or self._features(candidate)
                choices = self._compare(candidate, head, *features)
            except FAILURES as error:
                self.session.watcher.say(f"{_name(head)} on {candidate.subnet} failed: {_one_line(error)}")
                continue
            self._done[candidate, repr(head)] = choices
            line = {"unit": head, "choices": [choice.to_line() for choice in choices]}
            self.session.run.append_line(FILE, line)
            best = max(choices, key=merit)
            self._progress, self._detail = done, f"{_name(best.head)} {best.value:.3f} on {candidate.subnet}"
            self.session.tick(PHASE, self._progress, self._detail)
        return everything

    def _expected_seconds(self, head: Named) -> float:
        """The longest that comparing this head has taken on a candidate; before the first, what its fits would."""
        taken = [unit[0].seconds for (_, done), unit in self._done.items() if done == repr(head)]
        return max(taken, default=self._walks * self._fit_seconds.get(repr(head), 0.0))

    @property
    def _walks(self) -> int:
        """Walks down the penalties in one comparison."""
        return self._folds if self.scoring.validation is None else 1

    def _features_seconds(self) -> float:
        held_out = 0 if self.scoring.validation is None else len(self.scoring.validation)
        return self._calibrate_seconds + (len(self.scoring.fitted) + held_out) * self._image_seconds

    def _measure_features(self, candidate: Candidate) -> tuple[Tensor, Tensor | None]:
        """`_features`, timed."""
        statistics_of(self.scoring, candidate)  # the first call of all is slower than the others will be
        start = self.session.clock()
        statistics = statistics_of(self.scoring, candidate)
        middle = self.session.clock()
        self.features(candidate, self.scoring.fitted, statistics)
        end = self.session.clock()
        self._calibrate_seconds, self._image_seconds = middle - start, (end - middle) / len(self.scoring.fitted)
        return self._features(candidate)

    def _measure_fit(self, candidate: Candidate, head: Named, features_ND: Tensor) -> None:
        """Seconds of one fit, where no comparison tells."""
        unit = self._done.get((candidate, repr(head)))
        if unit is not None:
            self._fit_seconds[repr(head)] = unit[0].seconds / self._walks
            return
        start = self.session.clock()
        fit_head(
            head, features_ND, self.scoring.fitted.labels_N.to(self.scoring.device), self.scoring.fitted.num_classes,
            min(self._penalties), self._penalties,
        )  # fmt: skip
        self._fit_seconds[repr(head)] = self.session.clock() - start

    def _features(self, candidate: Candidate) -> tuple[Tensor, Tensor | None]:
        """Of the fitted images, and of the hold-out if there is one."""
        fitted_ND = self.features(candidate, self.scoring.fitted)
        validation = self.scoring.validation
        return fitted_ND, None if validation is None else self.features(candidate, validation)

    def _between(self) -> None:
        """Between two fits of one comparison, which can take minutes: charge the time, obey a signal."""
        self.session.tick(PHASE, self._progress, self._detail)

    def _compare(self, candidate: Candidate, head: Named, fitted_ND: Tensor, held_MD: Tensor | None) -> list[Choice]:
        """The head as it is and with each post-hoc correction, each at its best setting on held-out images."""
        scoring, comparison = self.scoring, self.comparison
        start = self.session.clock()
        labels_N, num_classes = scoring.fitted.labels_N.to(scoring.device), scoring.fitted.num_classes
        if held_MD is None:
            found = by_folds(
                head, fitted_ND, labels_N, num_classes,
                penalties=self._penalties, folds=self._folds, seed=comparison.seed, between=self._between,
            )  # fmt: skip
            truth_M, estimator = scoring.fitted.labels_N, f"{self._folds}-fold"
        else:
            assert scoring.validation is not None
            truth_M, estimator = scoring.validation.labels_N, "holdout"
            found = by_holdout(
                head, fitted_ND, labels_N, held_MD, truth_M, num_classes,
                penalties=self._penalties, between=self._between,
            )  # fmt: skip
        best: dict[str, tuple[float, HeldOut, Metrics]] = {}
        for one in found:
            metrics = measure(one.predicted_M, truth_M, scoring.class_counts_K)
            value, kind = objective_value(metrics, scoring.objective), _name(one.head)
            if kind not in best or (value, -one.balanced_loss) > (best[kind][0], -best[kind][1].balanced_loss):
                best[kind] = value, one, metrics
        seconds = self.session.clock() - start
        return [
            Choice(candidate, one.head, one.setting, value, one.balanced_loss, _shown(metrics), estimator, seconds)
            for value, one, metrics in best.values()
        ]


def _shown(metrics: Metrics) -> dict[str, float | None]:
    return {name: getattr(metrics, name) for name in SHOWN}


def _distinct(values: Iterable[T]) -> list[T]:
    """In order of first occurrence; equal is enough, since heads with options cannot be hashed."""
    found: list[T] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _name(head: Named) -> str:
    """Of a head with its post-hoc correction, without its options."""
    if isinstance(head, str):
        return head
    return str(head["name"]) + (f" + {head['posthoc']}" if "posthoc" in head else "")
