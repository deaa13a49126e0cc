from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from answers import Answer, Command
from tiny_run import DATA, SPACE

from nasimb.cli import main


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `nasimb WORDS` in this process, in tmp_path, beside a tiny search space."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(SPACE)
    values = {"data": DATA, "space": "space.yaml", "budget": "4trials", "device": "cpu"}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))

    def run(*words: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["nasimb", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        code = exit_.value.code
        assert code is None or isinstance(code, int)
        return Answer(code or 0, captured.out, captured.err)

    return run
