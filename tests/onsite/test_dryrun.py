"""A dry run that is watched, and one that is ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nasimb.errors import Interrupted
from nasimb.onsite.dryrun import dry_run
from nasimb.onsite.watched import watch
from nasimb.progress import Progress, Silent


class Notes(Silent):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.shown: list[float] = []

    def show(self, progress: Progress) -> None:
        self.shown.append(progress.fraction)


def test_progress_is_the_share_of_images_seen(run: Path, write_site: Callable[..., Path], tmp_path: Path) -> None:
    data, notes = f"folder:{write_site(tmp_path / 'site', each=9)}", Notes()
    watched = watch(run, data, batch_size=20, device=torch.device("cpu"))
    found = dry_run(watched, watcher=notes)
    assert notes.shown == pytest.approx([20 / 45, 40 / 45, 1])
    assert found.layers["images"].tolist() == [45] * len(found.layers), "the layers are judged by the whole stream"
    assert found.layers["layer"].tolist() == list(watched.adapter.layers)


def test_a_signal_ends_it_after_the_batch_at_hand(run: Path, write_site: Callable[..., Path], tmp_path: Path) -> None:
    data, notes = f"folder:{write_site(tmp_path / 'site', each=9)}", Notes()
    watched = watch(run, data, batch_size=20, device=torch.device("cpu"))
    with pytest.raises(Interrupted, match="must see all the images; got signal 15; nothing is kept") as found:
        dry_run(watched, watcher=notes, stop=lambda: 15)
    assert found.value.exit_code == 143
    assert len(notes.shown) == 1
