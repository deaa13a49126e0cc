"""Values that several commands take."""

from __future__ import annotations

from enum import StrEnum

DATA_FORMS = "folder:DIR, list:FILE, arrays:FILE.npz, cifar10:DIR, cifar100:DIR or digits"

STORAGE_HELP = (
    "Where processes on several hosts meet: postgresql+psycopg://..., mysql+pymysql://..., or grpc://host:port of "
    "nasimb storage serve. Default: a journal in the run folder, for one host. A password is better given in the "
    "environment (NASIMB_STORAGE), or left to PGPASSWORD or ~/.pgpass: command lines are for all to see."
)


class Sampling(StrEnum):
    """How training images are drawn."""

    natural = "natural"
    balanced = "balanced"
    sqrt = "sqrt"


class Format(StrEnum):
    """How a report is printed."""

    terminal = "terminal"
    markdown = "markdown"
    csv = "csv"
    json = "json"
    svg = "svg"
