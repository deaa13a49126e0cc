"""Heads over frozen features: closed-form ones by name, and the iterative one for any loss.

Start with `parse_head` and `leave_one_out`, which scores several heads at once; `LogisticSpec` takes any loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nasimb.heads.base import (
    ClosedFormSpec,
    LeaveOneOut,
    MomentSpec,
    fit_stream,
    leave_one_out,
    leave_one_out_stream,
)
from nasimb.heads.gda import GdaSpec
from nasimb.heads.head import CosineHead, Head
from nasimb.heads.logistic import LogisticSpec
from nasimb.heads.quick import QuickLogisticSpec
from nasimb.heads.ridge import RidgeSpec
from nasimb.spec import from_table

__all__ = [
    "HEADS",
    "ClosedFormSpec",
    "CosineHead",
    "Head",
    "LeaveOneOut",
    "LogisticSpec",
    "MomentSpec",
    "QuickLogisticSpec",
    "fit_stream",
    "is_closed_form",
    "leave_one_out",
    "leave_one_out_stream",
    "parse_head",
]

HEADS: dict[str, type[ClosedFormSpec]] = {
    "ridge": RidgeSpec,
    "gda": GdaSpec,
    "quick_logistic": QuickLogisticSpec,
}
"""Closed-form heads by name."""


def is_closed_form(head: str | Mapping[str, Any]) -> bool:
    """Whether a configuration value, `"gda"` or `{name: gda, taus: [0, 1]}`, names one of `HEADS`.

    Example:
        >>> is_closed_form({"name": "gda", "taus": [0, 1]}), is_closed_form("balanced_softmax")
        (True, False)
    """
    return (head if isinstance(head, str) else head.get("name")) in HEADS


def parse_head(head: str | Mapping[str, Any]) -> ClosedFormSpec:
    """The closed-form head that a configuration value names.

    Raises:
        InputError: no such head, or no such option (with the nearest known).

    Example:
        >>> head = parse_head({"name": "ridge", "grid": [0.1, 1.0]})
        >>> head.grid, head.estimator
        ((0.1, 1.0), 'leave-one-out')
    """
    return from_table(HEADS, head, what="the head")
