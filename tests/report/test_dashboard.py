"""optuna-dashboard opens what a run leaves, as it is; what it shows are the rows of trials.csv."""

from __future__ import annotations

import csv
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

from nasimb.report import Run

optuna_dashboard = pytest.importorskip("optuna_dashboard")
STARTING_SECONDS = 60.0


def shown_by(journal: Path) -> Callable[[str], Any]:
    """GET on the dashboard of a journal, opened as its command line opens it."""
    from optuna_dashboard._storage_url import get_storage

    application = optuna_dashboard.wsgi(get_storage(str(journal)))

    def get(path: str) -> Any:
        environ: dict[str, Any] = {}
        setup_testing_defaults(environ)
        environ["PATH_INFO"] = path
        status: list[str] = []
        body = b"".join(application(environ, lambda said, headers, error=None: status.append(said)))
        assert status == ["200 OK"], (path, body)
        return json.loads(body)

    return get


def test_a_finished_run_opens_with_every_trial_and_is_left_as_it_was(finished_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished_run, tmp_path / "run")
    before = (folder / "study.journal").read_bytes()
    get = shown_by(folder / "study.journal")
    (summary,) = get("/api/studies")["study_summaries"]
    assert (summary["study_name"], summary["directions"]) == ("nasimb", ["maximize"])
    study = get(f"/api/studies/{summary['study_id']}")
    with (folder / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(study["trials"]) == len(rows) == len(Run.read(folder).trials)
    assert study["objective_names"] == ["score"]
    for trial, row in zip(study["trials"], rows, strict=True):
        assert trial["number"] == int(row["number"])
        assert trial["state"] == "Complete"
        assert trial["values"] == [float(row["screen_score"] or row["score"])]
        assert {one["key"]: one["value"] for one in trial["user_attrs"]}.items() >= {
            "macs": row["macs"], "params": row["params"],
        }.items()  # fmt: skip
        params = {one["name"]: one["param_external_value"] for one in trial["params"]}
        assert params["resolution"] == row["resolution"]
        assert "-".join(params[f"stage{stage}.norm"] for stage in (1, 2)) == row["norms"]
    best = max(float(row["screen_score"] or row["score"]) for row in rows)
    assert [trial["values"] for trial in study["best_trials"]] == [[best]]
    assert get(f"/api/studies/{summary['study_id']}/param_importances")["param_importances"][0]
    assert (folder / "study.journal").read_bytes() == before
    assert {file.name for file in folder.iterdir()} == {file.name for file in finished_run.iterdir()}


@pytest.mark.slow
def test_its_command_serves_a_run(finished_run: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free_port = probe.getsockname()[1]
    words = [str(Path(sys.executable).with_name("optuna-dashboard")), str(finished_run / "study.journal")]
    address = f"http://127.0.0.1:{free_port}"
    with subprocess.Popen([*words, "--port", str(free_port)], stderr=subprocess.DEVNULL) as process:
        try:
            studies = json.loads(_fetched(f"{address}/api/studies", process))["study_summaries"]
            assert [study["study_name"] for study in studies] == ["nasimb"]
            trials = json.loads(_fetched(f"{address}/api/studies/0", process))["trials"]
            assert len(trials) == len(Run.read(finished_run).trials)
            assert b"<title>Optuna Dashboard</title>" in _fetched(f"{address}/dashboard/", process)
        finally:
            process.terminate()


def _fetched(address: str, process: subprocess.Popen[bytes]) -> bytes:
    end = time.monotonic() + STARTING_SECONDS
    while True:
        assert process.poll() is None, "the dashboard has ended"
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return bytes(answer.read())
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
