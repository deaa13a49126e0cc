"""Progress for people: sentences, a line now and then, and signals that wait for the end of a unit of work."""

from __future__ import annotations

import io
import os
import signal

import pytest
from rich.console import Console

from nasimb.display import STOPPING, Display, clock_time, sentence, undisturbed, watching
from nasimb.progress import Progress, Silent


def progress(
    phase: str = "search", fraction: float = 0.5, spent: float = 65.0, limit: float | None = 180.0, detail: str = "best"
) -> Progress:
    return Progress(phase, fraction, spent, limit, detail)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"),
        (8.24, "8.2s"),
        (59.94, "59.9s"),
        (59.96, "1m00s"),
        (125, "2m05s"),
        (3599.7, "1h00m"),
        (12000, "3h20m"),
    ],
)
def test_times_as_people_read_them(seconds: float, text: str) -> None:
    assert clock_time(seconds) == text


def test_a_sentence() -> None:
    assert sentence(progress(), bar=False) == "searching  50%  1m05s of 3m00s  best"
    assert sentence(progress(limit=None, detail=""), bar=False) == "searching  50%  1m05s"
    assert sentence(progress(phase="elsewhere"), bar=False).startswith("elsewhere  ")


@pytest.mark.parametrize(("fraction", "filled"), [(-1.0, 0), (0.0, 0), (0.5, 12), (1.0, 24), (7.0, 24)])
def test_the_bar_stays_within_its_ends(fraction: float, filled: int) -> None:
    text = sentence(progress(fraction=fraction), bar=True)
    assert text.count("█") == filled
    assert text.count("█") + text.count("░") == 24


def test_without_a_terminal_a_line_now_and_then() -> None:
    out, clock = io.StringIO(), Clock()
    with Display(Console(file=out), clock, every_seconds=10.0) as display:
        for second in range(25):
            clock.now = second
            display.show(progress(detail=f"step {second}"))
        display.show(progress(phase="head", detail="another phase"))
        display.show(progress(phase="head", detail="not shown"))
    lines = out.getvalue().splitlines()
    assert [line.split("  ")[-1] for line in lines] == ["step 0", "step 10", "step 20", "another phase"]


def test_what_is_said_is_data_and_one_line() -> None:
    out = io.StringIO()
    text = "class '[red]|*x*' has 3 images " + 40 * "and a long name "
    Display(Console(file=out, width=40)).say(text)
    assert out.getvalue() == text + "\n"


def test_on_a_terminal_one_line_lives_and_goes() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=60)
    with Display(console) as display:
        display.show(progress(detail="[bold]first"))
        display.say("kept")
    assert "kept" in out.getvalue()
    assert "[bold]" in out.getvalue() or "first" not in out.getvalue()


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    Silent().say("anything")
    Silent().show(progress())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_question_answered_later(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with watching() as (_, stop):
        assert stop() == 0
        os.kill(os.getpid(), number)
        assert stop() == number
        # The second one is not held back.
        assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)
    assert signal.getsignal(number) == before


def test_under_torchrun_every_signal_is_held_back_and_one_process_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    """torchrun sends SIGTERM as soon as another has ended, which may have been told to end by the same signal."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with watching(alone=False, speaking=False) as (watcher, stop):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
                assert stop() == signal.SIGTERM
            watcher.say("anything")
            watcher.show(progress())
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN  # while the last word is being said
        assert capsys.readouterr() == ("", "")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("first", STOPPING)
@pytest.mark.parametrize("second", STOPPING)
def test_where_it_is_to_raise_the_second_signal_does_and_what_is_written_last_is_not_disturbed(
    first: signal.Signals, second: signal.Signals
) -> None:
    written = []

    def work() -> None:
        with watching(speaking=False, raising=True) as (_, stop):
            os.kill(os.getpid(), first)
            assert stop() == first
            try:
                os.kill(os.getpid(), second)
                written.append("what came after")
            finally:
                with undisturbed():
                    os.kill(os.getpid(), second)
                    written.append("the last word")
                assert stop() == first, "the exit code is that of the signal that was obeyed"

    before = [signal.getsignal(number) for number in STOPPING]
    with pytest.raises(KeyboardInterrupt):
        work()
    assert written == ["the last word"]
    assert [signal.getsignal(number) for number in STOPPING] == before
