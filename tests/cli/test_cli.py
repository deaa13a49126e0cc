"""The command line as a user meets it: every command, its exit code, its answer on stdout and its errors on stderr."""

from __future__ import annotations

import io
import json
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from answers import SEARCH, Command
from tiny_run import ASSIGNED, DATA

import nasimb

ROOT = Path(__file__).parents[2]
Pictures = Callable[..., Path]


# Searching


def test_search_prints_what_it_found_resumes_and_refuses_another_configuration(command: Command) -> None:
    first = command(*SEARCH, "--run", "run")
    assert first.code == 0, first.err
    result = json.loads(Path("run/result.json").read_text())
    assert f"{100 * result['winner']['test']['balanced_accuracy']:.1f} [" in first.out
    for told in ("winner", "largest, plain head", "smallest", "best of random", 'nasimb.load("run/best")'):
        assert told in first.out
    assert "searching" in first.err
    assert "searching" not in first.out, "progress belongs on stderr"

    again = command(*SEARCH, "--run", "run")
    assert (again.code, again.out) == (0, first.out)
    assert "run is finished" in again.err

    as_json = command(*SEARCH, "--run", "run", "--json")
    assert json.loads(as_json.out) == result

    other = command(*SEARCH, "--run", "run", "--seed", "3", "--max-macs", "1M")
    assert other.code == 2
    assert "seed: 3 instead of 0" in other.error
    assert "max_macs: 1000000 instead of None" in other.error


def test_the_run_folder_has_a_name_where_none_is_given(command: Command) -> None:
    assert command(*SEARCH, "--budget", "3trials").code == 0
    assert (Path("runs") / "digits-3trials-seed0" / "result.json").exists()


def test_a_folder_of_pictures_with_a_source_of_others(command: Command, write_digits: Pictures, tmp_path: Path) -> None:
    write_digits(tmp_path / "source", {"three": (3, 12), "four": (4, 12), "six": (6, 12)})
    photos = write_digits(tmp_path / "photos", {"one": (1, 14), "a|b": (0, 9), "rare": (2, 2)})
    (photos / "one" / "broken.png").write_bytes(b"\x89PNG not really")

    refused = command(*SEARCH, "--data", f"folder:{photos}", "--source", "folder:source", "--run", "run")
    assert refused.code == 2
    assert "broken.png" in refused.error
    assert not Path("run").exists(), "what is refused leaves nothing behind"

    found = command(
        *SEARCH, "--data", f"folder:{photos}", "--source", "folder:source", "--run", "run", "--skip-bad-images"
    )
    assert found.code == 0, found.err
    assert "1 files of the target could not be read and were left out" in found.out
    assert "broken.png" in found.out
    assert "Fewer than two training images: class 'rare'" in found.out
    assert "no test split" in found.out
    assert nasimb.load("run/best").classes == ("a|b", "one", "rare")


def test_the_target_as_source_is_said_and_held_out(command: Command, write_digits: Pictures, tmp_path: Path) -> None:
    write_digits(tmp_path / "photos", {"one": (1, 20), "two": (2, 12)})
    found = command(*SEARCH, "--data", "photos", "--source", "target", "--run", "run")
    assert found.code == 0, found.err
    assert "The super-network is trained on the target itself" in found.out
    assert yaml.safe_load(Path("run/config.yaml").read_text())["training"]["sampling"] == "natural"
    winner = json.loads(Path("run/result.json").read_text())["winner"]
    assert winner["validation"]["estimator"] == "holdout"


def test_a_supernet_is_trained_once_and_searched(command: Command) -> None:
    train = ("supernet", "train", "--source", "digits:5-9", "--space", "space.yaml", "--budget", "5s", "--out", "net",
             "--device", "cpu", "--set", "batch_size=16")  # fmt: skip
    first = command(*train)
    assert first.code == 0, first.err
    assert re.search(r"net: \d+ steps on digits:5-9", first.out)
    status = command("status", "net")
    assert status.out.startswith("net: finished")
    assert "--supernet" in status.out
    weights = Path("net/supernet.safetensors").read_bytes()
    again = command(*train)
    assert (again.code, again.out) == (0, first.out)
    assert Path("net/supernet.safetensors").read_bytes() == weights

    options = ("--config", "search.yaml", *(word for text in ASSIGNED for word in ("--set", text)))
    Path("search.yaml").write_text(yaml.safe_dump({"data": {**DATA, "digits": [0, 1, 2]}, "budget": "3trials"}))
    found = command("search", *options, "--supernet", "net", "--run", "run")
    assert found.code == 0, found.err
    assert not Path("run/supernet/supernet.safetensors").exists(), "nothing was trained again"
    assert nasimb.load("run/best").classes == ("0", "1", "2")


# Looking


def test_data_inspect_counts(command: Command, write_digits: Pictures, tmp_path: Path) -> None:
    write_digits(tmp_path / "photos", {"[red]one": (1, 24), "two": (2, 4)})
    found = command("data", "inspect", "photos")
    assert found.code == 0
    for told in ("[red]one", "24", "imbalance factor 6", "1 medium-shot", "1 few-shot", "No problem found"):
        assert told in found.out
    values = json.loads(command("data", "inspect", "photos/", "--json").out)
    assert {row["class"]: row["train"] for row in values["classes"]} == {"[red]one": 24, "two": 4}


def test_data_inspect_lists_every_problem(command: Command, write_digits: Pictures, tmp_path: Path) -> None:
    photos = write_digits(tmp_path / "photos", {"one": (1, 3), "two": (2, 1)})
    (photos / "none").mkdir()
    (photos / "one" / "notes.txt").write_text("no picture")
    found = command("data", "inspect", "photos")
    assert found.code == 2
    assert "notes.txt" in found.out
    assert "'none'" in found.out
    assert "Fewer than two training images: class 'two'" in found.out


def test_status_of_a_finished_and_of_an_interrupted_run(command: Command, finished_run: Path, tmp_path: Path) -> None:
    found = command("status", finished_run)
    assert found.code == 0
    assert "run: finished" in found.out
    assert "6 finished" in found.out
    shutil.copytree(finished_run, tmp_path / "half")
    (tmp_path / "half" / "result.json").unlink()
    half = command("status", "half")
    assert half.code == 0
    assert "not finished; the same command goes on" in half.out
    report = command("report", "half")
    assert report.code == 2
    assert "finished run" in report.error


@pytest.mark.parametrize("form", ["terminal", "markdown"])
def test_report_of_one_run(command: Command, finished_run: Path, form: str) -> None:
    found = command("report", finished_run, "--format", form)
    result = json.loads((finished_run / "result.json").read_text())
    assert found.code == 0
    for entry in (result["winner"], *result["baselines"].values()):
        assert f"{100 * entry['test']['balanced_accuracy']:.1f} [" in found.out.replace("\\", "")
    assert "best of random" in found.out
    for note in result["notes"]:
        assert note in found.out.replace("\\", "")


def test_report_for_programs(command: Command, finished_run: Path) -> None:
    result = json.loads((finished_run / "result.json").read_text())
    assert json.loads(command("report", finished_run, "--format", "json").out) == [result]
    table = pd.read_csv(io.StringIO(command("report", finished_run, finished_run, "--format", "csv").out))
    assert len(table) == 2 * (1 + len(result["baselines"]))
    winner = table[table["model"] == "winner"].iloc[0]
    assert winner["balanced_accuracy"] == result["winner"]["test"]["balanced_accuracy"]
    assert winner["few_low"] == result["winner"]["test"]["ci95"]["few"][0]
    assert np.isnan(winner["many"])


def test_report_of_two_runs_has_a_line_each(command: Command, finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "second")
    found = command("report", finished_run, "second", "--format", "markdown")
    assert found.code == 0
    assert len(re.findall(r"^\| (run|second) ", found.out, re.MULTILINE)) == 2 + 1  # and the heading


# Another target


@pytest.fixture
def few_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the work of choosing a penalty."""
    monkeypatch.setattr("nasimb.retrain.PENALTIES", (0.1, 0.01))
    monkeypatch.setattr("nasimb.retrain.FOLDS", 2)


@pytest.mark.usefixtures("few_fits")
def test_head_moves_a_winner_to_other_classes(command: Command, finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    best = (tmp_path / "run" / "best" / "model.safetensors").read_bytes()
    words = ("head", "--from", "run", "--data", "digits:5-9", "--device", "cpu")
    first = command(*words)
    assert first.code == 0, first.err
    for told in ("old head", "new head, plain", "new head, balanced_softmax", "knows 0 of the 5 classes"):
        assert told in first.out
    assert "saved in run/heads/001; run still means the old model" in first.out
    assert "Balanced accuracy, new head less old: " in first.out
    second = json.loads(command(*words, "--loss", "gda", "--json").out)
    assert second["saved"] == "run/heads/002"
    assert second["after"]["balanced_accuracy"] > second["before"]["balanced_accuracy"] == 0
    assert nasimb.load("run/heads/001").classes == tuple("56789")
    assert (tmp_path / "run" / "best" / "model.safetensors").read_bytes() == best
    taken = command(*words, "--out", "run/heads/001")
    assert taken.code == 2
    assert "run/heads/001" in taken.error


@pytest.mark.usefixtures("few_fits")
def test_head_on_a_folder_of_pictures(
    command: Command, finished_run: Path, write_digits: Pictures, tmp_path: Path
) -> None:
    write_digits(tmp_path / "photos", {"six": (6, 20), "seven": (7, 10)})
    found = command("head", "--from", finished_run / "best", "--data", "folder:photos", "--out", "new")
    assert found.code == 0, found.err
    model = nasimb.load("new")
    assert model.classes == ("seven", "six")
    assert set(model.predict(sorted(Path("photos").rglob("*.png"))).tolist()) <= {"six", "seven"}


# What is wrong is said in one line, and the exit code is 2


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory, write_digits: Pictures) -> Path:
    """A folder of data sets, each wrong in its own way."""
    top = tmp_path_factory.mktemp("bad")
    two = {"one": (1, 6), "two": (2, 6)}
    write_digits(top / "good", two)
    (write_digits(top / "empty_class", two) / "none").mkdir()
    write_digits(top / "one_class", {"one": (1, 6)})
    (write_digits(top / "broken", two) / "one" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (write_digits(top / "stray", two) / "two" / "notes.txt").write_text("not a picture")
    write_digits(top / "less_in_test" / "train", two)
    write_digits(top / "less_in_test" / "test", {"one": (1, 3)}, skip=10)
    write_digits(top / "more_in_test" / "train", two)
    write_digits(top / "more_in_test" / "test", {**two, "six": (6, 3)}, skip=10)
    write_digits(top / "leak" / "train", two)
    write_digits(top / "leak" / "test", two)
    images, labels = np.random.default_rng(0).integers(0, 256, (8, 8, 8), np.uint8), np.arange(8) % 2
    names = np.array(["a", "b"])
    np.savez(top / "range.npz", train_images=images, train_labels=labels + 1, class_names=names)
    np.savez(top / "shape.npz", train_images=images[0], train_labels=labels)
    np.savez(top / "dtype.npz", train_images=images.astype(np.float32), train_labels=labels)
    np.savez(top / "labels.npz", train_images=images, train_labels=labels[:5])
    np.savez(top / "pickled.npz", train_images=images, train_labels=np.array([object()] * 8))
    (top / "text.npz").write_text("not an archive")
    (top / "list.yaml").write_text("- 1\n")
    return top


WRONG_SEARCHES: list[tuple[str, list[str]]] = [
    ("--data folder:{bad}/nowhere", ["must exist", "nowhere"]),
    ("--data {bad}/nowhere", ["must exist", "nowhere"]),
    ("--data folder:{bad}/empty_class", ["every class must have an image", "'none'"]),
    ("--data folder:{bad}/one_class", ["at least two classes", "'one'"]),
    ("--data folder:{bad}/broken", ["broken.png", "--skip-bad-images"]),
    ("--data folder:{bad}/stray", ["notes.txt", "--skip-bad-images"]),
    ("--data folder:{bad}/less_in_test", ["must also stand in test", "'two'"]),
    ("--data folder:{bad}/more_in_test", ["must also stand in train", "'six'"]),
    ("--data folder:{bad}/leak", ["train", "test"]),
    ("--data folder:{bad}/good --source folder:{bad}/good", ["source"]),
    ("--data arrays:{bad}/range.npz", ["train_labels[1] = 2", "0..1"]),
    ("--data arrays:{bad}/shape.npz", ["[N, H, W]", "[8, 8]"]),
    ("--data arrays:{bad}/dtype.npz", ["uint8", "float32"]),
    ("--data arrays:{bad}/labels.npz", ["8 images and 5 labels"]),
    ("--data arrays:{bad}/pickled.npz", ["pickled"]),
    ("--data arrays:{bad}/text.npz", [".npz"]),
    ("--data cifar10:{bad}", ["cifar-10-batches-py", "--download"]),
    ("--data diggits", ["Did you mean 'digits'?"]),
    ("--data folder", ["folder:PATH"]),
    ("--source diggits", ["Did you mean 'digits'?"]),
    ("--budget 3", ["must have a unit", "30min"]),
    ("--budget 3weeks", ["'weeks'", "gpu-h"]),
    ("--budget 0min", ["must be positive"]),
    ("--budget 1gpu-h", ["needs a GPU", "cpu-h"]),
    ("--budget 1s", ["Give at least"]),
    ("--space digitsresnet", ["Did you mean 'digits-resnet'?"]),
    ("--space nowhere.yaml", ["must exist", "nowhere.yaml"]),
    ("--space {bad}/list.yaml", ["must hold a mapping"]),
    ("--sampler tpee", ["Did you mean 'tpe'?"]),
    ("--objective fewer", ["Did you mean 'few'?"]),
    ("--objective few,mac", ["Did you mean 'macs'?"]),
    ("--objective many", ["many"]),
    ("--calibration sauce", ["Did you mean 'source'?"]),
    ("--calibration source,sauce", ["Did you mean 'source'?"]),
    ("--calibration sauce --calibration source", ["Did you mean 'source'?"]),
    ("--calibration source,mixed --calibration mixed", ["Each calibration may be given once"]),
    ("--calibration mixed --calibration source --set calibration_images=1", ["2 independent images of the target"]),
    ("--profile stepp", ["profile", "'stepp'", "'step'"]),
    ("--validation loo", ["'leave-one-out'"]),
    ("--validation leave-one-out --source target", ["holdout"]),
    ("--imbalance-factor 0.5", ["imbalance_factor", "0.5"]),
    ("--max-macs 1K", ["smallest subnet", "1000"]),
    ("--max-params 10", ["smallest subnet", "limit of 10"]),
    ("--max-macs lots", ["50M", "'lots'"]),
    ("--device gpu", ["'gpu'", "cuda"]),
    ("--config nowhere", ["'nowhere'", "digits"]),
    ("--config nowhere.yaml", ["must exist"]),
    ("--supernet nowhere", ["nowhere"]),
    ("--set heads.fold=3", ["'heads.fold'", "Did you mean 'folds'?"]),
    ("--set head.folds=3", ["Did you mean 'heads'?"]),
    ("--set heads.folds", ["key=value"]),
    ("--set heads.folds=[", ["YAML", "'['"]),
    ("--set heads.folds=x", ["heads.folds", "'x'", "integer"]),
    ("--set heads.folds=1", ["heads.folds", "greater than or equal to 2"]),
    ("--set heads.ranking=[rigde]", ["Did you mean 'ridge'?"]),
    ("--set heads.finalists=[focall]", ["Did you mean 'focal'?"]),
    ("--set budget.x=3", ["'budget.x'"]),
    ("--set training.learning_rate=-1", ["training.learning_rate"]),
    ("--budgt 3min", ["--budgt", "nasimb search --help"]),
    ("--sampling often", ["'often'", "'balanced'"]),
    ("--seed x", ["--seed"]),
    ("--seed -1", ["seed", "-1"]),
]


@pytest.mark.parametrize(("words", "told"), WRONG_SEARCHES)
def test_a_wrong_search_is_one_line(command: Command, bad: Path, words: str, told: list[str]) -> None:
    given = words.format(bad=bad).split()
    answer = command("search", "--config", "tiny.yaml", "--run", "run", *given)
    assert answer.code == 2, answer
    for part in told:
        assert part in answer.error
    assert answer.out == ""
    assert ".." not in re.sub(r"\d\.\.\d", "", answer.error.replace("...", "")), "sentences end with one full stop"
    assert not Path("run").exists(), "what is refused leaves nothing behind"


WRONG_COMMANDS: list[tuple[str, list[str]]] = [
    ("status nowhere", ["config.yaml", "nowhere"]),
    ("report nowhere", ["config.yaml", "nowhere"]),
    ("report {run} nowhere", ["nowhere"]),
    ("report", ["Missing argument"]),
    ("head --from nowhere --data digits", ["model.safetensors", "nowhere"]),
    ("head --from {run} --data nowhere/", ["must exist"]),
    ("head --from {run} --data digits --loss focall", ["Did you mean 'focal'?"]),
    ("head --from {run} --data digits --loss rigde", ["Did you mean 'ridge'?"]),
    ("head --from {run} --data digits --profile stepp", ["'stepp'"]),
    ("head --from {run} --data digits --imbalance-factor 0.1", ["0.1"]),
    ("head --data digits", ["--from"]),
    ("supernet train --source digits --budget 3 --out net", ["unit"]),
    ("supernet train --source digits --budget 5trials --out net", ["must limit time"]),
    ("supernet train --source digits --budget 1s --out net --space digits-resnet", ["Give at least"]),
    ("supernet train --source target --budget 1min --out net", ["'target'"]),
    ("supernet train --source digits --budget 1min --out net --set batchsize=3", ["Did you mean 'batch_size'?"]),
    ("data inspect diggits", ["Did you mean 'digits'?"]),
    ("frobnicate", ["'frobnicate'", "nasimb --help"]),
    ("supernet", []),
    ("", []),
]


@pytest.mark.parametrize(("words", "told"), WRONG_COMMANDS)
def test_other_wrong_commands_are_one_line(command: Command, finished_run: Path, words: str, told: list[str]) -> None:
    answer = command(*words.format(run=finished_run).split())
    assert answer.code == 2, answer
    if not told:
        assert "Usage: nasimb" in answer.out, "asked nothing, it helps"
        return
    for part in told:
        assert part in answer.error
    assert not Path("net").exists()


def test_a_file_where_a_folder_should_be(command: Command, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    answer = command(*SEARCH, "--run", "run")
    assert answer.code == 2
    assert "run" in answer.error


# Help, and a real process


PAGES = [
    "",
    "search",
    "extend",
    "status",
    "report",
    "pareto",
    "head",
    "data",
    "data inspect",
    "supernet",
    "supernet train",
]


@pytest.mark.parametrize("page", PAGES)
def test_help_is_a_page_to_read(command: Command, page: str) -> None:
    found = command(*page.split(), "--help")
    assert found.code == 0
    assert f"Usage: nasimb {page}".rstrip() in found.out
    # Every option says what it is for.
    described = re.findall(r"^│ [* ]*(--[a-z-]+)\s+(?:<[^>]*>)?\s*(.*?)\s*│$", found.out, re.MULTILINE)
    assert described
    for option, text in described:
        assert text, f"{option} is not explained"


def test_help_does_not_wait_for_torch() -> None:
    script = "import sys; from nasimb.cli import main; sys.argv = ['nasimb', '--help']\ntry: main()\nfinally: " + (
        "print(sorted({'torch', 'pandas', 'optuna', 'pydantic', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert "Usage: nasimb" in done.stdout
        assert done.stderr == "[]\n"
    assert sorted(seconds)[1] < 2  # of the processor, as others may be at work: half a second


def test_the_module_is_the_command() -> None:
    words = [sys.executable, "-m", "nasimb", "status", "nowhere"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("nasimb: a run folder must hold")
    assert done.stderr.count("\n") == 1, "not even warnings of the libraries"


def test_ctrl_c_before_the_work_begins(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nasimb.config.load_config", interrupted)
    assert command(*SEARCH).code == 130


def test_a_full_disk_is_work_that_failed(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "run/trials.csv")

    monkeypatch.setattr("nasimb.pipeline.run_search", full)
    answer = command(*SEARCH, "--run", "run")
    assert answer.code == 1
    assert "No space left" in answer.error
