"""What is public is explained by an example, and every example runs.

Public are the names in `__all__` of `nasimb`, of the modules beside it and of the rooms (packages), however they get
there. Classes and functions, and a room among the names, need an example in their docstring. Constants, tables and
names of types cannot have one, so text in the source must explain them: a string right below, or a comment right above.
"""

from __future__ import annotations

import ast
import inspect
import re
import shutil
from collections.abc import Iterator
from doctest import ELLIPSIS, DocTest, DocTestFinder, DocTestRunner
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "nasimb").rglob("*.py"))


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def body_of(module: str) -> tuple[str, list[ast.stmt]]:
    """Source and statements, those under `if` and `else` included."""
    (source,) = (file.read_text(encoding="utf-8") for file in FILES if module_of(file) == module)
    found: list[ast.stmt] = []
    for statement in ast.parse(source).body:
        found += [*statement.body, *statement.orelse] if isinstance(statement, ast.If) else [statement]
    return source, found


def bound(statement: ast.stmt) -> list[str]:
    """Names that an assignment gives."""
    if isinstance(statement, ast.AnnAssign):
        return [ast.unparse(statement.target)]
    return [ast.unparse(target) for target in statement.targets] if isinstance(statement, ast.Assign) else []


def public_of(file: Path) -> list[str]:
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        if "__all__" in bound(statement):
            return [str(name) for name in ast.literal_eval(statement.value)]  # type: ignore[attr-defined]
    return []


EXAMPLE = re.compile(r"^ *>>> ", re.MULTILINE)
WITH_EXAMPLES = {module_of(file): n for file in FILES if (n := len(EXAMPLE.findall(file.read_text(encoding="utf-8"))))}
PUBLIC = [
    (module_of(file), name)
    for file in FILES
    if file.name == "__init__.py" or file.parent == ROOT / "nasimb"
    for name in public_of(file)
]


class Finder(DocTestFinder):
    """Finds the examples of decorated functions too."""

    def _from_module(self, module: ModuleType | None, object: object) -> bool:
        of_module: bool = super()._from_module(module, inspect.unwrap(object))  # type: ignore[misc, arg-type]
        return of_module


def examples_of(module: str) -> list[DocTest]:
    return [test for test in Finder().find(import_module(module), module) if test.examples]


def run(test: DocTest) -> None:
    said: list[str] = []
    runner = DocTestRunner(optionflags=ELLIPSIS)
    runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the example of `nasimb.search` was run: `runs/digits` is what the others begin with."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for test in examples_of("nasimb.api"):
            run(test)
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory of one's own, in which nothing but runs may be left behind."""
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "here"
    assert [file.name for file in (tmp_path / "here").iterdir()] == ["runs"]


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_run(module: str, place: Path) -> None:
    tests = examples_of(module)
    assert sum(len(test.examples) for test in tests) == WITH_EXAMPLES[module], "an example that no docstring holds"
    for test in tests:
        run(test)


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=lambda word: word)
def test_public_names_are_explained_by_an_example(module: str, name: str) -> None:
    found: Any = getattr(import_module(module), name)
    if isinstance(found, type | ModuleType) or inspect.isroutine(found):
        assert EXAMPLE.search(found.__doc__ or ""), f"{module}.{name} has no example"
    else:
        assert explained_in_source(module, name), f"nothing explains {module}.{name}"


def explained_in_source(module: str, name: str) -> bool:
    source, statements = body_of(module)
    for statement, after in zip(statements, [*statements[1:], None], strict=True):
        if isinstance(statement, ast.ImportFrom) and name in [alias.asname or alias.name for alias in statement.names]:
            return explained_in_source(str(statement.module), name)
        if name in bound(statement):
            above = source.splitlines()[statement.lineno - 2]
            below = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            return above.startswith("# ") or (below and isinstance(after.value.value, str))
    return False


def test_all_rooms_say_what_is_in_them() -> None:
    for file in FILES:
        assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))), file


def test_public_names_are_those_that_readers_are_told_of() -> None:
    """Every module in the list of `nasimb`'s docstring has public names, and all modules that have some stand in it."""
    import nasimb

    told = set(re.findall(r"`(nasimb\.[a-z_]+)`", nasimb.__doc__ or ""))
    ours = {"nasimb.api", "nasimb.classifier"}  # behind the names of nasimb itself
    assert told - {"nasimb.search"} == {".".join(module.split(".")[:2]) for module, _ in PUBLIC} - {"nasimb"} - ours


def test_what_the_readme_names_is_public() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\bnasimb((?:\.[A-Za-z_]\w*)+)", readme))
    assert {".search", ".load", ".adapt.BatchNormAdapter", ".nn.convert_norm"} <= named
    assert named <= {f"{module}.{name}".removeprefix("nasimb") for module, name in PUBLIC}
