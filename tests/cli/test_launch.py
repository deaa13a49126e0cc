"""What torchrun tells its processes, and what is refused under it."""

from __future__ import annotations

import sys

import pytest

from nasimb.cli import main
from nasimb.cli.launch import place_in_torchrun, ranks_of_torchrun
from nasimb.supernet.ranks import ONE_PROCESS

TOLD = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        (TOLD, (3, 4, 1)),
        ({}, None),
        ({**TOLD, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}, None),
        ({**TOLD, "WORLD_SIZE": ""}, None),
        ({"RANK": "0", "WORLD_SIZE": "4"}, None),  # somebody else's variables
    ],
)
def test_place_in_torchrun(environment: dict[str, str], place: tuple[int, int, int] | None) -> None:
    assert place_in_torchrun(environment) == place


def test_outside_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TOLD:
        monkeypatch.delenv(name, raising=False)
    with ranks_of_torchrun() as ranks:
        assert ranks is ONE_PROCESS


@pytest.mark.parametrize(("rank", "said"), [("0", True), ("1", False)])
def test_a_search_under_torchrun_is_refused_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: str, said: bool
) -> None:
    for name, value in {**TOLD, "RANK": rank, "LOCAL_RANK": rank}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["nasimb", "search", "--budget", "1min"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("got a search started 4 times" in captured.err) is said
    assert ("supernet train" in captured.err) is said
