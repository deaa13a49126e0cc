from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_run import tiny_config

from nasimb import assemble
from nasimb.budget import Budget
from nasimb.ledger import Ledger
from nasimb.phases.heads import HeadWork
from nasimb.progress import Silent
from nasimb.rundir import RunDir
from nasimb.session import Session


class Now:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Listener(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def workshop(tmp_path: Path) -> Callable[..., Any]:
    """Everything the phases of the tiny run need, on a clock that stands still."""

    def build(*assigned: str, limit: float | None = None, folder: str = "run", **options: Any) -> Any:
        config = tiny_config(tmp_path, *assigned, **options)
        device, run, clock, watcher = torch.device("cpu"), RunDir(tmp_path / folder), Now(), Listener()
        run.path.mkdir(exist_ok=True)
        session = Session(
            run,
            Ledger(run.ledger, clock, None if limit is None else Budget(f"{limit}s", wall_seconds=limit)),
            clock,
            watcher,
            lambda: 0,
        )
        ground = assemble.load_ground(config, device)
        training = assemble.new_training(config, ground, None)
        for _ in range(3):
            training.step(0.5)
        frozen = SimpleNamespace(supernet=training.finished(), source_images_BCHW=calibration(config, ground))
        scoring = assemble.make_scoring(config, ground, frozen)  # type: ignore[arg-type]
        work = HeadWork(session, scoring, assemble.make_comparison(config), num_test=len(ground.task.test))
        return SimpleNamespace(
            config=config, session=session, run=run, clock=clock, watcher=watcher, ground=ground, scoring=scoring,
            question=assemble.make_question(config, ground), work=work, training=training, device=device,
        )  # fmt: skip

    return build


def calibration(config: Any, ground: Any) -> torch.Tensor:
    source = ground.task.source
    return source.store.read(source.indices_N[: config.calibration_images], torch.device("cpu"))
