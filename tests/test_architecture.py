"""The map of the code, enforced: floors, sizes, and what is never done."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "nasimb"

FLOORS = (
    (
        "errors",
        "durable",
        "seal",
        "secrets",
        "space",
        "spec",
        "budget",
        "price",
        "accounts",
        "ledger",
        "rundir",
        "extension",
        "progress",
        "session",
        "visible",
        "lazily",
    ),  # no torch, no optuna, no pandas
    ("metrics", "nn", "losses", "data"),
    ("supernet",),
    ("cost", "heads"),
    ("search",),
    ("evaluate", "export", "adapt", "report", "display"),
    ("phases",),
    ("config", "learned"),
    ("assemble", "retrain"),
    ("afford",),
    ("pipeline", "worker", "serve"),
    ("extend", "plan", "onsite", "care"),
    ("deliver", "api"),
    ("classifier", "bench"),
    ("cli",),
    ("__main__", "__init__"),
)
"""Imports point strictly down, and rooms of one floor do not know each other (the lowest excepted)."""

LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES, MOST_FUNCTION_LINES = 400, 60
WHO_MAY_IMPORT_CONFIG = {
    *("assemble", "afford", "pipeline", "bench", "worker", "extend", "plan", "onsite", "deliver", "api", "cli")
}


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imported(file: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            assert node.module is not None
            yield node.module
            if node.module == "nasimb":
                yield from (f"nasimb.{alias.name}" for alias in node.names)


def rooms_known_to(file: Path) -> set[str]:
    names = [name.split(".") for name in imported(file)]
    return {parts[1] for parts in names if parts[0] == "nasimb" and len(parts) > 1 and parts[1] in LEVEL}


def test_every_room_has_a_floor() -> None:
    assert {room_of(file) for file in FILES} == set(LEVEL)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_strictly_down(file: Path) -> None:
    room = room_of(file)
    for other in rooms_known_to(file) - {room}:
        same_lowest = LEVEL[room] == LEVEL[other] == 0
        assert LEVEL[other] < LEVEL[room] or same_lowest, f"{room} (floor {LEVEL[room]}) imports {other}"


def test_the_lowest_floor_is_light() -> None:
    heavy = {"torch", "torchvision", "optuna", "pandas", "scipy", "sklearn"}
    for file in FILES:
        if LEVEL[room_of(file)] == 0:
            assert not heavy & {name.split(".")[0] for name in imported(file)}, file


def test_only_the_top_knows_the_configuration() -> None:
    knows = {room_of(file) for file in FILES if "config" in rooms_known_to(file)}
    assert knows - {"config"} <= WHO_MAY_IMPORT_CONFIG


def test_files_and_functions_are_short() -> None:
    long_files = {str(file): n for file in FILES if (n := len(file.read_text().splitlines())) > MOST_LINES}
    assert not long_files
    long_functions = {}
    for file in FILES:
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                lines = node.end_lineno - node.body[0].lineno + 1  # a long signature is an option list, not a story
                if lines > MOST_FUNCTION_LINES:
                    long_functions[f"{file.name}:{node.name}"] = lines
    assert not long_functions


def test_nothing_unpickles_or_runs_yaml() -> None:
    for file in FILES:
        names = {name.split(".")[0] for name in imported(file)}
        assert not names & {"pickle", "cPickle", "dill", "joblib", "shelve", "cloudpickle"}, file
        for node in ast.walk(tree_of(file)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            called = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert called not in ("yaml.load", "yaml.full_load", "yaml.unsafe_load"), file
            if called == "torch.load":
                assert given.get("weights_only") == "True", file
            if called in ("np.load", "numpy.load"):
                assert given.get("allow_pickle", "False") == "False", file


def test_no_global_seed_is_set() -> None:
    for file in FILES:
        called = {ast.unparse(node.func) for node in ast.walk(tree_of(file)) if isinstance(node, ast.Call)}
        assert not called & {"torch.manual_seed", "np.random.seed", "random.seed", "torch.cuda.manual_seed_all"}, file
