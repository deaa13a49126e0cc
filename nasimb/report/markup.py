"""What HTML pages of nasimb share: templates to which users' text is never markup, a look, and a kind of table.

Everything that comes from users (class names, paths, notes, commands) is escaped, and its control characters are made
visible. `look.css` is the style, `table.html.j2` has the macro of a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from nasimb.visible import visible


def environment(package: str) -> Environment:
    """Templates of a package, which may include and import those shared here; with the filter `table_values`."""
    made = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("nasimb.report")]), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_finished,
    )  # fmt: skip
    made.filters["table_values"] = table_values
    return made


def table_values(frame: pd.DataFrame) -> Mapping[str, Any]:
    """Columns with whether they hold numbers, and rows of cells; missing ones are empty."""
    columns = [
        {"name": str(name), "number": pd.api.types.is_numeric_dtype(frame[name])} for name in frame.columns
    ]  # fmt: skip
    rows = [["" if pd.isna(cell) else _cell(cell) for cell in row] for row in frame.itertuples(index=False)]
    return {"columns": columns, "rows": rows}


def _cell(cell: Any) -> str:
    """Numbers as they are read: counts whole, also where a missing one has made them floats; no exponents."""
    if isinstance(cell, bool | np.bool_) or not isinstance(cell, int | float | np.integer):
        return str(cell)
    if float(cell).is_integer():
        return f"{int(cell):,}"
    return f"{cell:,.1f}" if abs(float(cell)) >= 100 else f"{cell:.4g}"


def _finished(value: object) -> object:
    """What a template prints: markup of its own as it is, text without control characters."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
