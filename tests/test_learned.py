"""What a model has learned from is kept beside it, and asked for where it lies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from nasimb import assemble
from nasimb.config import RunConfig
from nasimb.data import parse_dataset
from nasimb.data.base import LoadRequest
from nasimb.errors import InputError
from nasimb.learned import FILE, Learned, keep_learned, learned_by, seen
from nasimb.rundir import RunDir


def test_a_run_keeps_what_its_winner_has_learned_from(finished_run: Path, tmp_path: Path) -> None:
    task = assemble.load_ground(RunConfig(**RunDir(finished_run).config()), torch.device("cpu")).task
    for place in (finished_run, finished_run / "best", shutil.copytree(finished_run / "best", tmp_path / "alone")):
        learned = learned_by(place)
        assert learned.head == frozenset(task.target.hashes())
        assert learned.backbone == frozenset(task.source.hashes())


def test_a_model_without_a_record_has_what_its_run_knows(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    trained_on = learned_by(run).backbone
    (run / "best" / FILE).unlink()
    assert learned_by(run) == learned_by(run / "best") == Learned(trained_on, None)
    shutil.move(run / "best", tmp_path / "alone")
    assert learned_by(tmp_path / "alone") == Learned(None, None)


def test_what_is_kept_is_read_and_damage_is_named(tmp_path: Path) -> None:
    for learned in (Learned(frozenset({"b", "a"}), frozenset()), Learned(None, frozenset({"c"}))):
        keep_learned(tmp_path, learned)
        assert learned_by(tmp_path) == learned
    file = tmp_path / FILE
    for text in (file.read_text().replace('"c"', '"d"'), file.read_text()[:9], "[]", json.dumps({"head": []})):
        file.write_text(text)
        with pytest.raises(InputError, match=r"learned\.json must be whole"):
            learned_by(tmp_path)


def test_images_are_found_wherever_they_stand() -> None:
    train = parse_dataset("digits:0-2").load(LoadRequest(size=8)).train
    part = train.subset(torch.tensor([7, 3, 11]))
    assert seen(train, part.hashes()) == [3, 7, 11]
    assert seen(part, train.subset(torch.tensor([3])).hashes()) == [1]
    assert seen(part, ()) == []
