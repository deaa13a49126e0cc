"""The head phase: full heads for the best candidates and for the baselines, compared on images they did not see.

Every (candidate, head) is one unit of work: it is started only if it is expected to fit, written down when it is
done, and never done twice. What has no time keeps the closed-form head that ranked it, so there is always a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace

from torch import Tensor

from nasimb.data.base import ImageSet
from nasimb.heads import Head
from nasimb.heads.checkpoint import Checkpoint
from nasimb.heads.compare import Named, by_folds, by_holdout, unseen
from nasimb.heads.logistic import Progress
from nasimb.nn.moments import Statistics
from nasimb.phases import normalised
from nasimb.phases.admission import comparisons_not_started
from nasimb.phases.choice import Choice, merit, shown
from nasimb.phases.comparison import PLAIN as PLAIN
from nasimb.phases.comparison import Comparison as Comparison
from nasimb.phases.comparison import best_settings, distinct, head_name
from nasimb.phases.crops import Crops
from nasimb.phases.headcosts import BASELINES as BASELINES
from nasimb.phases.headcosts import HeadCosts, LastPhase, Most, most_for_largest
from nasimb.phases.headprobe import fit_seconds, macs_share, measured_networks, typical_share
from nasimb.search.candidate import Scoring, features_of, statistics_of
from nasimb.search.failures import FAILURES, Problem
from nasimb.search.limits import Limits
from nasimb.search.trial import Candidate, Trial, best_first, scored_as
from nasimb.session import Session

FILE, COSTS_FILE = "heads.jsonl", "headcosts.json"
PHASE = "head"
KEPT_MIB = 512


class HeadWork:
    """The units of work of one run, done and to do.

    Args:
        session: where they are written and charged.
        scoring: how features are made.
        num_test: images of the test split, which the evaluate phase has to afford.
        flip: whether a mirrored image keeps its label.
    """

    def __init__(
        self, session: Session, scoring: Scoring, comparison: Comparison, *, num_test: int, flip: bool = False
    ) -> None:
        largest = scoring.supernet.feature_dim(scoring.supernet.space.largest())
        numbers = len(scoring.fitted) * largest * scoring.fitted.num_classes
        self.session, self.scoring, self.comparison = session, scoring, comparison.sized(numbers)
        assert self.comparison.folds is not None
        assert self.comparison.penalties is not None
        self._folds, self._penalties = self.comparison.folds, self.comparison.penalties
        num_target = int(scoring.class_counts_K.sum())
        self.crops = Crops(comparison.crops, flip, comparison.seed).fitting(num_target, largest)
        for note in self.crops.notes(comparison.crops):
            session.watcher.say(note)
        self.costs = HeadCosts(
            heads=tuple(repr(head) for head in comparison.heads),
            finalists=comparison.count + len(BASELINES),
            walks=self._folds if scoring.validation is None else 1,
            fitted=len(scoring.fitted),
            held_out=0 if scoring.validation is None else len(scoring.validation),
            test=num_test,
            target=num_target,
            crops=self.crops.count,
            policies=len(scoring.calibrations),
            normalised=int(normalised.possible(scoring.supernet.space, scoring.calibrations)),
            typical_share=typical_share(scoring),
            smallest_share=macs_share(scoring, scoring.supernet.space.smallest()),
        )
        self._done: dict[tuple[Candidate, str], list[Choice]] = {}
        for line in session.run.read_lines(FILE):
            choices = [Choice.from_line(values) for values in line["choices"]]
            self._keep(choices[0].candidate, repr(line["unit"]), choices)
        self.most, self._measured_seconds = Most(0.0, 0.0), 0.0
        self._kept: dict[tuple[Candidate, int], Tensor] = {}
        self._refit: tuple[Candidate, Tensor] | None = None
        self._progress, self._detail = 0.0, "largest subnet"
        self._refused: list[float] = []

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

    def features_to_fit(self, candidate: Candidate, target: ImageSet, statistics: Statistics) -> Tensor:
        """Features of every crop of the target's images, as `fit` takes them; kept for one candidate at a time."""
        if self._refit is None or self._refit[0] != candidate:

            def features(images: ImageSet) -> Tensor:
                if images is target:
                    return self.features(candidate, images, statistics)
                return features_of(self.scoring, candidate, statistics, images)

            self._refit = None  # freed before its successor is made
            self._refit = candidate, self.crops.features(features, target)
        return self._refit[1]

    def measure_largest(self, candidate: Candidate) -> None:
        """Try every head on the largest subnet: a baseline needs it, and it tells what a finalist costs at most.

        Where even that would take more than half of the heads' share of the time, no more is done than to measure.
        """
        ledger, limit = self.session.ledger, self.session.ledger.limit_seconds
        others_seconds = 0.0 if limit is None else ledger.remaining() - most_for_largest(limit)
        if not self._measure(candidate, heads := distinct([PLAIN, *self.comparison.heads])):
            return
        keep_seconds = max(others_seconds, self.evaluate_seconds())
        self._try(candidate, heads, 0.0, keep_seconds=keep_seconds)
        self._tell_refused(keep_seconds, "search and test")
        self.most = self.costs.most(
            limit, spent_seconds=ledger.spent(PHASE), remaining_seconds=ledger.remaining(),
            searched_seconds=ledger.spent("search"), evaluate_seconds=self.evaluate_seconds(),
        )  # fmt: skip

    def _measure(self, candidate: Candidate, heads: Sequence[Named]) -> bool:
        """Whether the largest subnet can be used. What was measured on this device before a kill is not again."""
        clock, device = self.session.clock, str(self.scoring.device)
        kept = self.session.run.read_derived(COSTS_FILE, self.session.watcher.say) or {}
        found = self.costs.like(kept.get(device))
        if found is not None:
            self.costs = replace(found, compared_seconds={**found.compared_seconds, **self.costs.compared_seconds})
            return True
        start = clock()
        smallest = replace(candidate, subnet=self.scoring.supernet.space.smallest())
        self.costs, problem = measured_networks(self.costs, self.scoring, candidate, smallest, self.features, clock)
        try:
            features_ND, _ = self._features(candidate if problem is None else smallest)
            for head in heads:
                unit = self._done.get((candidate, repr(head)))
                seconds = unit[0].seconds / self.costs.walks if unit else None
                seconds = seconds or fit_seconds(self.scoring, head, features_ND, self._penalties, clock)
                self.costs = self.costs.having_fitted(repr(head), seconds)
        except FAILURES as error:
            problem = problem or Problem.of(error)
        self._measured_seconds = clock() - start
        if problem is None:
            self.session.run.write_json(COSTS_FILE, {device: asdict(self.costs)})
        else:
            self.session.watcher.say(f"The largest subnet cannot be used: {problem.reason}")
        return problem is None

    def evaluate_seconds(self, last: LastPhase | None = None) -> float:
        """What the evaluate phase needs, see `HeadCosts`."""
        ledger = self.session.ledger
        # A run that was stopped before may be stopped in its last phase too, and begin that anew.
        again_seconds = ledger.since_opening("prepare") + self._measured_seconds if ledger.resumed else None
        if last is None:
            compared = {candidate for candidate, _ in self._done}
            has_features = bool(compared) and all(map(self._has_features, compared))
            last = self.costs.expected(passed_again=not has_features)
        return self.costs.evaluate_seconds(last, again_seconds)

    def _last_phase(self, favourites: Sequence[Trial], baselines: Sequence[Trial]) -> LastPhase:
        """The evaluate phase if nothing more is compared, or one of the favourites is and wins."""
        known = {trial.candidate for trial in baselines}
        others = sorted((trial for trial in favourites if trial.candidate not in known), key=lambda trial: trial.macs)
        longest_seconds = max(self.costs.fit_seconds.values(), default=0.0)
        fit_seconds = longest_seconds + self.costs.fit_seconds.get(repr(PLAIN), longest_seconds)
        for trial in baselines:
            fit_seconds += longest_seconds if trial in favourites else self._chosen_seconds(trial.candidate)
        return self._phase_of([trial.candidate for trial in [*others[-1:], *baselines]], fit_seconds)

    def _phase_of(self, candidates: Iterable[Candidate], fit_seconds: float) -> LastPhase:
        tested = {candidate: self._relative(candidate) for candidate in candidates}
        again = [share for candidate, share in tested.items() if not self._has_features(candidate)]
        return LastPhase(sum(tested.values()), sum(again), fit_seconds, len(tested))

    def chosen_seconds(self, choices: Mapping[str, Choice]) -> float:
        """What the evaluate phase needs for what `choose` returned."""
        candidates = {choice.candidate for choice in choices.values()}
        fit_seconds = sum(map(self._chosen_seconds, candidates))
        fit_seconds += ("largest_plain_head" in choices) * self.costs.fit_seconds.get(repr(PLAIN), 0.0)
        return self.evaluate_seconds(self._phase_of(candidates, fit_seconds))

    def _relative(self, candidate: Candidate) -> float:
        """What an image takes in this subnet, in units of the largest."""
        return self.costs.relative(macs_share(self.scoring, candidate.subnet))

    def _has_features(self, candidate: Candidate) -> bool:
        """Whether features of the target are at hand: none of a part of it, beyond memory, or from before a kill."""
        return self.scoring.validation is None and (candidate, id(self.scoring.fitted)) in self._kept

    def _chosen_seconds(self, candidate: Candidate) -> float:
        """One fit of the head that is best on a candidate so far; where none was compared, it keeps a closed form."""
        units = {repr(head): self._done.get((candidate, repr(head)), []) for head in self.comparison.heads}
        best = {head: max(map(merit, unit)) for head, unit in units.items() if unit}
        return self.costs.fit_seconds.get(max(best, key=best.__getitem__), 0.0) if best else 0.0

    def tail_seconds(self, finished: int) -> float:
        """What must be left when the search ends, see `HeadCosts`."""
        return self.costs.tail_seconds(finished, most=self.most, evaluate_seconds=self.evaluate_seconds())

    def choose(
        self, trials: Sequence[Trial], limits: Limits, earlier: Sequence[Candidate] = (),
        keep_seconds: Callable[[Candidate], float] = lambda winner: 0.0,
    ) -> dict[str, Choice]:  # fmt: skip
        """The winner and every baseline with their heads: winner, smallest, largest, largest_plain_head, random.

        And largest_normalised, where the winner's norms or calibration are others and there was time to compare heads.

        Args:
            earlier: winners before the run was extended; they stand for election again, whatever was found since.
            keep_seconds: besides the test's, what must be left where this one wins.

        Raises:
            WorkError: no trial within the limits has a score. Interrupted: as `Session.tick`.
        """
        ranked = best_first(list(trials))
        within = limits.kept_by(ranked)
        baselines = {kind: scored_as(kind, trials, ranked) for kind in ("smallest", "largest")}
        baselines["random"] = next((t for t in within if t.kind == "random"), None)
        former, largest = [trial for trial in within if trial.candidate in earlier], baselines["largest"]
        others = [trial for trial in baselines.values() if trial is not None]
        finalists = self._compare_finalists(within, others, former, largest, keep_seconds)
        winner = self._favourite([*finalists, *former])
        found = {"winner": self.best_of(winner)}
        other = normalised.normalised(largest, winner.candidate, self.scoring.cost_of)
        if other is not None and self._tried(other.candidate):
            baselines[normalised.ROLE] = other
        found |= {kind: self.best_of(trial) for kind, trial in baselines.items() if trial is not None}
        return found if largest is None else {**found, "largest_plain_head": self._plain(largest)}

    def _favourite(self, finalists: Sequence[Trial]) -> Trial:
        """Who would win now.

        A value of folds and one of leave-one-out do not compare: only those that had time stand for election.
        """
        tried = [trial for trial in finalists if self._tried(trial.candidate)] or finalists[:1]
        return max(tried, key=lambda trial: merit(self.best_of(trial)))

    def _compare_finalists(
        self, within: list[Trial], baselines: list[Trial], former: list[Trial], largest: Trial | None,
        keep_seconds: Callable[[Candidate], float],
    ) -> list[Trial]:  # fmt: skip
        """Heads for the best candidates and the baselines; what time a limit leaves goes to the next best ones.

        Args:
            former: stand for election besides.
            largest: is compared with the norms of the favourite too.
            keep_seconds: as `choose` takes it.
        """

        def kept_seconds(*trial: Trial) -> float:
            """What comes after needs, whether this one or the favourite wins."""
            either = [self._favourite([*finalists, *former]), *trial]
            more_seconds = max(keep_seconds(one.candidate) for one in either)
            other = normalised.normalised(largest, either[0].candidate, self.scoring.cost_of)
            tested = baselines if other is None else distinct([*baselines, other])
            return self.evaluate_seconds(self._last_phase(either, tested)) + more_seconds

        count = self.comparison.count
        finalists = within[:count]
        order = distinct([within[0], *baselines, *finalists[1:]])
        heads = self.comparison.heads
        for number, trial in enumerate(order):
            self._try(trial.candidate, heads, number / len(order), keep_seconds=kept_seconds(trial))
        favourite = self._favourite([*finalists, *former])
        other = normalised.normalised(largest, favourite.candidate, self.scoring.cost_of)
        if other is not None:
            self._try(other.candidate, heads, 1.0, keep_seconds=kept_seconds(other))
        if self.session.ledger.limit_seconds is None:
            return finalists
        for trial in within[count:]:
            if not self._try(trial.candidate, heads, 1.0, keep_seconds=kept_seconds(trial)):
                break
            finalists.append(trial)
        self._tell_refused(kept_seconds(), "the test")
        return finalists

    def _tell_refused(self, kept_seconds: float, kept: str) -> None:
        """Say how many comparisons were not started since it was last said."""
        if self._refused:
            left_seconds = self.session.ledger.remaining()
            self.session.watcher.say(comparisons_not_started(self._refused, left_seconds, kept_seconds, kept))
        self._refused.clear()

    def fit(
        self, choice: Choice, features_ND: Tensor, labels_N: Tensor,
        *, checkpoint: Checkpoint | None = None, progress: Progress = unseen,
    ) -> Head:  # fmt: skip
        """The chosen head, fitted to all of these images.

        Args:
            features_ND: as `features_to_fit` gives them.
            labels_N: of the images, each once.
            checkpoint, progress: as `fit_head` takes them.
        """
        return self.crops.fit(
            choice.head, features_ND, labels_N, self.scoring.fitted.num_classes, choice.setting, self._penalties,
            checkpoint=checkpoint, progress=progress,
        )  # fmt: skip

    @property
    def compared_images(self) -> int:
        """Images that heads were fitted to when they were compared."""
        images = len(self.scoring.fitted)
        return images - images // self._folds if self.scoring.validation is None else images

    def _tried(self, candidate: Candidate) -> list[Choice]:
        """The best of every head that has been compared for a candidate; the plain head is no choice of its own."""
        units = [self._done.get((candidate, repr(head)), []) for head in self.comparison.heads]
        return [choice for unit in units for choice in unit]

    def best_of(self, trial: Trial) -> Choice:
        """The best head tried with its candidate; where none was, the one that ranked it."""
        if tried := self._tried(trial.candidate):
            return max(tried, key=merit)
        head = next(head for head in self.scoring.heads if head.name == trial.head)
        return Choice.of_trial(trial, head, head.estimator if self.scoring.validation is None else "holdout")

    def _plain(self, largest: Trial) -> Choice:
        """The unweighted head; where there was no time to compare its penalties, the middle one, held out nowhere."""
        unit = self._done.get((largest.candidate, repr(PLAIN)))
        if unit is not None:
            return unit[0]
        penalties = sorted(self._penalties)
        return Choice.untried(largest.candidate, PLAIN, penalties[len(penalties) // 2])

    def _try(self, candidate: Candidate, heads: Sequence[Named], done: float, *, keep_seconds: float) -> bool:
        """Compare every head of `heads` on a candidate that is not done and still fits; False if one did not fit.

        `keep_seconds` are kept from it, for what comes after.
        """
        everything, features = True, None
        for head in heads:
            if (candidate, repr(head)) in self._done:
                continue
            expected = self.costs.compare_seconds(repr(head))
            if (candidate, id(self.scoring.fitted)) not in self._kept:
                expected += self._relative(candidate) * self.costs.features_seconds()
            if expected > self.session.ledger.remaining() - keep_seconds:
                self._refused.append(expected)
                everything = False
                continue
            try:
                features = features or self._features(candidate)
                choices = self._compare(candidate, head, *features)
            except FAILURES as error:
                self.session.watcher.say(f"{head_name(head)} on {candidate.subnet} failed: {Problem.of(error).reason}")
                continue
            self._keep(candidate, repr(head), choices)
            line = {"unit": head, "choices": [choice.to_line() for choice in choices]}
            self.session.run.append_line(FILE, line)
            best = max(choices, key=merit)
            self._progress, self._detail = done, f"{head_name(best.head)} {best.value:.3f} on {candidate.subnet}"
            self.session.tick(PHASE, self._progress, self._detail)
        return everything

    def _keep(self, candidate: Candidate, head: str, choices: list[Choice]) -> None:
        self._done[candidate, head] = choices
        self.costs = self.costs.having_compared(head, choices[0].seconds)

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
        scoring, start = self.scoring, self.session.clock()
        labels_N, num_classes = scoring.fitted.labels_N.to(scoring.device), scoring.fitted.num_classes
        if held_MD is None:
            truth_M, estimator = scoring.fitted.labels_N, f"{self._folds}-fold"
            found = by_folds(
                head, fitted_ND, labels_N, num_classes,
                penalties=self._penalties, folds=self._folds, seed=self.comparison.seed, between=self._between,
            )  # fmt: skip
        else:
            assert scoring.validation is not None
            truth_M, estimator = scoring.validation.labels_N, "holdout"
            found = by_holdout(
                head, fitted_ND, labels_N, held_MD, truth_M, num_classes,
                penalties=self._penalties, between=self._between,
            )  # fmt: skip
        best = best_settings(found, truth_M, scoring.class_counts_K, scoring.objective)
        seconds = self.session.clock() - start
        return [
            Choice(candidate, one.head, one.setting, value, one.balanced_loss, shown(metrics), estimator, seconds)
            for value, one, metrics in best
        ]
