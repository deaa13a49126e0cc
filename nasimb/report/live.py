"""One picture of a run for a terminal, drawn anew at every look: `nasimb status --watch`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.text import Text

from nasimb.accounts import OWNER
from nasimb.budget import NOTHING, Budget, Holding
from nasimb.ledger import KINDS, kind_seconds
from nasimb.progress import clock_time
from nasimb.report.run import Run
from nasimb.report.status import LEAST_DOWN_SECONDS, STATES
from nasimb.report.tables import amount
from nasimb.search.trial import FAILED, FINISHED, SCREENED, Trial, best_first, failure_counts
from nasimb.visible import visible

SILENT_SECONDS = 30.0
"""The owner of a run writes a line of its ledger every second; so long without one, and nobody is at work."""
LOST_SECONDS = 15.0
"""Without a line of the ledger about it, after which a worker is lost: as the owner of the run has it."""
LABEL, NAME, LEAST_BAR, LONGEST_BAR = 10, 9, 4, 40
"""Characters of the first column, of a phase, and of a bar, which is left out where there is no room for it."""
BESIDE_BAR = LABEL + NAME + 24
HEIGHTS = "▁▂▃▄▅▆▇█"
STEPS_SHOWN, LAST_SHOWN, LEAST_SHOWN = 5, 12, 3


@dataclass(frozen=True, slots=True)
class Look:
    """A run folder at one moment.

    Attributes:
        now: seconds since 1970.
        waiting, running: candidates handed out that no worker has claimed, and that one is at; None where nothing in
            the folder tells.
    """

    run: Run
    now: float
    waiting: int | None = None
    running: int | None = None


class Left(NamedTuple):
    """How far a budget has gone, by the limit that is closest to its end.

    Attributes:
        used: fraction; more than 1 after an overrun.
        seconds: on the clock until it is spent, at the pace so far; None where nothing tells yet.
    """

    used: float
    seconds: float | None


def live_view(look: Look, *, width: int, height: int) -> RenderableType:
    """State, phases against the budget, trials, workers, the best and how it came, and the last trials.

    Args:
        width, height: of the terminal, in characters; the last trials fill the lines that are left.
    """
    run = look.run
    above = [
        _title(look),
        *_budget_lines(look, width),
        *_trial_lines(look),
        *_worker_lines(look),
        *_best_lines(run, width),
    ]
    rows = min(max(height - len(above) - 1, LEAST_SHOWN), LAST_SHOWN)
    last = [_line("last" if place == 0 else "", text) for place, text in enumerate(_last(run, rows))]
    return Group(*above, *last)


def is_running(run: Run, now: float) -> bool:
    """Whether the owner of a run that is not finished has been heard lately."""
    owner = run.heard.get(OWNER)
    return owner is not None and not run.is_finished and now - owner.at < SILENT_SECONDS


def alive(run: Run, now: float) -> list[str]:
    """Workers that the owner of a run under way has charged lately."""
    if not is_running(run, now):
        return []
    owner = run.heard[OWNER]
    others = ((name, heard) for name, heard in run.heard.items() if name != OWNER)
    return sorted(name for name, heard in others if owner.at - heard.at < LOST_SECONDS)


def time_left(run: Run, now: float) -> Left | None:
    """What is left of a budget that limits time; None for any other, and where nothing is charged yet."""
    if OWNER not in run.heard:
        return None
    budget = Budget.parse(run.config["budget"])
    charges = [run.heard[name].charge for name in (OWNER, *alive(run, now))]
    held = sum((Holding(charge.gpus, charge.threads) for charge in charges), NOTHING)
    found = []
    for kind, rate in zip(KINDS, (1, held.gpus, held.threads), strict=True):
        limit = getattr(budget, f"{kind}_seconds")
        if limit is not None:
            spent = kind_seconds(run.account, kind)
            found.append(Left(spent / limit, max(limit - spent, 0.0) / rate if rate else None))
    return max(found, key=lambda left: left.used, default=None)


def trials_left(run: Run) -> Left | None:
    """What is left of a budget that limits trials, in seconds of its search; None for any other."""
    limit = Budget.parse(run.config["budget"]).trials
    if limit is None:
        return None
    scored, seconds = _scored(run.trials), run.spent_seconds.get("search", 0.0)
    return Left(scored / limit, max(limit - scored, 0) * seconds / scored if scored else None)


def improvements(trials: Sequence[Trial]) -> list[tuple[Trial, float]]:
    """Trials better than all before them, with what they scored.

    On all images; in a search that screens, on the part of them that every candidate is scored on.
    """
    screens = any(trial.screen_score is not None for trial in trials)
    best, found = -math.inf, []
    for trial in trials:
        score = trial.screen_score if screens else trial.score
        if trial.state in (FINISHED, SCREENED) and score is not None and score > best:
            best = score
            found.append((trial, score))
    return found


def sparkline(values: Sequence[float], width: int) -> str:
    """The values as bars of eight heights, the last of each group where there are more than `width`.

    >>> sparkline([0.5, 0.5, 0.75, 1.0], 4)
    '▁▁▅█'
    """
    if not values or width < 1:
        return ""
    if len(values) > width:
        values = [values[(place + 1) * len(values) // width - 1] for place in range(width)]
    low, high = min(values), max(values)
    scale = (len(HEIGHTS) - 1) / (high - low) if high > low else 0.0
    return "".join(HEIGHTS[int((value - low) * scale + 0.5)] for value in values)


def _line(label: str, text: str | Text, style: str = "") -> Text:
    """One line of the picture: it is cut where the terminal ends, and nothing in it is markup."""
    line = Text(no_wrap=True, overflow="ellipsis").append(f"{label:<{LABEL - 1}} ", style="dim")
    return line.append(visible(text), style=style) if isinstance(text, str) else line.append_text(text)


def _title(look: Look) -> Text:
    run, owner = look.run, look.run.heard.get(OWNER)
    title = Text(visible(run.name), style="bold", no_wrap=True, overflow="ellipsis")
    if run.is_finished:
        return title.append("  finished", style="green")
    if owner is None:
        return title.append("  has only begun", style="yellow")
    if is_running(run, look.now):
        return title.append(f"  {visible(owner.charge.phase)}", style="cyan")
    silent = max(look.now - owner.at, 0.0)
    went = f"  not running, last heard {clock_time(silent)} ago; {run.next_command} to go on"
    return title.append(went, style="yellow")


def _budget_lines(look: Look, width: int) -> Iterator[Text]:
    """One bar for the budget, one for every phase: all phases together are as long as what is gone of the time."""
    run = look.run
    left, of_trials = time_left(run, look.now), trials_left(run)
    total = sum(run.spent_seconds.values())
    extended = f" (extended from {run.extensions[0].before})" if run.extensions else ""
    down = f", down {clock_time(run.down_seconds)}" if run.down_seconds >= LEAST_DOWN_SECONDS else ""
    yield _line("budget", f"{run.config['budget']}{extended}, spent {clock_time(total)}{down}")
    share = 1.0 if left is None else left.used
    for place, (phase, seconds) in enumerate(run.spent_seconds.items()):
        used = share * seconds / total if total else 0.0
        planned = _planned_seconds(run, phase, total / left.used if left is not None and left.used else None)
        plan = "" if planned is None else f" of {clock_time(planned)}"
        yield _line("phases" if place == 0 else "", _bar(phase, used, f"{clock_time(seconds)}{plan}", width))
    for name, one, what in (("time", left, "left"), ("trials", of_trials, "of search left")):
        if one is not None:
            running = one.seconds is not None and is_running(run, look.now)
            words = f"about {clock_time(one.seconds or 0.0)} {what}" if running else ""
            yield _line("used", _bar(name, one.used, words, width))


def _planned_seconds(run: Run, phase: str, limit_seconds: float | None) -> float | None:
    """What the budget sets apart for a phase: a share of its time, for the training of a super-network alone."""
    given = run.config.get("supernet") is not None or run.config.get("training_steps") is not None
    if phase != "supernet" or limit_seconds is None or given or run.extensions:  # the first budget's share, long spent
        return None
    return float(run.config["supernet_share"]) * limit_seconds


def _bar(name: str, used: float, words: str, width: int) -> Text:
    length = min(max(width - BESIDE_BAR, 0), LONGEST_BAR)
    filled = round(length * min(max(used, 0.0), 1.0))
    bar = Text(f"{visible(name):<{NAME}}")
    if length >= LEAST_BAR:
        bar.append("█" * filled, style="cyan").append("░" * (length - filled) + " ", style="dim")
    return bar.append(f"{used:>5.0%}  {words}".rstrip())


def _trial_lines(look: Look) -> Iterator[Text]:
    run = look.run
    states = Counter(trial.state for trial in run.trials)
    parts = [f"{states[state]:,} {words}" for state, words in STATES.items() if states[state] or state == FINISHED]
    limit = Budget.parse(run.config["budget"]).trials
    if limit is not None and not run.is_finished:
        parts.append(f"{max(limit - _scored(run.trials), 0):,} to go")
    parts += [
        f"{n:,} {words}" for n, words in ((look.waiting, "waiting"), (look.running, "under way")) if n is not None
    ]
    yield _line("trials", ", ".join(parts))
    if states[FAILED]:
        yield _line("failed", failure_counts(run.trials), "red")


def _worker_lines(look: Look) -> Iterator[Text]:
    names = alive(look.run, look.now)
    if names:
        yield _line("workers", f"{len(names)}: {', '.join(names)}")


def _best_lines(run: Run, width: int) -> Iterator[Text]:
    ranked = best_first(run.trials_within_limits())
    if ranked:
        best = ranked[0]
        costs = f"{amount(best.macs)} MACs, {amount(best.params)} params"
        yield _line("best", f"#{best.number} {best.score:.4f} held out, {costs}: {best.candidate}", "green")
    if run.tested is not None:
        name, test = run.tested
        yield _line(name, f"{test['balanced_accuracy']:.4f} balanced accuracy on the test split", "green")
    better = improvements(run.trials_within_limits())
    if len(better) > 1:
        ends = f"{better[0][1]:.4f} to {better[-1][1]:.4f}"
        curve = sparkline(_best_so_far(run, better), min(width - LABEL - len(ends) - 2, LONGEST_BAR))
        yield _line("so far", f"{curve}  {ends}")
    steps = [(trial, score, score - before) for (_, before), (trial, score) in pairwise(better)]
    for place, (trial, score, gain) in enumerate(reversed(steps[-STEPS_SHOWN:])):
        yield _line("improved" if place == 0 else "", f"{_number(trial)} {score:.4f}  +{gain:.4f}  {trial.candidate}")


def _best_so_far(run: Run, better: Sequence[tuple[Trial, float]]) -> list[float]:
    """After every trial from the first improvement on, whatever became of it: a plateau is as long as it took."""
    first, scores = better[0][0].number, {trial.number: score for trial, score in better}
    after = (scores.get(trial.number, -math.inf) for trial in run.trials if trial.number >= first)
    return list(accumulate(after, max))


def _last(run: Run, rows: int) -> Iterator[str]:
    """The newest trials, newest first."""
    for trial in reversed(run.trials[-rows:]):
        score = trial.screen_score if trial.score is None else trial.score
        found = "     -" if score is None or trial.state == FAILED else f"{score:.4f}"
        what = str(trial.failure or "failed") if trial.state == FAILED else STATES[trial.state]
        yield f"{_number(trial)} {found}  {amount(trial.macs):>6}  {what}: {trial.candidate}"


def _number(trial: Trial) -> str:
    return f"#{trial.number:<5}"


def _scored(trials: Sequence[Trial]) -> int:
    """How many count against a limit of trials."""
    return sum(trial.state in (FINISHED, SCREENED) for trial in trials)
