"""The page in a real browser: nothing is said or fetched, it fits a phone, and everyone can read it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from nasimb.care.look import look_closer
from nasimb.care.page import write_page
from nasimb.data.digits import DigitsSpec

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install nasimb[test]")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe: pip install nasimb[test]")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt install chromium")
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_loads_alone_fits_and_is_accessible(tmp_path: Path, width: int, scheme: str) -> None:
    file = tmp_path / "page.html"
    write_page(look_closer(DigitsSpec()), file, title="digits")
    said, asked = [], []
    with playwright.sync_playwright() as started:
        # Chromium has no sandbox for root, as in containers.
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        # The page allows no script; axe is one.
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True
        )  # fmt: skip
        view = context.new_page()
        view.on("console", lambda message: said.append(message.text))
        view.on("request", lambda made: asked.append(made.url))
        view.goto(file.as_uri())
        assert said == []
        assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        assert view.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        found = axe.Axe().run(view)
        assert found.violations_count == 0, found.generate_report()
        browser.close()
