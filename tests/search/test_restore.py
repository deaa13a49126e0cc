"""A journal against the rows: damage anywhere, rows that differ, a search that several processes shared."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from test_study import cost_of
from test_study_resume import TRIALS, going_on, halving, searched, undisturbed

from nasimb.errors import ResumeError
from nasimb.search.journal import BatchJournal, DamagedJournal
from nasimb.search.restore import whole_batches
from nasimb.search.study import SAMPLERS, Study
from nasimb.search.trial import Trial


def reopened(journal: Path, rows: list[Trial], sampler: str = "evolution") -> tuple[Study, list[str]]:
    said: list[str] = []
    return Study(searched(sampler, None), cost_of, journal=journal, trials=rows, warn=said.append), said


def told_to(journal: Path) -> list[tuple[object, ...]]:
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    trials = optuna.load_study(study_name="nasimb", storage=storage).trials
    return [(trial.number, trial.state, trial.values, trial.params) for trial in trials]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_journal_damaged_anywhere_is_written_anew_and_the_search_goes_on_as_it_would_have(
    tmp_path: Path, sampler: str
) -> None:
    journal, rng = tmp_path / "study.journal", random.Random(0)
    rows = going_on(searched(sampler, None), journal, [], 47)
    whole, before = journal.read_bytes(), told_to(journal)
    for _ in range(6):
        changed = bytearray(whole)
        changed[rng.randrange(len(whole) // 2)] ^= 1 << rng.randrange(8)
        journal.write_bytes(changed)
        study, said = reopened(journal, rows, sampler)
        assert len(said) == 1
        assert "study.journal is written anew from trials.csv" in said[0]
        assert rows + list(study.run(halving(rows), len, TRIALS)) == undisturbed(sampler, None)
        assert told_to(journal)[: len(before)] == before
        assert reopened(journal, undisturbed(sampler, None), sampler)[1] == []


def test_a_journal_that_says_otherwise_than_the_rows_is_written_anew(tmp_path: Path) -> None:
    journal = tmp_path / "study.journal"
    rows = going_on(searched("evolution", None), journal, [], 47)
    others = [replace(row, screen_score=0.5) if row.number == 3 else row for row in rows]
    study, said = reopened(journal, others)
    assert "trial 3 is not that of its row" in said[0]
    assert told_to(journal)[3][2] == [0.5]
    assert study.trials == others[: len(study.trials)]


def test_a_journal_that_lacks_more_than_a_kill_can_take_is_written_anew(tmp_path: Path) -> None:
    journal = tmp_path / "study.journal"
    rows = going_on(searched("evolution", None), journal, [], 47)
    journal.unlink()
    _, said = reopened(journal, rows)
    assert "it has 0 trials for 48 rows" in said[0]
    _, said = reopened(journal, rows)
    assert said == []


def test_rows_that_the_journal_has_told_are_not_given_up_silently(tmp_path: Path) -> None:
    journal = tmp_path / "study.journal"
    rows = going_on(searched("evolution", None), journal, [], 47)
    with pytest.raises(ResumeError, match=r"5 rows for 44 trials told.*delete .*study\.journal"):
        reopened(journal, rows[:5])
    journal.unlink()
    study, _ = reopened(journal, rows[:5])
    assert rows[:5] + list(study.run(halving(rows[:5]), len, TRIALS)) == undisturbed("evolution", None)


def test_a_shared_search_is_told_row_by_row(tmp_path: Path) -> None:
    journal = tmp_path / "study.journal"
    rows = going_on(searched("evolution", None), journal, [], 47)
    shared = [replace(row, worker="host-1") for row in rows]
    journal.unlink()
    study, _ = reopened(journal, shared)
    assert study.trials == shared
    assert len(told_to(journal)) == len(shared)


def test_a_torn_batch_is_cut_off_with_a_warning(tmp_path: Path) -> None:
    journal = tmp_path / "study.journal"
    rows = going_on(searched("tpe", None), journal, [], 47)
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":4,"wor')
    study, said = reopened(journal, rows, "tpe")
    assert len(said) == 1
    assert "the last batch was torn" in said[0]
    assert journal.read_bytes() == whole
    assert study.trials == rows[:44]


def test_every_batch_is_checked(tmp_path: Path) -> None:
    journal = tmp_path / "study.journal"
    going_on(searched("tpe", None), journal, [], 47)
    lines = journal.read_bytes().splitlines(keepends=True)
    checks = [number for number, line in enumerate(lines) if b'{"check":' in line]
    assert len(checks) == 4  # of 2, 12, 28 and 44 trials
    for kept in ([*lines[:3], *lines[4:]], [*lines[: checks[0] + 1], *lines[checks[1] + 1 :]]):
        journal.write_bytes(b"".join(kept))
        with pytest.raises(DamagedJournal, match="must say what the run wrote"):
            BatchJournal(journal)


def test_whole_batches_end_where_the_next_begins() -> None:
    ends = {0: 2, 2: 12, 12: 28, 28: 44}
    found = [whole_batches(rows, ends.__getitem__) for rows in (0, 1, 2, 11, 12, 27, 28, 43)]
    assert found == [0, 0, 2, 2, 12, 12, 28, 28]
