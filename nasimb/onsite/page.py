"""A dry run as one HTML file that loads nothing from elsewhere, and a stream as one picture.

Templates are those of `nasimb.report.markup`, to which no text from users is markup; it has no control characters, for
XML allows none.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from nasimb.durable import check_writable, replace_whole
from nasimb.errors import InputError
from nasimb.onsite.charts import Picture, picture_of
from nasimb.onsite.dryrun import DryRun
from nasimb.onsite.tables import summary, tables
from nasimb.report.markup import environment

FIGURE = re.compile(r"(< |\+|-)?[\d.]*%?( \[.*\])?")

ABOUT = {
    "Accuracy on the labelled images": "In points, with 95 % bootstrap intervals; many, medium and few: mean recall of "
    "classes with more than 100, 20 to 100, fewer than 20 training images.",
    "Batches by what was done": "The adapter begins with the statistics of training and follows the stream only while "
    "it shows many classes, in no order, and a shift that their shares do not explain.",
    "Class mix": "Shares of the images by predicted probability. A mix other than in training is no reason to adapt.",
    "Layers": "Shift: how far the means of a norm's channels are from training, in standard deviations. Limit of "
    "noise: what 95 of 100 sites with nothing wrong keep below. p: how likely a shift this large would be by chance. "
    "What the class mix explains goes by the predictions of the model as it is, which a large shift spoils. "
    "Weight: of this site in the statistics that would be used.",
}


def check_outputs(log: Path | None, picture: Path | None) -> None:
    """`check_writable` of both; InputError too where lines would be written over a file that is there, or over those
    of the picture."""
    for file in (log, picture):
        if file is not None:
            check_writable(file)
    if log is not None and (log.exists() or (picture is not None and picture.resolve() == log.resolve())):
        got = f"{log}, which is there" if log.exists() else f"{log} for both"
        raise InputError("JSON lines must go to a file of their own", got=got, do="Name another, or move it away.")


def write_page(found: DryRun, file: Path) -> None:
    """Write it whole or not at all."""
    replace_whole(file, page(found).encode())


def write_picture(picture: Picture, file: Path) -> None:
    """Write it whole or not at all."""
    replace_whole(file, svg(picture).encode())


def svg(picture: Picture) -> str:
    """The picture as an SVG document."""
    return environment("nasimb.onsite").get_template("picture.svg.j2").render(picture=picture)


def page(found: DryRun) -> str:
    """The whole page."""
    title = f"{found.watched.folder} at {found.watched.data}"
    sections = [
        {"title": name, "about": ABOUT.get(name, ""), "columns": _columns(table), "rows": table.values.tolist()}
        for name, table in tables(found).items()
    ]
    return (
        environment("nasimb.onsite")
        .get_template("page.html.j2")
        .render(
            title=title,
            verdict=found.verdict,
            lines=summary(found),
            sections=sections,
            bars=_bars(found.layers),
            picture=Markup(svg(picture_of(found.records, found.model.classes, title))),
        )
    )


def _columns(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Names, and whether every cell is a figure; classes are names even where they are called 1 and 2."""
    found = []
    for name in table.columns:
        cells = [cell for cell in table[name] if not pd.isna(cell)]
        figures = all(not isinstance(cell, str) or FIGURE.fullmatch(cell) for cell in cells)
        found.append({"name": str(name), "number": figures and not str(name).startswith("class ") and name != "class"})
    return found


def _bars(layers: pd.DataFrame) -> list[dict[str, Any]]:
    """Shift and limit of every layer, in percent of the largest."""
    limits = [0.0 if math.isnan(value) else value for value in layers["limit"]]
    most = max(1e-9, layers["shift"].max(), *limits)
    return [
        {
            "layer": layer,
            "shift": f"{shift:.2f}",
            "width": f"{100 * shift / most:.1f}",
            "limit": f"{100 * limit / most:.1f}",
        }
        for layer, shift, limit in zip(layers["layer"], layers["shift"], limits, strict=True)
    ]
