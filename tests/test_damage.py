"""Damaged run folders: what is read is what was written (a repair is said), or it is refused in a sentence."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_pipeline import Listener, StopAfter, essence, rows
from tiny_run import DATA, tiny_config

from nasimb import assemble
from nasimb.budget import Budget
from nasimb.config import RunConfig
from nasimb.errors import Interrupted, NasimbError
from nasimb.export import load as load_model
from nasimb.ledger import Ledger, read_account
from nasimb.phases.supernet import load as load_supernet
from nasimb.pipeline import run_search
from nasimb.report import Run
from nasimb.report.show import closing_lines
from nasimb.report.status import status_lines
from nasimb.report.tables import models, pareto, spend
from nasimb.rundir import RunDir, environment
from nasimb.search.study import Proposal, Study
from nasimb.search.trial import Trial, trials_of

TRIALS = 30
PROBE = {"precision": "float32", "inference_precision": "float32", "step_seconds": 0.5, "trial_seconds": 0.25}
CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Folders:
    """One run at three moments, with what is needed to look into it."""

    config: RunConfig
    training: Path
    searching: Path
    finished: Path
    ground: Any
    scoring: Any
    table: list[Trial]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    top = tmp_path_factory.mktemp("runs")
    config = tiny_config(top, data={**DATA, "digits": (0, 1, 2, 3, 4)}, budget=f"{TRIALS}trials")
    run_search(config, top / "finished")
    with pytest.raises(Interrupted):
        run_search(config, top / "training", stop=StopAfter(4))
    searching = top / "searching"

    def in_second_batch() -> int:
        table = searching / "trials.csv"
        return 15 if table.exists() and table.read_bytes().count(b"\n") > 13 else 0

    with pytest.raises(Interrupted):
        run_search(config, searching, stop=in_second_batch)
    RunDir(searching).write_json("probe.json", PROBE)
    ground = assemble.load_ground(config, CPU)
    frozen = load_supernet(searching / "supernet", CPU)
    scoring, table = assemble.make_scoring(config, ground, frozen), trials_of(RunDir(top / "finished"))
    return Folders(config, top / "training", searching, top / "finished", ground, scoring, table)


# ------------------------------------------------------------------------------------------ what is read, and for what

Said = Callable[[str], None]


def reported(folders: Folders, folder: Path, say: Said) -> Any:
    run = Run.read(folder)
    tables = [table(run).to_dict() for table in (models, pareto, spend)]
    return tables, status_lines(replace(run, name="run")), closing_lines(run, Path("run"))


def answered(folders: Folders, folder: Path, say: Said) -> Any:
    watcher = Listener()
    result = run_search(folders.config, folder, watcher=watcher)
    for line in watcher.lines:
        if "is finished" not in line:
            say(line)
    return {key: value for key, value in result.items() if key != "check"}


def predicting(folders: Folders, folder: Path, say: Said) -> Any:
    model = load_model(folder / "best")
    return numbers(model.state_dict()), str(model.description)


def opened(folders: Folders, folder: Path, say: Said) -> Any:
    run = RunDir(folder)
    with run.claimed():
        assert run.open_with(folders.config.to_dict(), environment("cpu", []), say)
    return run


def held(folders: Folders, folder: Path, say: Said) -> Any:
    run = opened(folders, folder, say)
    found = {name: run.read_json(f"{name}.json") for name in ("environment", "splits", "probe")}
    return json.dumps(found), json.dumps(run.config())


def spent(folders: Folders, folder: Path, say: Said) -> Any:
    run = opened(folders, folder, say)
    account = Ledger(run.ledger, lambda: 0.0, Budget.parse(folders.config.budget), warn=say).account()
    assert read_account(run.ledger) == pytest.approx(account)
    return {charge: round(seconds, 4) for charge, seconds in account.items()}


def searched(folders: Folders, folder: Path, say: Said) -> Any:
    """Every trial of the search when it has gone on to its end: those proposed are scored as in an undisturbed run."""
    run = opened(folders, folder, say)
    question = assemble.make_question(folders.config, folders.ground)

    def evaluate(proposals: list[Proposal]) -> list[Trial]:
        return [folders.table[proposal.number] for proposal in proposals]

    cost_of = folders.scoring.cost_of
    study = Study(question, cost_of, journal=run.journal, trials=trials_of(run), warn=say)
    for new in study.batches(evaluate, len, TRIALS):
        asked = [folders.table[trial.number].candidate for trial in new]
        assert [trial.candidate for trial in new] == asked
        run.append_trials([trial.to_row() for trial in new])
    assert trials_of(run) == study.trials
    return [replace(trial, seconds=0.0) for trial in study.trials]


def compared(folders: Folders, folder: Path, say: Said) -> Any:
    return opened(folders, folder, say).read_lines("heads.jsonl")


def network(folders: Folders, folder: Path, say: Said) -> Any:
    frozen = load_supernet(folder / "supernet", CPU)
    state = {**frozen.supernet.state_dict(), "images": frozen.source_images_BCHW}
    return numbers(state), sorted(frozen.source_hashes), frozen.info


def trained(folders: Folders, folder: Path, say: Said) -> Any:
    training = assemble.new_training(folders.config, folders.ground, None)
    training.resume(folder / "supernet")
    training.save(folder / "again")
    return (folder / "again" / "training.safetensors").read_bytes()


def numbers(tensors: dict[str, torch.Tensor]) -> dict[str, list[Any]]:
    return {name: [str(tensor.dtype), tensor.tolist()] for name, tensor in tensors.items()}


Look = Callable[[Folders, Path, Said], Any]
READ: dict[tuple[str, str], tuple[Look, ...]] = {
    ("finished", "config.yaml"): (reported, answered),
    ("finished", "result.json"): (reported, answered),
    ("finished", "trials.csv"): (reported, answered),
    ("finished", "ledger.jsonl"): (reported, spent),
    ("finished", "environment.json"): (reported, answered, held),
    ("finished", "best/model.safetensors"): (predicting,),
    ("finished", "best/model.json"): (predicting,),
    ("finished", "supernet/supernet.safetensors"): (network,),
    ("searching", "config.yaml"): (held,),
    ("searching", "environment.json"): (held,),
    ("searching", "splits.json"): (held,),
    ("searching", "probe.json"): (held,),
    ("searching", "ledger.jsonl"): (spent,),
    ("searching", "ledger.mark"): (spent,),
    ("searching", "trials.csv"): (searched,),
    ("searching", "study.journal"): (searched,),
    ("searching", "heads.jsonl"): (compared,),
    ("searching", "supernet/supernet.safetensors"): (network,),
    ("searching", "supernet/calibration.safetensors"): (network,),
    ("training", "supernet/training.safetensors"): (trained,),
}
"""Moment of the run and file -> what reads it."""


# ------------------------------------------------------------------------------------------------------------ damage


def damaged(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """What one of many kinds of damage leaves of a file."""
    kind = rng.choice(("cut", "cut at a line", "flipped", "flipped", "flipped"))
    if kind == "cut":
        return kind, data[: rng.randrange(len(data))]
    if kind == "cut at a line":
        ends = [position + 1 for position, byte in enumerate(data) if byte == 10] or [0]
        return kind, data[: rng.choice([0, *ends])]
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        # Bits anywhere, and twice as often near the end, where the checks are.
        position = rng.randrange(len(data)) if rng.random() < 0.7 else -1 - rng.randrange(min(len(data), 40))
        changed[position] ^= 1 << rng.randrange(8)
    return kind, bytes(changed)


def caught(look: Callable[[], Any]) -> tuple[Any, NasimbError | None]:
    """What was found, or the sentence that refused to look."""
    try:
        return look(), None
    except NasimbError as error:
        return None, error


def outcome(folders: Folders, tmp_path: Path, seed: int, whole: dict[tuple[str, str, str], Any]) -> str:
    """What became of one case; raises AssertionError for a silent wrong answer, whatever else for a traceback."""
    rng = random.Random(seed)
    moment, name = rng.choice(list(READ))
    folder = tmp_path / str(seed)
    shutil.copytree(getattr(folders, moment), folder)
    file = folder / name
    kind, data = damaged(file.read_bytes(), rng)
    file.write_bytes(data)
    results = []
    for look in READ[moment, name]:
        said: list[str] = []
        found, refused = caught(lambda look=look, said=said: look(folders, folder, said.append))
        if refused is not None:
            assert "\n" not in str(refused)
            assert file.name in str(refused)
            assert refused.exit_code in (1, 2)
            results.append("refused")
            continue
        expected = whole[moment, name, look.__name__]
        if look is compared and found != expected:
            # Lines that a kill may have torn off: what they are about is compared again.
            assert kind.startswith("cut") or said, (seed, name, kind)
            assert found == expected[: len(found)], (seed, name, kind)
        elif look is spent and found != expected:
            # The end of a ledger without a mark for it is the last beat.
            assert said, (seed, name, kind)
            lacking = sum(expected.values()) - sum(found.values())
            # Either side of a charge is rounded to 1e-4 s, from figures that the file holds to 1e-6 s.
            assert -1.01e-4 * len(expected) <= lacking <= 1.5, (seed, name, kind, lacking)
        else:
            assert found == expected, (seed, moment, name, kind, said)
        assert all("\n" not in line for line in said)
        results.append("repaired" if said else "unharmed")
        silence: list[str] = []
        if look in (searched, spent, held, compared):
            look(folders, folder, silence.append)
            assert silence == [], (seed, name, "a repair is done once")
    shutil.rmtree(folder)
    return next((result for result in ("refused", "repaired") if result in results), "unharmed")


@pytest.fixture(scope="module")
def whole(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], Any]:
    """What every look finds in folders that are not damaged."""
    found = {}
    for (moment, name), looks in READ.items():
        for look in looks:
            folder = tmp_path_factory.mktemp("whole") / "run"
            shutil.copytree(getattr(folders, moment), folder)
            said: list[str] = []
            found[moment, name, look.__name__] = look(folders, folder, said.append)
            assert said == []
    return found


@pytest.mark.parametrize(
    "seeds",
    [range(40), pytest.param(range(40, 540), marks=pytest.mark.slow)],
    ids=["few", "500"],
)
def test_a_damaged_file_is_repaired_or_refused(
    folders: Folders, whole: dict[tuple[str, str, str], Any], tmp_path: Path, seeds: range
) -> None:
    counts = Counter(outcome(folders, tmp_path, seed, whole) for seed in seeds)
    assert sum(counts.values()) == len(seeds)
    assert counts["refused"] > 0
    assert counts["repaired"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ledger.jsonl", "trials.csv", "heads.jsonl", "study.journal", "supernet.safetensors"])
def test_a_run_that_goes_on_after_damage_ends_as_if_undamaged(folders: Folders, tmp_path: Path, name: str) -> None:
    expected = essence(run_search(folders.config, folders.finished))
    finished = 0
    for seed in range(6):
        folder, rng = tmp_path / str(seed), random.Random(seed)
        shutil.copytree(folders.searching, folder)
        (file,) = folder.rglob(name)
        file.write_bytes(damaged(file.read_bytes(), rng)[1])
        result, refused = caught(lambda folder=folder: run_search(folders.config, folder))
        if refused is not None:
            assert name in str(refused)
            continue
        finished += 1
        assert essence(result) == expected
        assert rows(folder) == rows(folders.finished)
    assert finished > 0 or name == "supernet.safetensors"


def test_what_can_be_made_again_is_made_again_once_it_is_deleted(folders: Folders, tmp_path: Path) -> None:
    """As the sentences that refuse a damaged file say."""
    folder = tmp_path / "run"
    shutil.copytree(folders.searching, folder)
    (folder / "trials.csv").write_bytes(b"".join((folder / "trials.csv").read_bytes().splitlines(True)[:8]))
    with pytest.raises(NasimbError, match=r"7 rows for 12 trials told.*delete .*study\.journal"):
        run_search(folders.config, folder)
    for name in ("study.journal", "environment.json", "heads.jsonl"):
        (folder / name).unlink()
    watcher = Listener()
    result = run_search(folders.config, folder, watcher=watcher)
    assert essence(result) == essence(run_search(folders.config, folders.finished))
    assert rows(folder) == rows(folders.finished)
    assert any("environment.json was missing" in line for line in watcher.lines)
