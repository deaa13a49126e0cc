"""A search killed anywhere goes on as if nothing had happened."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from test_study import cost_of, finished, question, tiny_space

from nasimb.errors import ResumeError
from nasimb.search.study import SAMPLERS, Proposal, Question, Study
from nasimb.search.trial import FAILED, FINISHED, INFEASIBLE, SCREENED, Trial

SPACE = tiny_space(resolutions=(8, 10, 12, 14))
TRIALS = 60


def halving(rows: Sequence[Trial]) -> Callable[[Sequence[Proposal]], list[Trial]]:
    """Screens everything and finishes what beats most of the trials before it, as the real search does."""
    before = [trial.screen_score for trial in rows if trial.state in (FINISHED, SCREENED)]

    def score(proposal: Proposal) -> Trial:
        if proposal.number % 11 == 5:
            return finished(proposal, state=FAILED, score=None, reason="NaN")
        screened = (hash(proposal.candidate.subnet.depths) + 7 * proposal.macs) % 101 / 101
        promoted = 3 * sum(other >= screened for other in before) <= len(before)
        before.append(screened)
        if promoted:
            return finished(proposal, score=screened + 0.1, screen_score=screened)
        return finished(proposal, state=SCREENED, score=None, screen_score=screened)

    return lambda proposals: [score(proposal) for proposal in proposals]


def going_on(asked: Question, journal: Path, rows: list[Trial], until: int | None) -> list[Trial]:
    """All rows of a process that is killed once it has written row `until`, before or after it went on."""
    study = Study(asked, cost_of, journal=journal, trials=rows)
    new: list[Trial] = []
    for trial in study.run(halving(rows), len, TRIALS):
        new.append(trial)
        if trial.number == until:
            break
    return [*rows, *new]


@functools.cache
def undisturbed(sampler: str, cost: str | None) -> list[Trial]:
    with TemporaryDirectory() as folder:
        return going_on(searched(sampler, cost), Path(folder) / "whole.journal", [], None)


def searched(sampler: str, cost: str | None) -> Question:
    return question(space=SPACE, sampler=sampler, cost=cost, calibrations=("source", "target-natural"))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("cost", [None, "macs"])
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kills=st.lists(st.tuples(st.integers(0, TRIALS), st.integers(0, 3)), max_size=4))
def test_rows_are_those_of_an_undisturbed_run(sampler: str, cost: str | None, kills: list[tuple[int, int]]) -> None:
    with TemporaryDirectory() as folder:
        journal, rows = Path(folder) / "killed.journal", []
        for until, lost in sorted(kills):
            told = len(rows)
            rows = going_on(searched(sampler, cost), journal, rows, until)
            # What the process had not written yet when it was killed; never what was told before.
            rows = rows[: max(told, len(rows) - lost)] if _untold(journal, rows, lost) else rows
        assert going_on(searched(sampler, cost), journal, rows, None) == undisturbed(sampler, cost)


def _untold(journal: Path, rows: list[Trial], lost: int) -> bool:
    marks = [line for line in journal.read_text().splitlines() if '"told"' in line] if journal.exists() else []
    return not marks or json.loads(marks[-1])["user_attr"]["told"] <= len(rows) - lost


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_journal_torn_anywhere_is_made_whole(tmp_path: Path, sampler: str) -> None:
    journal, asked = tmp_path / "study.journal", searched(sampler, None)
    rows = going_on(asked, journal, [], 44)
    whole = journal.read_bytes()
    for kept in (0, 10, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        journal.write_bytes(whole[:kept])
        assert going_on(asked, journal, rows, None) == undisturbed(sampler, None)


def read_by_optuna(journal: Path) -> optuna.Study:
    return optuna.load_study(study_name="nasimb", storage=JournalStorage(JournalFileBackend(str(journal))))


def test_the_journal_is_optunas_own_and_holds_every_trial_told(tmp_path: Path) -> None:
    journal = tmp_path / "study.journal"
    rows = going_on(question(space=SPACE), journal, [], 43)[:28]  # the batch of row 43 is not told
    trials = read_by_optuna(journal).trials
    assert [trial.value for trial in trials] == [row.screen_score for row in rows]
    assert [trial.params["stage1.width"] for trial in trials] == [row.candidate.subnet.widths[0] for row in rows]


def test_a_row_is_never_computed_again(tmp_path: Path) -> None:
    asked = searched("tpe", None)
    rows = going_on(asked, tmp_path / "study.journal", [], 20)
    again: list[int] = []

    def evaluate(proposals: Sequence[Proposal]) -> list[Trial]:
        again.extend(proposal.number for proposal in proposals)
        return halving(rows)(proposals)

    list(Study(asked, cost_of, journal=tmp_path / "study.journal", trials=rows).run(evaluate, len, TRIALS))
    assert min(again) == 21


def test_a_search_stopped_by_its_number_goes_on_with_a_larger_one(tmp_path: Path) -> None:
    asked, journal = searched("evolution", "macs"), tmp_path / "study.journal"
    rows: list[Trial] = []
    for most in (1, 2, 9, 30):
        study = Study(asked, cost_of, journal=journal, trials=rows)
        rows += study.run(halving(rows), len, most)
        assert study.trials == rows
        assert study.scored == most
    assert going_on(asked, journal, rows, None) == undisturbed("evolution", "macs")


def test_rows_of_another_search_are_refused(tmp_path: Path) -> None:
    journal = tmp_path / "study.journal"
    rows = going_on(searched("tpe", None), journal, [], 20)
    with pytest.raises(ResumeError, match="10 rows for 12 trials"):
        Study(searched("tpe", None), cost_of, journal=journal, trials=rows[:10])
    with pytest.raises(ResumeError, match="every trial"):
        Study(searched("tpe", None), cost_of, journal=journal, trials=[*rows[:3], *rows[4:]])
    going = Study(question(space=SPACE, seed=1), cost_of, journal=journal, trials=rows).run(halving(rows), len, 40)
    with pytest.raises(ResumeError, match="as trial 12"):
        next(going)


def test_everything_about_a_proposal_over_a_limit_survives_a_kill(tmp_path: Path) -> None:
    from nasimb.search.limits import Limits

    asked = question(space=SPACE, limits=Limits(max_params=40), sampler="nsga2")
    whole = going_on(asked, tmp_path / "whole", [], None)
    assert any(trial.state == INFEASIBLE for trial in whole)
    rows: list[Trial] = []
    for until in range(0, len(whole), 9):
        rows = going_on(asked, tmp_path / "killed", rows, until)
    assert going_on(asked, tmp_path / "killed", rows, None) == whole


def test_readers_see_every_row_of_a_search_that_ended_within_a_batch(tmp_path: Path) -> None:
    journal, asked, said = tmp_path / "study.journal", searched("evolution", "macs"), []
    study = Study(asked, cost_of, journal=journal)
    rows = list(study.run(halving([]), len, 30))
    whole = journal.read_bytes()
    study.show_rest()
    study.show_rest()
    found = read_by_optuna(journal)
    assert [trial.number for trial in found.trials] == [row.number for row in rows]
    assert found.metric_names == ["score", "macs"]
    for trial, row in zip(found.trials, rows, strict=True):
        assert trial.state.is_finished()
        assert trial.user_attrs["macs"] == row.macs
        assert trial.user_attrs["params"] == row.params
        assert trial.values == (None if row.screen_score is None else [row.screen_score, row.macs])
    # And who goes on finds what was there before, without a word.
    again = Study(asked, cost_of, journal=journal, trials=rows, warn=said.append)
    assert journal.read_bytes() == whole
    assert said == []
    assert rows + list(again.run(halving(rows), len, TRIALS)) == undisturbed("evolution", "macs")


def test_readers_see_a_search_that_ended_within_its_first_batch(tmp_path: Path) -> None:
    journal, asked, said = tmp_path / "study.journal", searched("evolution", "macs"), []
    study = Study(asked, cost_of, journal=journal)
    rows = list(study.run(halving([]), len, 1))
    assert not journal.exists(), "no batch is whole"
    study.show_rest()
    found = read_by_optuna(journal)
    assert [trial.number for trial in found.trials] == [row.number for row in rows]
    assert found.metric_names == ["score", "macs"]
    again = Study(asked, cost_of, journal=journal, trials=rows, warn=said.append)
    assert said == []
    assert rows + list(again.run(halving(rows), len, TRIALS)) == undisturbed("evolution", "macs")


def test_nothing_seems_to_run_for_ever_that_was_handed_out_and_never_scored(tmp_path: Path) -> None:
    journal, asked = tmp_path / "study.journal", searched("evolution", None)
    rows = going_on(asked, journal, [], 27)
    study = Study(asked, cost_of, journal=journal, trials=rows)
    study.unclaimed(1, ())
    assert list(study.settle({})) == []  # all of that batch are rows already
    handed_out = study.unclaimed(3, ())
    assert sum(not trial.state.is_finished() for trial in read_by_optuna(journal).trials) >= 3
    (answer,) = halving(rows)(handed_out[:1])
    results = {answer.number: answer}
    for settled in study.settle(results):
        rows += settled
    study.show_rest()
    found = read_by_optuna(journal).trials
    assert all(trial.state.is_finished() for trial in found)
    assert [trial.value for trial in found[: len(rows)]] == [row.screen_score for row in rows]
    assert not any(trial.values for trial in found[len(rows) :])
    again = Study(asked, cost_of, journal=journal, trials=rows)
    assert [proposal.number for proposal in again.unclaimed(2, ())] == [p.number for p in handed_out[1:]]
