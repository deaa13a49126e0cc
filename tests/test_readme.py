"""README says only what is so: its commands parse and run, its links lead somewhere, its figures are measured."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from nasimb.cli.main import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BENCH = ROOT / "results" / "bench"
MOST_BYTES = 200_000


def commands() -> list[str]:
    """Every line of an indented block, without its comment, and every command in backticks: as a reader may copy it."""
    lines = [line.strip().split("  #")[0].strip() for line in README.splitlines() if line.startswith("    ")]
    found = [part.strip() for line in lines for part in line.split("&&")]
    inline = [span for span in re.findall(r"`([^`]+)`", README) if re.match(r"(nasimb|torchrun|pytest) [a-z-]", span)]
    return list(dict.fromkeys([*found, *inline]))


NASIMB = [one.removesuffix(" COMMAND --help") for one in commands() if re.match(r"nasimb [a-z]", one)]


def rows(text: str, first: str) -> list[list[str]]:
    """The cells of a Markdown table whose first heading is `first`, without its heading."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first}"))
    found = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


# ---------------------------------------------------------------------------------------------------------- commands


def test_there_are_commands_to_check() -> None:
    assert len(NASIMB) >= 15
    assert commands()[:2] == ["pip install .", "nasimb search --budget 3min"]


@pytest.mark.parametrize("line", NASIMB)
def test_a_command_parses(line: str) -> None:
    found: Any = typer.main.get_command(app)
    words, name = shlex.split(line)[1:], "nasimb"
    while hasattr(found, "commands"):
        name = words.pop(0)
        found = found.commands[name]
    if words != ["--help"]:
        assert found.make_context(name, words).args == []


def test_the_completion_it_names_is_there() -> None:
    assert "`nasimb --install-completion`" in README
    environment = {**os.environ, "_NASIMB_COMPLETE": "complete_bash", "COMP_WORDS": "nasimb sea", "COMP_CWORD": "1"}
    ran = subprocess.run([sys.executable, "-m", "nasimb"], env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["search"], ran.stderr


QUICK = ("--set", "training_steps=5", "--device", "cpu")


@pytest.fixture
def photos(tmp_path: Path, write_digits: Callable[..., Path]) -> Path:
    """The folders that README names, small, of digits."""
    counts = {"crack": (0, 40), "dent": (1, 20), "fine": (2, 60)}
    for folder, skip in (("my_photos", 0), ("similar", 60), ("labelled", 100), ("other_photos", 0), ("new_site", 100)):
        write_digits(tmp_path / folder, counts, skip=skip)
    write_digits(tmp_path, {"new_photos": (1, 5)}, skip=30)
    stream = "".join(f"{path},?\n" for path in sorted((tmp_path / "new_site").rglob("*.png")))
    (tmp_path / "stream.csv").write_text(f"path,label\n{stream}")
    return tmp_path


def run(place: Path, *words: str) -> None:
    """`python -m WORDS` in a process, which must end well."""
    ran = subprocess.run(
        [sys.executable, "-m", *words], cwd=place, capture_output=True, text=True, check=False, timeout=200,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, f"{shlex.join(words)}\n{ran.stdout}\n{ran.stderr}"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_reader_gives_its_commands_in_order(photos: Path) -> None:
    smaller = {
        "cifar100:DIR": "digits", "cifar-resnet": "digits-resnet", "+4gpu-h": "+1trials", "8gpu-h": "3trials",
        "4gpu-h": "15s", "30min": "20s", "3min": "2trials",
    }  # fmt: skip
    for name, seed in (("A", "0"), ("B", "1")):
        data = ("--data", "folder:my_photos/", "--space", "digits-resnet", "--budget", "3trials")
        run(photos, "nasimb", "search", *data, "--seed", seed, "--run", f"runs/{name}", *QUICK)
    for line in NASIMB:
        if "storage serve" in line or "--watch" in line or line.endswith("--help"):
            continue
        for long, short in smaller.items():
            line = line.replace(long, short)
        words = shlex.split(line)
        needs = words[1] == "search" and "--data" not in words and "--supernet" in words
        more = (*(("--data", "folder:my_photos/") if needs else ()), *(QUICK if words[1] == "search" else ()))
        run(photos, *words, *more)


@pytest.mark.slow
def test_its_python_runs(photos: Path) -> None:
    (python,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert python.count('min")') == 2
    quick = re.sub(r'"3(0?)min"\)', '"2trials", assign=["training_steps=5"])', python)
    quick = quick.replace("30min", "2trials").replace("new.jpg", "new_photos/dark.png")
    Image.new("L", (8, 8)).save(photos / "new_photos" / "dark.png")
    (photos / "said.py").write_text(
        f"import numpy as np\nX = np.random.default_rng(0).integers(0, 256, (30, 8, 8), 'u1')\ny = [0, 1] * 15\n{quick}"
    )
    run(photos, "said")


# -------------------------------------------------------------------------------------------------- links and pictures


def linked(text: str) -> list[str]:
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]


@pytest.mark.parametrize("page", ["README.md", *(str(p.relative_to(ROOT)) for p in (ROOT / "results").rglob("*.md"))])
def test_links_lead_somewhere(page: str) -> None:
    for target in linked((ROOT / page).read_text()):
        assert ((ROOT / page).parent / target.split("#")[0]).exists(), target


def test_pictures_are_small() -> None:
    pictures = [target for target in linked(README) if target.endswith((".png", ".svg"))]
    assert pictures
    assert all((ROOT / name).stat().st_size <= MOST_BYTES for name in pictures)


# ------------------------------------------------------------------------------------------------------------- figures


def test_the_embedded_data_are_as_it_says() -> None:
    from nasimb.data import parse_dataset
    from nasimb.data.base import LoadRequest
    from nasimb.data.inspect import inspect_dataset
    from nasimb.data.longtail import class_counts

    spec = parse_dataset("digits")
    assert spec.default_imbalance_factor is not None
    counts = inspect_dataset(spec, LoadRequest(size=8)).table.set_index("class")
    target_K = class_counts(counts["train"].max(), len(counts), spec.default_imbalance_factor)
    words = (
        r"(\d+) balanced images train[^;]*;\s+(\d+) others, long-tailed from (\d+) down to (\d+)[^;]*;\s+(\d+) balanced"
    )
    said = re.search(words, README)
    assert said is not None
    measured = (counts["source"].sum(), sum(target_K), max(target_K), min(target_K), counts["test"].sum())
    assert tuple(map(int, said.groups())) == measured


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def with_interval(model: dict[str, Any]) -> str:
    test = model["test"]
    low, high = test["ci95"]["balanced_accuracy"]
    return f"{percent(test['balanced_accuracy'])} [{percent(low)}, {percent(high)}]"


@pytest.mark.parametrize("row", rows(README, "results"), ids=lambda row: row[0].split("]")[0][1:])
def test_a_row_of_results_is_what_the_run_found(row: list[str]) -> None:
    name, _, budget, winner, smallest, largest, plain, cost = row
    folder = ROOT / linked(name)[0]
    found = json.loads((folder / "result.json").read_text())
    assert budget.startswith(found["spend"]["limit"].replace("min", " min"))
    seeds = folder / "seeds.csv"
    if not seeds.exists():
        best, base = found["winner"], found["baselines"]["largest_plain_head"]
        models = (best, found["baselines"]["smallest"], found["baselines"]["largest"], base)
        assert (winner, smallest, largest, plain) == tuple(map(with_interval, models))
        assert cost == f"{best['cost']['macs'] / base['cost']['macs']:.0%}".replace("%", " %")
        return
    rows_of = list(csv.DictReader(seeds.open()))

    def column(model: str, metric: str) -> list[float]:
        return [float(one[metric]) for one in rows_of if one["model"] == model]

    cells = {"winner": winner, "smallest": smallest, "largest": largest, "largest_plain_head": plain}
    for model, cell in cells.items():
        assert cell == ", ".join(map(percent, column(model, "balanced_accuracy")))
    shares = [a / b for a, b in zip(column("winner", "macs"), column("largest_plain_head", "macs"), strict=True)]
    assert cost == ", ".join(f"{100 * share:.0f}" for share in shares) + " %"
    assert percent(found["winner"]["test"]["balanced_accuracy"]) == winner.split(",")[0]


def number(word: str) -> float | str:
    return float(word) if word.replace(".", "", 1).isdigit() else word


def figures() -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for file in BENCH.glob("*.csv"):
        for row in csv.DictReader(file.open()):
            found.setdefault(row["figure"], []).append(row)
    return found


@pytest.mark.parametrize("row", rows((BENCH / "README.md").read_text(), ""), ids=lambda row: row[3].strip("`"))
def test_a_figure_is_the_one_measured(row: list[str]) -> None:
    _, shown, wanted, figure = row
    places = len(shown.partition(".")[2])
    measured = figures()[figure.strip("`")]
    (one,) = [found for found in measured if f"{float(found['value']):.{places}f}" == shown]
    target = one["target"].replace("<=", "≤").replace(">=", "≥")
    missed = wanted.endswith(": missed")
    assert wanted.removesuffix(": missed").split() == target.split() or float(wanted.split()[1]) == float(
        target.split()[1]
    )
    assert missed == (one["met"] == "False")


def test_figures_within_its_text_are_those_of_the_table() -> None:
    said = re.findall(r"\[([\d.]+)[^\]]*\]\(results/bench\)", README)
    shown = {row[1] for row in rows((BENCH / "README.md").read_text(), "")}
    assert len(said) == 2
    assert set(said) <= shown
