"""Work that is predicted not to fit is not started, and one line says so."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

import nasimb.phases.promotion as promotion
import nasimb.phases.search as phase
from nasimb.phases.admission import not_started
from nasimb.phases.promotion import promote_best
from nasimb.phases.search import search
from nasimb.search.limits import Limits
from nasimb.search.screening import Screen
from nasimb.search.study import Proposal
from nasimb.search.trial import FINISHED, SCREENED, Candidate, Trial

Workshop = Callable[..., Any]
LINE = re.compile(
    r"not started: ([\d,]+) (\D+) of ~([\d.e-]+) s(?: each)?; ([\d.e-]+) s left for (.+) \(([\d.e-]+) s kept for (.+)\)"
)


def told(shop: Any) -> list[tuple[int, str, float, float, str, float, str]]:
    found = [LINE.fullmatch(line) for line in shop.watcher.lines if "not started" in line]
    assert all(found), shop.watcher.lines
    return [
        (int(m[1]), m[2], float(m[3]), float(m[4]), m[5], float(m[6]), m[7]) for m in found if m is not None
    ]  # fmt: skip


def taking(shop: Any, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Candidates of so many seconds each."""

    def evaluate_batch(scoring: Any, proposals: Sequence[Proposal], *args: Any, **options: Any) -> list[Trial]:
        shop.clock.now += seconds * len(proposals)
        return [
            Trial(number=p.number, kind=p.kind, candidate=p.candidate, macs=p.macs, params=p.params, seconds=seconds,
                  state=FINISHED, score=0.5) for p in proposals
        ]  # fmt: skip

    monkeypatch.setattr(phase, "evaluate_batch", evaluate_batch)


def test_candidates_that_do_not_fit_are_said_once_with_their_predicted_cost(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = workshop(limit=100.0)
    taking(shop, monkeypatch, 4.0)
    with shop.session.ledger.phase("search"):
        trials = search(
            shop.session, shop.scoring, shop.question, max_trials=None, reserve_seconds=lambda finished: 30.0
        )
    ((number, what, each, left, purpose, kept, kept_for),) = told(shop)
    assert (what, purpose, kept_for) == ("candidates", "the search", "heads and test")
    assert number > 1
    assert each == pytest.approx(4.0 * 1.1, abs=0.1), "what nine in ten stay below, and a tenth more"
    assert left == pytest.approx(100 - 30 - 4.0 * len(trials), abs=0.06)
    assert left < each
    assert kept == 30.0


def test_a_search_that_ends_by_its_trials_has_nothing_to_say(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = workshop(limit=1000.0)
    taking(shop, monkeypatch, 4.0)
    with shop.session.ledger.phase("search"):
        search(shop.session, shop.scoring, shop.question, max_trials=12, reserve_seconds=lambda finished: 30.0)
    assert told(shop) == []


@pytest.mark.parametrize(("seconds", "left_out"), [(0.0, 3), (50.0, 2), (1e4, 0)])
def test_promotions_that_do_not_fit_are_said(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, seconds: float, left_out: int
) -> None:
    """Those seen took 10 s for 1,000 MACs, so that 3,000 MACs take 30 s, and 33 with the margin."""
    shop = workshop(limit=1e5)
    part_M = torch.arange(0, len(shop.scoring.fitted), 2)
    scoring = replace(shop.scoring, screen=Screen(part_M, None, eta=2))
    space = shop.ground.space
    done = Trial(number=0, kind="smallest", candidate=Candidate(space.smallest(), "source"), macs=1000, params=1,
                 seconds=10.0, state=FINISHED, score=0.1, screen_score=0.1)  # fmt: skip
    waiting = [
        replace(done, number=n, kind="random", candidate=Candidate(space.largest(), f"{n}"), macs=3000, state=SCREENED,
                score=None, screen_score=0.5) for n in range(1, 6)
    ]  # fmt: skip

    def promote(scoring: Any, group: Sequence[Trial], **options: Any) -> list[Trial]:
        shop.clock.now += 30.0 * len(group)
        return [replace(trial, state=FINISHED, score=0.5, seconds=30.0) for trial in group]

    monkeypatch.setattr(promotion, "promote", promote)
    with shop.session.ledger.phase("search"):
        promote_best(
            shop.session, scoring, [done, *waiting], None, {}, seconds=seconds, show=lambda trials: lambda: None
        )
    if not left_out:
        assert told(shop) == []
        return
    ((number, what, each, left, _, kept, _),) = told(shop)
    assert (number, what) == (left_out, "promotions")
    assert each == 33.0
    assert left == pytest.approx(seconds - 30.0 * (3 - left_out))
    assert kept == pytest.approx(1e5 - seconds)


def test_comparisons_of_heads_that_do_not_fit_are_one_line(workshop: Workshop) -> None:
    shop = workshop(limit=100.0)
    trials = search(shop.session, shop.scoring, shop.question, max_trials=6, reserve_seconds=lambda finished: 0.0)
    shop.work.measure_largest(Candidate(shop.ground.space.largest(), "source"))
    assert told(shop) == []
    heads = {head: 5.0 for head in shop.work.costs.heads}
    shop.work.costs = replace(shop.work.costs, compared_seconds=heads, image_seconds=0.0, calibrate_seconds=0.0)
    with shop.session.ledger.phase("head"):
        reserved = shop.work.evaluate_seconds()
        shop.clock.now += 96.0 - reserved
        shop.work.choose(trials, Limits())
    ((number, what, each, left, purpose, kept, kept_for),) = told(shop)
    assert (what, each, purpose, kept_for) == ("comparisons of heads", 5.0, "heads", "the test")
    assert number >= 2 * 2
    # Now that it is known what is tested, less is kept than was reserved, and that is left too.
    assert left + kept == pytest.approx(4.0 + reserved, abs=0.06)
    assert kept < reserved


def test_short_and_long_times_are_readable() -> None:
    line = not_started("candidate", 1, 0.0123, -3.0, purpose="the search", kept_seconds=1234.5, kept="heads and test")
    assert line == "not started: 1 candidate of ~0.012 s; 0 s left for the search (1234 s kept for heads and test)"
