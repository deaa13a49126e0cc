"""What is said where a unit of work is expected not to fit into what is left, and so is not started."""

from __future__ import annotations

from collections.abc import Sequence

from nasimb.search.predict import predicted_seconds


def not_started(
    what: str, number: int, each_seconds: float, left_seconds: float, *, purpose: str, kept_seconds: float, kept: str
) -> str:
    """One line: how many units of what size, what was left for them, and what is kept from them for what.

    >>> not_started("candidates", 4, 1.25, 0.8, purpose="the search", kept_seconds=12.0, kept="heads and test")
    'not started: 4 candidates of ~1.2 s each; 0.8 s left for the search (12 s kept for heads and test)'
    """
    units = f"{number:,} {what} of ~{_seconds(each_seconds)} s" + (" each" if number != 1 else "")
    left = f"{_seconds(max(left_seconds, 0.0))} s left for {purpose}"
    return f"not started: {units}; {left} ({_seconds(kept_seconds)} s kept for {kept})"


def candidates_not_started(
    macs: Sequence[int], seen: Sequence[tuple[int, float]], left_seconds: float, keep_seconds: float
) -> str:
    """The line where the first of these candidates does not fit.

    Args:
        macs: of the candidates that wait.
        seen: (MACs, seconds) of the last trials.
        left_seconds, keep_seconds: of the budget, and of that for what comes after.
    """
    return not_started(
        "candidate" if len(macs) == 1 else "candidates", len(macs), predicted_seconds(macs[:1], seen),
        left_seconds - keep_seconds, purpose="the search", kept_seconds=keep_seconds, kept="heads and test",
    )  # fmt: skip


def comparisons_not_started(
    expected_seconds: Sequence[float], left_seconds: float, keep_seconds: float, kept: str
) -> str:  # fmt: skip
    """The line where comparisons of heads, expected to take so long each, do not fit.

    Args:
        left_seconds, keep_seconds: of the budget, and of that for what comes after (`kept`).
    """
    what = "comparison of a head" if len(expected_seconds) == 1 else "comparisons of heads"
    mean_seconds = sum(expected_seconds) / len(expected_seconds)
    return not_started(
        what, len(expected_seconds), mean_seconds, left_seconds - keep_seconds, purpose="heads",
        kept_seconds=keep_seconds, kept=kept,
    )  # fmt: skip


def _seconds(seconds: float) -> str:
    """Two digits of a short time, whole seconds of a long one."""
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1f}" if seconds >= 0.095 else f"{seconds:.2g}"
