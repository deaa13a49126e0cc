"""An image that becomes unreadable while a run uses it: a sentence, and the run goes on once it is there again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from test_pipeline import Listener, essence, rows
from tiny_run import tiny_config

from nasimb.data.base import LoadRequest
from nasimb.data.store import FileStore
from nasimb.errors import ImageLostError
from nasimb.ledger import read_account
from nasimb.pipeline import run_search
from nasimb.rundir import RunDir
from nasimb.search.trial import trials_of


@pytest.fixture(autouse=True)
def _in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with images that do not fit in memory: they are read from their files every time, in threads."""
    monkeypatch.setattr(LoadRequest, "fits", lambda request, images, channels: False)
    init = FileStore.__init__
    monkeypatch.setattr(
        FileStore, "__init__", lambda store, paths, **options: init(store, paths, **{**options, "workers": 0})
    )


@pytest.mark.parametrize("phase", ["supernet", "search"])
def test_a_lost_image_ends_in_a_sentence_and_the_run_goes_on_once_it_is_back(
    tmp_path: Path, write_digits: Callable[..., Path], phase: str
) -> None:
    photos = write_digits(tmp_path / "photos", {"a": (0, 30), "b": (1, 20), "c": (2, 12)})
    config = tiny_config(tmp_path, data=f"folder:{photos}", source="target", budget="6trials")
    expected = run_search(config, tmp_path / "whole")
    watcher, folder = Listener(), tmp_path / "run"
    lost = sorted(photos.rglob("*.png"))
    contents = {file: file.read_bytes() for file in lost}

    def stop() -> int:
        if watcher.shown[-1].phase == phase:
            for file in lost:
                file.write_bytes(b"no image")
        return 0

    with pytest.raises(ImageLostError, match=r"must stay readable.*\.png \(.*Restore it, and give the same") as met:
        run_search(config, folder, watcher=watcher, stop=stop)
    assert met.value.exit_code == 1
    assert not any(trial.failure for trial in trials_of(RunDir(folder)))
    spent = read_account(RunDir(folder).ledger)
    assert any(charge.phase == phase and seconds > 0 for charge, seconds in spent.items())
    for file, content in contents.items():
        file.write_bytes(content)
    assert essence(run_search(config, folder)) == essence(expected)
    assert rows(folder) == rows(tmp_path / "whole")
