"""A report as one HTML file that loads nothing from elsewhere: plotly for the figures, jinja2 for the rest.

Figures travel as JSON in which no tag can begin. The page forbids itself every request by its content security policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from nasimb.durable import replace_whole
from nasimb.report import sections
from nasimb.report.figures import side_by_side
from nasimb.report.findings import Findings
from nasimb.report.markup import environment
from nasimb.report.sections import Figure, Section
from nasimb.report.tables import comparison


@dataclass(frozen=True, eq=False)
class Chapter:
    """One run on the page."""

    name: str
    number: int
    answer: str
    tiles: tuple[sections.Tile, ...]
    missing: tuple[str, ...]
    sections: tuple[Section, ...]


def write_page(found: Sequence[Findings], file: Path) -> None:
    """Write the page whole or not at all."""
    replace_whole(file, page(found).encode())


def page(found: Sequence[Findings]) -> str:
    """The whole page of one run, or of several side by side and then one after the other."""
    chapters = [_chapter(one, number) for number, one in enumerate(found)]
    together, unlike = None, ""
    if len(found) > 1:
        entries = {one.name: one.run.finished_result()["winner"]["test"] for one in found}
        table = comparison([one.run for one in found]).assign(run=[one.name for one in found])
        alt = "The winners' recalls on the test split, one row a run; the table below has the numbers."
        unlike = _on_other_images(found)
        together = Figure("together", side_by_side(entries), alt, table, shut=False)
    made = environment("nasimb.report")
    made.filters["figure_json"] = figure_json
    return made.get_template("report.html.j2").render(
        title=f"nasimb report: {', '.join(one.name for one in found)}",
        chapters=chapters,
        together=together,
        unlike=unlike,
        plotly=Markup(get_plotlyjs()),
    )


def _on_other_images(found: Sequence[Findings]) -> str:
    """What must be said where the runs were not tested on the same images."""
    tested = {one.run.finished_result()["provenance"]["data"]["test"] for one in found}
    if len(tested) == 1:
        return ""
    return f"These runs were tested on {len(tested)} different sets of images: figures of two sets do not compare."


def _chapter(one: Findings, number: int) -> Chapter:
    made = (
        sections.bought, sections.costs, sections.by_class, sections.budget, sections.chosen, sections.receipt,
    )  # fmt: skip
    return Chapter(
        name=one.name,
        number=number,
        answer=sections.answer(one),
        tiles=sections.tiles(one),
        missing=tuple(one.missing),
        sections=tuple(build(one) for build in made),
    )


def figure_json(figure: go.Figure) -> Markup:
    """The figure as JSON that may stand in a script element: no tag, comment or line separator can begin in it."""
    text = figure.to_json()
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return Markup(text)
