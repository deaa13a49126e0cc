"""The search phase where several processes share it: as `nasimb.phases.search`, but answers come in any order.

The owner of the run alone proposes, writes rows and tells Optuna; workers score what they claim. The owner scores too
where no worker takes its device. Rows are written in order of their numbers: one that is late holds back the others'
lines in trials.csv, not their work, and what is answered and not written yet waits in the storage.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nasimb.phases.admission import candidates_not_started
from nasimb.phases.promotion import fitting_group, promotions_not_started
from nasimb.phases.sharing import Exchange
from nasimb.search import packets
from nasimb.search.candidate import Scoring
from nasimb.search.deadline import overdue_check
from nasimb.search.engine import Kept, evaluate_batch, kinds_of, promote
from nasimb.search.fleet import Ended, Fleet
from nasimb.search.predict import MARGIN, fitting, latest, predicted_seconds
from nasimb.search.screening import awaiting, chosen, full_seconds, promotion_macs, ranked
from nasimb.search.storage import StorageError, short_patience
from nasimb.search.study import Proposal, Study
from nasimb.search.trial import FAILED, FINISHED, SCREENED, Failure, Trial
from nasimb.session import Session

UNIT_SECONDS = 5.0
"""What candidates that travel together should take: short, for what a kill loses; long, for what a journey costs."""
AHEAD = 32
"""Candidates that are out at a time, in all units: the more, the less a proposal knows of those before it."""
POLL_SECONDS = 0.02
CLOSING_SECONDS = 2.0
"""For which a storage that is away is asked to tell workers that the search is over."""
ATTEMPTS = 2
"""A trial whose worker was lost is begun once more; it may be what killed the worker."""


class SharedSearch:
    """One search, shared.

    Args:
        keep_seconds: given how many trials are scored, what must be left to the owner for the phases after this one.
        exchange: tends local workers.
        show: shows where the search stands, and obeys signals; called between two units of work.
        kept: features of the part that screens, of candidates scored here.
    """

    def __init__(
        self, session: Session, scoring: Scoring, study: Study, fleet: Fleet, exchange: Exchange,
        *, max_trials: int | None, keep_seconds: Callable[[int], float], show: Callable[[], None], kept: Kept,
    ) -> None:  # fmt: skip
        self.session, self.scoring, self.study, self.fleet = session, scoring, study, fleet
        self.max_trials, self.keep_seconds, self.exchange = max_trials, keep_seconds, exchange
        self._show, self._kept = show, kept
        self._own_work = True
        self._results: dict[int, Trial] = {}
        self._taken: dict[int, Proposal] = {}
        self._attempts: dict[int, int] = {}
        self._promotions: list[Ended] = []
        for ended in fleet.adopt(self._still_asked):
            self._note(ended)
        for work in fleet.works():
            self._attempts |= packets.attempts_of(work)
            if work["task"] == packets.SCORE:
                self._taken |= {one.number: one for one in packets.proposals_of(work)}

    def _still_asked(self, work: Mapping[str, Any]) -> bool:
        """Whether a unit is about what the study asks under these numbers: its journal may have been made anew."""
        asked = packets.candidates_of(work)
        return all(self.study.candidate_of(number) == candidate for number, candidate in asked.items())

    def rows(self) -> Iterable[list[Trial]]:
        """New rows, to be written before the next are asked for, until the budget or the space is exhausted.

        Raises:
            StorageError: the storage was away for too long, and there is time left to go on when it is back.
        """
        try:
            yield from self._rows()
        except StorageError as error:
            if not self._over():
                raise
            self.session.watcher.say(f"The search ends with what it has: {error}")
            yield from self._last_rows()

    def _rows(self) -> Iterable[list[Trial]]:
        while True:
            self._serve()
            for ended in self.fleet.collect():
                self._note(ended)
            yield from self.study.settle(self._results)
            self._results = {n: trial for n, trial in self._results.items() if n >= len(self.study.trials)}
            while self._wants_more() and (group := self._group()):
                self._take(group)
                self.fleet.put(packets.score(group, self._seen_kinds(group), self._attempts))
            if self._own_work and (group := self._group()):
                self._take(group)
                self._settle(self._score(group))
            elif (self.fleet.out or self._results) and not self._over():
                time.sleep(POLL_SECONDS)
            else:
                for ended in self.fleet.collect():
                    self._note(ended)
                yield from self._last_rows()
                self._tell_refused()
                return

    def _last_rows(self) -> Iterable[list[Trial]]:
        """What is answered behind what is not, when there is no time to wait for that."""
        last = max(self._results, default=-1)
        for proposal in self.study.missing(last, self._results):
            self._settle([_given_up(proposal, self.study.question.seed)])
        yield from self.study.settle(self._results)

    def _tell_refused(self) -> None:
        """Say that the next candidate has to wait for a time that is not there."""
        if self.max_trials is not None and self.study.scored >= self.max_trials:
            return
        waiting = self.study.unclaimed(1, {*self._taken, *self._results})
        if waiting and len(self.study.trials) >= 2:
            keep = self.keep_seconds(self.study.scored + 1) + self._promotion_seconds(1)
            macs = [proposal.macs for proposal in waiting]
            line = candidates_not_started(macs, latest(self.study.trials), self._left(keep) + keep, keep)
            self.session.watcher.say(line)

    def promoted(self, trials: Sequence[Trial], cost: str | None) -> list[Trial]:
        """All trials, the best of those screened scored on all images by whoever is there; rows are written anew.

        Raises:
            StorageError: as `rows`.
        """
        found = {trial.number: trial for trial in trials}
        try:
            self._promote(found, cost)
        except StorageError as error:
            if not self._over():
                raise
            self.session.watcher.say(f"The search ends with what it has: {error}")
            self.session.run.replace_trials([trial.to_row() for trial in found.values()])
        return list(found.values())

    def _promote(self, found: dict[int, Trial], cost: str | None) -> None:
        """`promoted`, which go into `found` by number."""
        assert self.scoring.screen is not None
        works = [work for work in self.fleet.works() if work["task"] == packets.PROMOTE]
        out = {number for work in works for number in packets.numbers_of(work)}
        while True:
            self._serve()
            for one in self.fleet.collect():
                self._note(one)
            ended, self._promotions = self._promotions, []
            done = [trial for one in ended for trial in self._promoted(one, found)]
            found |= {trial.number: trial for trial in done}
            out -= {number for one in ended for number in packets.numbers_of(one.work)}
            best = chosen(ranked(list(found.values()), cost), self.scoring.screen.eta)
            waiting = [trial for trial in awaiting(best) if trial.number not in out]
            while waiting and self._wants_more() and (group := self._promotable(waiting, found)):
                self.fleet.put(packets.promote(group))
                out |= {trial.number for trial in group}
                waiting = waiting[len(group) :]
            if self._own_work and waiting and (group := self._promotable(waiting, found)):
                seconds = MARGIN * full_seconds(sum(trial.macs for trial in group), list(found.values()))
                mine = promote(
                    self.scoring, group, clock=self.session.clock, kept=self._kept, between=self._between(seconds)
                )  # fmt: skip
                found |= {trial.number: trial for trial in mine}
                done += mine
            if done:
                self.session.run.replace_trials([trial.to_row() for trial in found.values()])
            elif self.fleet.out and not self._over():
                time.sleep(POLL_SECONDS)
            else:
                if waiting:
                    keep = self.keep_seconds(self.study.scored)
                    line = promotions_not_started(waiting, list(found.values()), self._left(keep), keep)
                    self.session.watcher.say(line)
                return

    def _promoted(self, ended: Ended, found: dict[int, Trial]) -> list[Trial]:
        """What became of trials that were to be scored on all images."""
        if ended.answer is not None:
            answered = packets.trials_of_packet(ended.answer)
            return [trial for trial in answered if found[trial.number].state == SCREENED]
        again = []
        for number in packets.numbers_of(ended.work) if ended.lost else ():
            attempt = found[number].attempt + 1
            again.append(replace(found[number], attempt=min(attempt, ATTEMPTS)))
            if attempt > ATTEMPTS:
                again[-1] = replace(again[-1], failure=Failure.LOST_WORKER, reason=_LOST_TWICE)
        return again

    def _promotable(self, waiting: Sequence[Trial], found: dict[int, Trial]) -> list[Trial]:
        hands = max(self.fleet.size + self._own_work, 1)
        share = waiting[: max(1, min(AHEAD, -(-len(waiting) // hands)))]
        return fitting_group(share, list(found.values()), self._left(self.keep_seconds(self.study.scored)))

    def close(self) -> None:
        """Send everybody home; where the storage is away just now, they find out by themselves."""
        try:
            with short_patience(self.fleet.queue.reaching, CLOSING_SECONDS):
                self.fleet.close()
        except StorageError as error:
            self.session.watcher.say(f"Workers elsewhere were not told that the search is over: {error}")
        self.exchange.leave()

    def _serve(self, *, busy: bool = False) -> None:
        """Hear everybody. `busy`: with a unit under way here, for which this process goes on to pay."""
        keep = self.exchange.keep_seconds = self.keep_seconds(self.study.scored)
        self._own_work = self.exchange.tend(self._left(keep), busy=busy)
        self.fleet.serve(keep)
        self._show()

    def _between(self, predicted_seconds: float) -> Callable[[], None]:
        """What is to be called between two steps of work done here that begins now."""
        keep = self.keep_seconds(self.study.scored)
        check = overdue_check(self.session.clock, predicted_seconds, lambda: self._left(keep))

        def between() -> None:
            self._serve(busy=True)
            for ended in self.fleet.collect():
                self._note(ended)
            check()

        return between

    def _note(self, ended: Ended) -> None:
        """Keep an answer; where there is none, the trials are to be begun again."""
        if ended.work["task"] == packets.PROMOTE:
            self._promotions.append(ended)
            return
        if ended.answer is not None:
            self._settle(packets.trials_of_packet(ended.answer))
            return
        for proposal in packets.proposals_of(ended.work):
            self._taken.pop(proposal.number, None)
            attempt = packets.attempts_of(ended.work)[proposal.number]
            if ended.lost and attempt >= ATTEMPTS:
                self._settle([_lost(proposal, ended, self.study.question.seed)])
            else:
                self._attempts[proposal.number] = attempt + ended.lost

    def _settle(self, trials: Iterable[Trial]) -> None:
        for trial in trials:
            self._taken.pop(trial.number, None)
            if trial.number >= len(self.study.trials):
                self._results.setdefault(trial.number, trial)

    def _take(self, group: Sequence[Proposal]) -> None:
        self._taken |= {proposal.number: proposal for proposal in group}

    def _score(self, group: Sequence[Proposal]) -> list[Trial]:
        """Score candidates here; a signal leaves them to be asked for again."""
        predicted = predicted_seconds([proposal.macs for proposal in group], latest(self.study.trials))
        kinds = self._seen_kinds(group)
        trials = evaluate_batch(
            self.scoring, group, kinds, seed=self.study.question.seed, clock=self.session.clock,
            kept=self._kept, between=self._between(predicted),
        )  # fmt: skip
        trials = [replace(trial, attempt=self._attempts.get(trial.number, 1)) for trial in trials]
        if self.fleet.out:  # rows of lower numbers may be missing, and until they come these are written nowhere else
            self.fleet.queue.deposit(packets.score(group, kinds, self._attempts), packets.answer(trials))
        return trials

    def _seen_kinds(self, group: Sequence[Proposal]) -> set[str]:
        """Kinds that were scored, or are being scored, under a lower number than the first of the group."""
        first = min(proposal.number for proposal in group)
        pending = {one.kind for one in self._taken.values() if one.number < first}
        return pending | kinds_of(self.study.trials) | kinds_of(t for n, t in self._results.items() if n < first)

    def _wants_more(self) -> bool:
        """Whether a worker would soon wait: for each there is a unit under way, and for short ones the next."""
        ahead = 2 if self._typical_seconds() < 1 else 1
        return self.fleet.size > 0 and self.fleet.out < ahead * self.fleet.size

    def _typical_seconds(self) -> float:
        seen = latest(self.study.trials)
        return sum(seconds for _, seconds in seen) / max(len(seen), 1)

    def _group(self) -> list[Proposal]:
        """The next candidates to be scored together; none where they would not fit into what is left."""
        scored = sum(trial.state in (FINISHED, SCREENED) for trial in self._results.values())
        room = max(2, AHEAD // max(self.fleet.size, 2))
        if self.max_trials is not None:
            room = min(room, self.max_trials - self.study.scored - scored - len(self._taken))
        if room <= 0:
            return []
        waiting = self.study.unclaimed(room, {*self._taken, *self._results})
        number = self._affordable([proposal.macs for proposal in waiting]) if waiting else 0
        return waiting[:number]

    def _affordable(self, macs: Sequence[int]) -> int:
        # The smallest and the largest are needed whatever they cost; a budget too small for them was refused before.
        if len(self.study.trials) + len(self._results) + len(self._taken) < 2:
            return min(len(macs), 2)
        seen = latest(self.study.trials)
        if not seen:
            return 1
        keep = self.keep_seconds(self.study.scored + len(macs)) + self._promotion_seconds(len(macs))
        left = self._left(keep)
        number = fitting(macs, seen, left)
        # What waits for a worker begins only when that is done with what it has.
        busy = self.fleet.out >= self.fleet.size
        while number > 1 and predicted_seconds(macs[:number], seen) > UNIT_SECONDS:
            number -= 1
        return 0 if busy and 2 * predicted_seconds(macs[:number], seen) > left else number

    def _over(self) -> bool:
        """Whether no time is left to wait for anybody: what is still out is taken back."""
        return self._left(self.keep_seconds(self.study.scored)) <= 0

    def _left(self, keep: float) -> float:
        return self.session.ledger.remaining(self.fleet.holding, keep_seconds=keep)

    def _promotion_seconds(self, more: int) -> float:
        """What promoting the best will take of everybody's time after `more` further candidates."""
        screen = self.scoring.screen
        if screen is None:
            return 0.0
        trials = self.study.trials
        macs = promotion_macs(ranked(trials, self.study.question.cost), screen.eta, more)
        return MARGIN * full_seconds(macs, trials) / max(self.fleet.size + self._own_work, 1)


_LOST_TWICE = f"its worker was lost {ATTEMPTS} times"


def _given_up(proposal: Proposal, seed: int) -> Trial:
    return Trial(
        number=proposal.number, state=FAILED, kind=proposal.kind, candidate=proposal.candidate, macs=proposal.macs,
        params=proposal.params, seed=seed, failure=Failure.TIMEOUT, reason="the time ended before its worker answered",
    )  # fmt: skip


def _lost(proposal: Proposal, ended: Ended, seed: int) -> Trial:
    return Trial(
        number=proposal.number, state=FAILED, kind=proposal.kind, candidate=proposal.candidate, macs=proposal.macs,
        params=proposal.params, seed=seed, worker=ended.worker, attempt=ATTEMPTS,
        failure=Failure.LOST_WORKER, reason=_LOST_TWICE,
    )  # fmt: skip
