"""The page in a real browser: nothing is fetched, nothing fails, figures answer, and everyone can read it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nasimb.report.findings import findings
from nasimb.report.page import write_page
from report.evil_run import NAMES, evil_run

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install nasimb[test]")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe: pip install nasimb[test]")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt install chromium")]


@pytest.fixture(scope="module")
def file(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    write_page(findings([evil_run(finished_run, folder / "run"), finished_run]), folder / "page.html")
    return folder / "page.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        # Chromium has no sandbox for root, as in containers.
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield found
        found.close()


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["laptop", "phone"], scope="module")
def opened(request: pytest.FixtureRequest, browser: Any, file: Path) -> Iterator[tuple[Any, list[str], list[str]]]:
    """The page, drawn; what its console said, and what it asked for."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    view, said, asked = context.new_page(), [], []
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on("request", lambda made: asked.append(made.url))
    view.goto(file.as_uri())
    view.wait_for_selector("html[data-drawn]", timeout=120_000)
    yield view, said, asked
    context.close()


def test_it_is_drawn_without_a_word_or_a_request(opened: Any, file: Path) -> None:
    view, said, asked = opened
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    assert view.title().startswith("nasimb report")
    plots = view.locator(".plot")
    assert plots.count() == int(view.locator("html").get_attribute("data-drawn"))
    for number in range(plots.count()):
        box = plots.nth(number).locator("svg.main-svg").first.bounding_box()
        assert box["width"] > 200
        assert box["height"] > 100


def test_nothing_is_wider_than_the_screen(opened: Any) -> None:
    view, _, _ = opened
    assert view.evaluate("document.documentElement.scrollWidth") <= view.viewport_size["width"]


def test_everyone_can_read_it(opened: Any) -> None:
    view, _, _ = opened
    violations = axe.Axe().run(view).response["violations"]
    assert [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in violations] == []


def test_the_colours_are_those_of_the_scheme(opened: Any) -> None:
    view, _, _ = opened
    ink = view.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--ink').trim()")
    assert view.evaluate("document.querySelector('.plot').layout.font.color") == ink


def test_hover_shows_the_subnet_and_the_legend_hides_a_norm(opened: Any) -> None:
    view, said, _ = opened
    plot = view.locator("#plot-costs-0")
    plot.scroll_into_view_if_needed()
    plot.locator(".scatterlayer .points path").first.hover(force=True)
    view.wait_for_function("document.querySelector('#plot-costs-0 .hoverlayer').textContent.includes('MACs')")
    before = plot.locator(".scatterlayer .trace").count()
    plot.locator(".legendtoggle").first.click(force=True)
    view.wait_for_function(
        "count => document.querySelectorAll('#plot-costs-0 .scatterlayer .trace').length < count", arg=before
    )
    assert said == []


def test_a_class_name_is_shown_as_it_is(opened: Any) -> None:
    view, _, _ = opened
    plot = view.locator("#plot-confusion-0")
    assert NAMES[1][:15] in plot.inner_text(), "tags are text"
    assert plot.locator("a").count() == 0
    assert view.locator("script").count() == view.locator("script[data-for]").count() + 2


def test_it_prints(opened: Any) -> None:
    view, said, _ = opened
    printed = view.pdf(format="A4")
    assert printed.startswith(b"%PDF")
    assert len(printed) > 50_000
    assert said == []
