"""`nasimb adapt` and `nasimb monitor` as a user meets them."""

from __future__ import annotations

import html
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from answers import Command
from PIL import Image
from tiny_run import tiny_config

import nasimb
from nasimb.adapt import BatchNormAdapter, Entry
from nasimb.export import Model, load, save
from nasimb.learned import learned_by
from nasimb.pipeline import run_search

ROOT = Path(__file__).parents[2]
Pictures = Callable[..., Path]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the digits 0 to 4 whose super-network has learned them."""
    folder = tmp_path_factory.mktemp("trained")
    config = tiny_config(folder, "training_steps=100", "training.batch_size=32", data="digits:0-4",
                         imbalance_factor=10.0, budget="3trials")  # fmt: skip
    run_search(config, folder / "run")
    return folder / "run"


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    """That run, in the folder of the commands."""
    return shutil.copytree(trained_run, tmp_path / "run")


@pytest.fixture
def foggy(write_digits: Pictures, tmp_path: Path) -> Path:
    """Digits 0 to 4 as through fog."""
    folder = write_digits(tmp_path / "foggy", {str(digit): (digit, 60) for digit in range(5)})
    for file in folder.rglob("*.png"):
        Image.fromarray((0.45 * np.asarray(Image.open(file)) + 120).astype(np.uint8)).save(file)
    return folder


def test_a_shifted_site_is_adapted_to_and_the_model_saved(command: Command, run: Path, foggy: Path) -> None:
    before = (run / "best" / "model.safetensors").read_bytes()
    found = command("adapt", "run", "--data", "folder:foggy", "--report", "adapt.html", "--save", "adapted")
    assert found.code == 0, found.err
    assert found.out.startswith("Adapt: ")
    for told in ("Accuracy on the labelled images", "Layers", "Class mix", "300 images in 5 batches", "saved in",
                 "Made a profile of"):  # fmt: skip
        assert told in found.out, told
    assert (run / "best" / "model.safetensors").read_bytes() == before, "a dry run"

    old, new = load(run / "best"), load("adapted")
    assert new.description.provenance["adapted"]["strategy"] == "mixed"
    assert "test" not in new.description.metrics
    files = sorted(foggy.rglob("*.png"))
    labels = np.array([file.parent.name for file in files])
    assert np.mean(new.predict(files) == labels) > np.mean(old.predict(files) == labels) + 0.1
    for name, tensor in old.state_dict().items():
        moves = name.endswith(("running_mean", "running_var"))
        assert moves or torch.equal(tensor, new.state_dict()[name]), name

    page = Path("adapt.html").read_text()
    assert "Adapt: " in page
    for outside in ("http://", "https://", "src=", "<script", "@import"):
        assert outside not in page.replace("http://www.w3.org/2000/svg", ""), outside

    assert learned_by(Path("adapted")) == learned_by(run), "no label of the site was learned"
    again = command("adapt", "run", "--data", "folder:foggy", "--save", "adapted")
    assert again.code == 2
    assert "which exists" in again.error


def test_json_says_what_the_tables_say(command: Command, run: Path, foggy: Path) -> None:
    found = command("adapt", "run", "--data", "foggy", "--json", "--batch", "50")
    assert found.code == 0, found.err
    values = json.loads(found.out)
    assert values["adapt"] is True
    assert (values["images"], values["labelled"], values["batches"]) == (300, 300, 6)
    assert sum(one["images"] for one in values["reasons"].values()) == 300
    for mix in values["class_mix"].values():
        assert list(mix) == ["0", "1", "2", "3", "4"]
        assert sum(mix.values()) == pytest.approx(1, abs=1e-4)
    gain = values["gains"]["balanced_accuracy"]
    tests = values["tests"]
    difference = tests["adapted"]["balanced_accuracy"] - tests["source"]["balanced_accuracy"]
    assert gain[0] == pytest.approx(difference)
    model = nasimb.load("run/best")
    files = sorted(foggy.rglob("*.png"))
    accuracy = np.mean(model.predict(files) == np.array([file.parent.name for file in files]))
    assert tests["source"]["accuracy"] == pytest.approx(accuracy)
    assert all(layer["p_value"] < 1e-4 for layer in values["layers"] if layer["layer"] == "backbone.stem_norm")


def test_what_was_not_adapted_is_not_saved_even_by_force(command: Command, run: Path, foggy: Path) -> None:
    alone = ("adapt", "run", "--data", "folder:foggy", "--order", "given", "--save", "adapted")
    found = command(*alone)
    assert found.code == 1
    assert found.out.startswith("Do not adapt: ")
    assert "nothing was saved" in found.error
    assert not Path("adapted").exists()
    forced = command(*alone, "--force")
    assert forced.code == 2
    assert "must have adapted statistics" in forced.error
    assert not Path("adapted").exists()


def test_lines_are_never_written_over_a_file_that_is_there(command: Command, run: Path, foggy: Path) -> None:
    Path("mine.npz").write_bytes(b"mine")
    found = command("monitor", "run", "--data", "folder:foggy", "--jsonl", "mine.npz")
    assert found.code == 2
    assert "must go to a file of their own" in found.error
    assert Path("mine.npz").read_bytes() == b"mine"
    assert command("monitor", "run", "--data", "folder:foggy", "--jsonl", "a", "--picture", "a").code == 2


def test_names_are_text_on_the_page(command: Command, run: Path, foggy: Path) -> None:
    wild = "<script>alert(1)</script>&\"'"
    model = load(run / "best")
    description = replace(model.description, classes=(wild, "[red]1", "2", "3", "4"))
    save(Model(model.backbone, model.head, description), Path("named"))
    found = command("adapt", "named", "--data", "folder:foggy", "--report", "page.html", "--profile-data", "none")
    assert found.code == 0, found.err
    assert "[red]1" in found.out
    page = Path("page.html").read_text()
    assert "<script" not in page
    assert "<script>alert(1)</script>" in html.unescape(page)
    watched = command("monitor", "named", "--data", "folder:foggy", "--picture", "out.svg", "--profile-data", "none")
    assert watched.code == 0, watched.err
    ElementTree.parse("out.svg")
    assert "<script" not in Path("out.svg").read_text()


def test_a_stream_is_watched(command: Command, run: Path, foggy: Path) -> None:
    shutil.move(foggy / "4", foggy / "unlabelled")
    found = command("monitor", "run", "--data", "folder:foggy", "--jsonl", "out.jsonl", "--picture", "out.svg",
                    "--batch", "32")  # fmt: skip
    assert found.code == 0, found.err
    records = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [record["images"] for record in records] == [32] * 9 + [12]
    assert [record["batch"] for record in records] == list(range(10))
    assert sum(record["labelled"] for record in records) == 240
    assert any(record["adapted"] for record in records)
    assert all(sum(record["class_mix"].values()) == pytest.approx(1, abs=1e-4) for record in records)
    assert "300 images in 10 batches" in found.out
    assert "60 of 300 images count as unlabelled: the model has no class 'unlabelled'" in found.out
    texts = {"".join(element.itertext()) for element in ElementTree.parse("out.svg").iter(f"{SVG}text")}
    assert {"Predicted class mix", "Alarms: none", "accuracy", "300"} <= texts

    piped = command("monitor", "run", "--data", "folder:foggy", "--jsonl", "-", "--batch", "32")
    assert [json.loads(line) for line in piped.out.splitlines()] == records
    assert "300 images in 10 batches" in piped.err


def test_alarms_decide_the_exit_code_if_asked(command: Command, run: Path, foggy: Path) -> None:
    ordered = ("monitor", "run", "--data", "folder:foggy", "--order", "given")
    found = command(*ordered)
    assert found.code == 0
    assert "ALARM in batch 0, " in found.out
    assert command(*ordered, "--fail-on-alarm").code == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("nowhere", "--data", "folder:foggy"), "model.safetensors"),
        (("run", "--data", "folder:nothing"), "must exist"),
        (("run", "--data", "folder:empty"), "nothing in"),
        (("run", "--data", "folder:foggy", "--strategy", "mixd"), "Did you mean 'mixed'"),
        (("run", "--data", "folder:foggy", "--strategy", "ema:7"), "from 0 to 1"),
        (("run", "--data", "arrays:five.npz"), "got [4, 8, 8, 5]"),
        (("run", "--data", "folder:foggy", "--profile-data", "digits:5-9"), "classes of the model"),
        (("run", "--data", "folder:foggy", "--batch", "0"), "--batch"),
    ],
)
@pytest.mark.parametrize("name", ["adapt", "monitor"])
def test_what_is_wrong_is_said_in_one_line(
    command: Command, run: Path, foggy: Path, name: str, words: tuple[str, ...], told: str
) -> None:
    Path("empty").mkdir()
    np.savez("five.npz", train_images=np.zeros((4, 8, 8, 5), np.uint8), train_labels=np.arange(4))
    found = command(name, *words)
    assert found.code == 2, found.err
    assert told in found.error


def test_files_that_cannot_be_written_are_found_out_first(command: Command, run: Path, foggy: Path) -> None:
    site = ("run", "--data", "folder:foggy")
    for words in (("adapt", *site, "--report", "no/page.html"), ("monitor", *site, "--jsonl", "no/out.jsonl"),
                  ("monitor", *site, "--picture", "no/out.svg")):  # fmt: skip
        found = command(*words)
        assert found.code == 2
        assert "must have a folder" in found.error
    found = command("adapt", *site, "--strategy", "batch", "--save", "adapted")
    assert found.code == 2
    assert "mixed or ema" in found.error


def started(words: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    """`nasimb WORDS` in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "nasimb", *words], cwd=folder, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


WATCH = ("monitor", "run", "--data", "folder:foggy", "--jsonl", "out.jsonl", "--picture", "out.svg", "--batch", "1")


@pytest.mark.parametrize("numbers", [(signal.SIGINT,), (signal.SIGTERM, signal.SIGTERM)])
def test_signals_end_a_watch_with_its_picture(run: Path, foggy: Path, tmp_path: Path, numbers: tuple[int, ...]) -> None:
    process = started(WATCH, tmp_path)
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None:
        lines = (tmp_path / "out.jsonl").read_text().count("\n") if (tmp_path / "out.jsonl").exists() else 0
        if lines >= 3:
            for number in numbers:
                process.send_signal(number)
                time.sleep(0.001)  # two at once may count as one
            break
        time.sleep(0.01)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + numbers[0], err
    assert err == ""
    assert len(numbers) == 2 or " of 300 images in " in out
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) < 300
    ElementTree.parse(tmp_path / "out.svg")


def test_who_reads_along_may_leave(run: Path, foggy: Path, tmp_path: Path) -> None:
    """As `| head -n 1` does: a watch ends with its picture, a dry run writes what it is to write; neither complains."""
    for words in (WATCH, ("adapt", "run", "--data", "folder:foggy", "--report", "page.html", "--save", "adapted")):
        process = started(words, tmp_path)
        assert process.stdout is not None
        assert process.stderr is not None
        if words is WATCH:
            process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(60) == 128 + signal.SIGPIPE, err
        assert "rror" not in err
        process.stderr.close()
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) < 300
    ElementTree.parse(tmp_path / "out.svg")
    assert "Adapt: " in (tmp_path / "page.html").read_text()
    assert load(tmp_path / "adapted").description.provenance["adapted"]["images"] == 300


@pytest.mark.parametrize(("error", "number"), [(BrokenPipeError, signal.SIGPIPE), (KeyboardInterrupt, signal.SIGINT)])
def test_what_ends_a_watch_at_its_last_line_is_no_alarm(
    command: Command, run: Path, foggy: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], number: int
) -> None:
    class EndedAtTheLastLine(io.StringIO):
        def write(self, text: str) -> int:
            if text.startswith("picture: "):
                raise error
            return super().write(text)

    monkeypatch.setattr(sys, "stdout", EndedAtTheLastLine())
    found = command("monitor", "run", "--data", "folder:foggy", "--picture", "out.svg")
    assert found.code == 128 + number, found.err
    ElementTree.parse("out.svg")


def test_no_name_is_obeyed_by_a_terminal_or_a_page(command: Command, run: Path, foggy: Path) -> None:
    wild = "\x1b[2J\x9b31m\n"
    model = load(run / "best")
    description = replace(model.description, classes=(wild, "1", "2", "3", "4"))
    save(Model(model.backbone, model.head, description), Path("named"))
    (foggy / "1" / "\x1b]0;a title\x07.png").write_bytes(b"no image")
    site = ("named", "--data", "folder:foggy", "--profile-data", "none", "--skip-bad-images")
    found = command("adapt", *site, "--report", "page.html")
    assert found.code == 0, found.err
    watched = command("monitor", *site, "--order", "given", "--picture", "out.svg", "--jsonl", "-")
    assert watched.code == 0, watched.err
    refused = command("adapt", "named", "--data", "folder:foggy", "--profile-data", "none")
    assert "every image must be readable" in refused.error
    files = [Path(name).read_text() for name in ("page.html", "out.svg")]
    for text in (found.out, watched.out, watched.err, refused.error, *files):
        assert not {"\x1b", "\x9b", "\x07"} & set(text)
    assert "\\u001b[2J\\u009b31m\\u000a" in found.out
    assert "1 file could not be read and was left out: foggy/1/\\u001b]0;a title" in watched.err
    assert all(wild in json.loads(line)["class_mix"] for line in watched.out.splitlines())
    values = json.loads(command("adapt", *site, "--json").out)
    assert wild in values["class_mix"]["training"]


def test_a_watch_of_single_images_knows_their_noise(
    command: Command, run: Path, write_digits: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copied(adapter: BatchNormAdapter) -> tuple[Entry, ...]:
        raise AssertionError("the whole log, for every batch")

    monkeypatch.setattr(BatchNormAdapter, "log", property(copied))
    write_digits(Path("some"), {str(digit): (digit, 8) for digit in range(5)})
    found = command("monitor", "run", "--data", "folder:some", "--jsonl", "-", "--batch", "1")
    records = [json.loads(line) for line in found.out.splitlines()]
    assert [record["images"] for record in records] == 40 * [1]
    assert {record["noise"] for record in records if record["layer"] == records[0]["layer"]} == {records[0]["noise"]}
    noise = np.mean([record["noise"] for record in records])
    assert np.mean([record["shift"] for record in records]) == pytest.approx(noise, rel=0.5), "nothing is wrong"
    assert "40 images in 40 batches" in found.err


def test_few_images_are_told_as_what_they_are(command: Command, run: Path, write_digits: Pictures) -> None:
    write_digits(Path("one"), {"1": (1, 1)})
    found = command("adapt", "run", "--data", "folder:one")
    assert found.code == 0, found.err
    assert found.out.startswith("Do not adapt: it takes 32 images to judge a site, and there are 1.\n")
    assert "1 image in 1 batch, 1 labelled; " in found.out
    assert "no image was adapted to" in found.out
