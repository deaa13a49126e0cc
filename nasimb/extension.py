"""Extensions: what a run was given beyond the budget that it was started with.

```
RUN/extensions.json    every extension: what was added, the budgets before and after, where it was asked for
RUN/result-1.json      the result before the first extension; result-2.json before the second, and so on
RUN/predictions-1.csv  what its models said of the test images; classes-1.json: where its winner was wrong
```

The record is written first, then the budget in config.yaml, then the old result is set aside. Each step is atomic and
`settle` takes those that a kill has left out, so that an extension is made once, however often it is begun.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from nasimb.errors import ResumeError
from nasimb.rundir import RunDir

FILE = "extensions.json"
RESULT, PREDICTIONS, CLASSES = "result.json", "predictions.csv", "classes.json"


@dataclass(frozen=True, slots=True)
class Extension:
    """One extension of a run.

    Attributes:
        added: as typed, "+4gpu-h".
        before, budget: of the run, without and with it.
        environment: versions, device and command line of the process that asked for it.
        spent_seconds: on the clock, when it was asked for.
        seen: whether its result was shown. Until then the command that asked for it goes on with it, and adds nothing.
    """

    added: str
    before: str
    budget: str
    environment: Mapping[str, Any]
    spent_seconds: float = 0.0
    seen: bool = False


def extensions(run: RunDir) -> list[Extension]:
    """Every extension of the run, in order.

    Raises:
        ResumeError: the file is damaged.
    """
    found = run.read_json(FILE)
    try:
        return [] if found is None else [Extension(**values) for values in found["extensions"]]
    except (KeyError, TypeError) as error:
        raise ResumeError(
            f"{run.path / FILE} must list extensions", got=repr(error), do="Restore it, or start a new run."
        ) from None


def extend(run: RunDir, extension: Extension) -> None:
    """Give the run its new budget; the result so far is set aside."""
    _write(run, [*extensions(run), extension])
    settle(run)


def settle(run: RunDir) -> None:
    """Finish what a kill has left of `extend`; harmless where nothing is left."""
    made = extensions(run)
    if not made:
        return
    budget, config = made[-1].budget, run.config()
    if config["budget"] != budget:
        run.write_config({**config, "budget": budget})
    result = run.read_json(RESULT)
    if result is not None and result["spend"]["limit"] != budget:
        number = len(earlier_results(run)) + 1
        for name in (CLASSES, PREDICTIONS, RESULT):  # the result last: it says that this is still to be done
            file = run.path / name
            if file.exists():
                file.replace(file.with_stem(f"{file.stem}-{number}"))


def earlier_results(run: RunDir) -> list[dict[str, Any]]:
    """The results before each extension of a finished run, in order."""
    found: list[dict[str, Any]] = []
    while (result := run.read_json(f"result-{len(found) + 1}.json")) is not None:
        found.append(result)
    return found


def first_budget(run: RunDir) -> str | None:
    """The budget that an extended run was started with; None for one that never was extended."""
    made = extensions(run)
    return made[0].before if made else None


def just_extended(run: RunDir, spent_seconds: float) -> bool:
    """Whether nothing was spent since the last extension: a process that begins now goes on with nobody's work."""
    made = extensions(run)
    return bool(made) and spent_seconds <= made[-1].spent_seconds


def extension_notes(run: RunDir) -> list[str]:
    """What the reader of an extended run's numbers must know."""
    made, reads = extensions(run), 1 + len(earlier_results(run))
    if not made:
        return []
    notes = [f"The budget was extended: {', then '.join([made[0].before, *(one.budget for one in made)])}."]
    if reads > 1:
        notes.append(
            f"The test split was read {reads} times, once for every winner: choose none of them by it. Earlier results "
            f"are result-1.json{'' if reads == 2 else f' to result-{reads - 1}.json'}."
        )
    return notes


def mark_seen(run: RunDir) -> None:
    """The result of the last extension was shown: the same command again is a new one."""
    made = extensions(run)
    _write(run, [replace(one, seen=True) for one in made])


def _write(run: RunDir, made: list[Extension]) -> None:
    run.write_json(FILE, {"extensions": [asdict(one) for one in made]})
