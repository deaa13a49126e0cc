"""Heads over frozen features: closed-form ones by name, and the iterative one for any loss."""

from __future__ import annotations

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
    "leave_one_out",
    "leave_one_out_stream",
]

HEADS: dict[str, type[ClosedFormSpec]] = {
    "ridge": RidgeSpec,
    "gda": GdaSpec,
    "quick_logistic": QuickLogisticSpec,
}
