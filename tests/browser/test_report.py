"""The report in a real headless browser: silent console, no requests, fits a phone, both themes."""

import re
import shutil
from contextlib import contextmanager

import pytest

from evomerge.report.html import write_report
from tests.report.planted_folder import PlantedFolder

sync_api = pytest.importorskip("playwright.sync_api")

WIDTHS = (375, 768, 1280)
NASTY = 'a<script>alert(1)</script>&"b'


@pytest.fixture(scope="module")
def chromium():
    """A browser; this machine's, or the one that playwright brings."""
    found = next(
        filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None
    )
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no Chromium could be started: {error}")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory, quickstart):
    """Reports of unlike runs, by name."""
    kinds = {
        "finished": {"candidates": 60, "fails": 7},
        "many": {"candidates": 60, "tasks": (NASTY, "b", "c", "d")},
        "one": {"tasks": ("words",)},
        "begun": {"fails": 4, "random": False},
        "empty": {"candidates": 0, "random": False},
        "racing": {"racing": True, "items": 30},
    }
    found = {}
    for name, kind in kinds.items():
        planted = PlantedFolder(tmp_path_factory.mktemp(name) / "run", quickstart, **kind)
        if name not in ("begun", "empty"):
            planted.finish()
        found[name] = write_report(planted.close())
    return found


@contextmanager
def opened(browser, page, *, width=1280, scheme="light"):
    """The page, drawn; nothing may be said on the console, asked for or thrown."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    tab = context.new_page()
    heard: list[str] = []
    tab.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: heard.append(f"thrown: {error}"))
    tab.on("dialog", lambda dialog: (heard.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    try:
        tab.goto(page.as_uri())
        tab.wait_for_selector("html[data-drawn]", state="attached", timeout=60_000)
        yield tab
        assert heard == []
        assert asked == [page.as_uri()], "the page asks nobody for anything"
    finally:
        context.close()


def overflow(tab):
    return tab.evaluate("document.documentElement.scrollWidth - window.innerWidth")


def background(tab):
    found = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", found)[:3])) / 3


@pytest.mark.parametrize("kind", ["finished", "many", "one", "begun", "empty", "racing"])
def test_every_page_is_silent_and_fits_every_width(chromium, pages, kind):
    for width in WIDTHS if kind in ("finished", "many") else WIDTHS[:1]:
        with opened(chromium, pages[kind], width=width) as tab:
            assert overflow(tab) <= 0, f"{width} px: the page scrolls sideways"
            tab.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
            assert overflow(tab) <= 0, f"{width} px, everything unfolded"
            figures = tab.locator(".plot").count()
            assert tab.locator(".plot .main-svg").count() >= figures
            assert (figures == 0) is (kind == "empty")


def test_the_theme_is_the_systems_until_the_reader_says_otherwise(chromium, pages):
    for scheme, dark in (("light", False), ("dark", True)):
        with opened(chromium, pages["finished"], scheme=scheme) as tab:
            assert (background(tab) < 60) is dark
            tab.emulate_media(color_scheme="dark" if not dark else "light")
            tab.wait_for_timeout(100)
            assert (background(tab) < 60) is not dark, "it follows the system"
            button = tab.locator("#theme")
            button.click()
            assert button.inner_text() == "Theme: light"
            assert background(tab) > 200
            button.click()
            assert button.inner_text() == "Theme: dark"
            assert background(tab) < 60
            tab.wait_for_selector("html[data-drawn=dark]", state="attached")
            text = tab.evaluate(
                "getComputedStyle(document.querySelector('#front-plot .xtick text')).fill"
            )
            assert text == "rgb(228, 231, 234)", "figures change with the page"


def test_hovering_a_point_shows_its_recipe(chromium, pages):
    with opened(chromium, pages["finished"]) as tab:
        box = tab.locator("#front-plot")
        box.scroll_into_view_if_needed()
        # the winner, placed by the search items
        points = tab.locator("#front-plot .scatterlayer .trace path.point")
        place = points.nth(points.count() - 2).bounding_box()
        tab.mouse.move(place["x"] + place["width"] / 2 + 3, place["y"] + place["height"] / 2)
        label = tab.locator("#front-plot .hoverlayer .hovertext")
        label.first.wait_for()
        said = label.first.text_content()
        assert "winner: candidate" in said
        assert "weight lunari" in said
        assert "recipe search0" in said


def test_selects_change_axes_and_filters_choose_items(chromium, pages):
    with opened(chromium, pages["many"]) as tab:
        axis = "#front-plot .g-xtitle text"
        assert tab.locator(axis).text_content() == NASTY, "shown as it is called, not as a tag"
        tab.locator("select[data-plot=front-plot][data-axis=x]").select_option("c")
        assert tab.locator(axis).text_content() == "c"
        values = tab.evaluate(
            "(() => { const t = document.getElementById('front-plot').data[0];"
            " return [t.x[0], t.meta.values.c[0]]; })()"
        )
        assert values[0] == values[1]
        tab.locator("select[data-plot=volume-plot]").select_option("hours")
        assert tab.locator("#volume-plot .g-xtitle text").text_content() == "hours"
        tab.locator("summary", has_text="Item by item").click()
        rows = tab.locator("#flips tbody tr:visible")
        everything = rows.count()
        question = rows.first.locator("td.question").inner_text()
        number = rows.first.locator("td.number").first.inner_text()
        task = rows.first.locator("th").inner_text()
        assert question == f"Question {number}\nof <{task}>?", "as text, whatever is in it"
        tab.locator("[data-filter=parent]").select_option("lunari")
        tab.locator("[data-filter=way]").select_option("lost")
        lost = rows.count()
        assert 0 < lost < everything
        assert tab.locator(".filters output").inner_text() == f"{lost} items"
        marks = tab.locator("#flips tbody tr[data-lost~=lunari]:visible").count()
        assert marks == lost
        tab.locator("[data-filter=cut]").check()
        assert rows.count() <= lost


def test_the_recipe_can_be_copied(chromium, pages):
    with opened(chromium, pages["finished"]) as tab:
        recipe = tab.locator("#recipe-yaml").text_content()
        tab.locator("[data-copy=recipe-yaml]").click()
        tab.locator("[data-copy=recipe-yaml]", has_text="Copied").wait_for()
        tab.evaluate(
            "(() => { const t = document.createElement('textarea'); t.id = 'paste';"
            " document.body.append(t); t.focus(); })()"
        )
        tab.keyboard.press("Control+V")
        assert tab.locator("#paste").input_value().strip() == recipe.strip()


def test_keyboard_reaches_the_report_and_its_tables(chromium, pages):
    with opened(chromium, pages["finished"], width=375) as tab:
        tab.keyboard.press("Tab")
        assert tab.evaluate("document.activeElement.textContent") == "Skip to the report"
        regions = tab.locator(".scroll")
        assert regions.count() == tab.locator(".scroll[tabindex='0'][aria-label]").count() > 5
