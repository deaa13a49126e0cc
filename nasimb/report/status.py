"""Where a run stands, finished or not, in a few lines."""

from __future__ import annotations

from collections import Counter

from nasimb.report.run import Run
from nasimb.search.trial import CACHED, FAILED, FINISHED, INFEASIBLE, SCREENED, best_first, failure_counts

STATES = {
    FINISHED: "finished",
    SCREENED: "screened out",
    CACHED: "repeats at no cost",
    INFEASIBLE: "over a limit",
    FAILED: "failed",
}
LEAST_DOWN_SECONDS = 1.0
"""Less is what the times of two lines lack."""


def status_lines(run: Run) -> list[str]:
    """State, budget, spend by phase, trials and the best so far that keeps the limits."""
    state = "finished" if run.is_finished else "not finished; the same command goes on"
    if run.extensions and not run.is_finished:
        state = f"not finished; {run.next_command} to go on"
    extended = f" (extended from {run.extensions[0].before})" if run.extensions else ""
    spent = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in run.spent_seconds.items())
    lines = [
        f"{run.name}: {state}",
        f"budget   {run.config['budget']}{extended}",
        f"spent    {sum(run.spent_seconds.values()):.1f} s ({spent or 'nothing yet'})",
    ]
    if run.down_seconds >= LEAST_DOWN_SECONDS:
        lines.append(f"down     {run.down_seconds:,.0f} s between its processes, not charged")
    if run.trained is not None:
        lines.append(f"trained  {run.trained['info']['steps']} steps; search with --supernet")
    states = Counter(trial.state for trial in run.trials)
    if states:
        counts = [f"{states[state]:,} {words}" for state, words in STATES.items() if states[state]]
        failures = failure_counts(run.trials)
        lines.append("trials   " + ", ".join(counts) + (f" ({failures})" if failures else ""))
    again = sum(trial.failure is not None and trial.state in (FINISHED, SCREENED) for trial in run.trials)
    if again:
        lines.append(f"retried  {again:,} that failed at first; see failure in trials.csv")
    ranked = best_first(run.trials_within_limits())
    if ranked:
        best = ranked[0]
        lines.append(
            f"best     {best.score:.4f} held out, {best.macs:,} MACs, {best.params:,} params: {best.candidate}"
        )
    if run.tested is not None:
        name, test = run.tested
        lines.append(f"{name:<8} {test['balanced_accuracy']:.4f} balanced accuracy on the test split")
    return lines
