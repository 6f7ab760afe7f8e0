"""The report's panel of SLOs in a real browser: what mouse, keyboard, buttons and presets get, and what stays without a script."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.report.capacity_table import capacity_tables
from analysis.report.html_page import document
from analysis.report.markup import Markup, join, tag
from analysis.report.slo_panel import Panel, panel_of, sentence, slo_panels
from analysis.stats.slo_map import Cell
from tests.integration.browser import Browser, program
from tests.unit.analysis.report.test_slo_panel import EVIL, KNOWN, swept

pytestmark = pytest.mark.skipif(program() is None, reason="no Chromium here: apt-get install chromium")
SWEEPS = swept(arms={EVIL: (10.0, 8.0), "pd_1p1d": (6.0, 12.0)})
SAYS = "document.querySelector('.says p').textContent"
AWAY = {"type": "mouseMoved", "x": 1, "y": 1}


@pytest.fixture(scope="module")
def panel() -> Panel:
    return panel_of(SWEEPS, KNOWN)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    body = join([tag("section", slo_panels(SWEEPS, KNOWN)), tag("section", capacity_tables(SWEEPS, KNOWN))])
    file.write_text(document("a panel", Markup(), Markup(), body), encoding="utf-8")
    return file


def rows(panel: Panel, share: float) -> list[Cell]:
    """The cells in the order of the table's fields."""
    return [cell for ttft_ms in reversed(panel.shown.ttft_ms) for cell in panel.maps[share].row(ttft_ms)]


def test_every_field_says_at_every_share_what_the_analysis_says(browser: Browser, panel: Panel) -> None:
    focus = f"[...document.querySelectorAll('.map .field')].map(f => {{ f.focus(); return [{SAYS}, f.textContent]; }})"
    for share in (0.9, 0.95, 0.99):
        browser.click(f".share[data-share='{100 * share:g}']")
        pressed = browser.js("[...document.querySelectorAll('.share')].map(b => b.getAttribute('aria-pressed'))")
        assert pressed.index("true") == (0.9, 0.95, 0.99).index(share)
        assert [said for said, _ in browser.js(focus)] == [sentence(cell) for cell in rows(panel, share)]


def test_a_field_under_the_mouse_is_said_and_a_click_keeps_it(browser: Browser, panel: Panel) -> None:
    first, own = (sentence(cell) for cell in (rows(panel, 0.9)[5], panel.chosen))
    field = ".map tbody tr:first-child td:nth-of-type(6) .field"
    assert browser.js(SAYS) == own
    browser.hover(field)
    browser.until(lambda: browser.js(SAYS) == first, "the field under the mouse is said")
    browser.ask("Input.dispatchMouseEvent", **AWAY)
    browser.until(lambda: browser.js(SAYS) == own, "the chosen field is said again")
    browser.click(field)
    browser.ask("Input.dispatchMouseEvent", **AWAY)
    assert browser.js(SAYS) == first
    assert browser.js("document.querySelectorAll('[aria-current]').length") == 1
    assert browser.js("document.querySelector('.says ul').innerText").splitlines()[0].startswith(f"{EVIL}: ")


def test_the_keyboard_is_enough(browser: Browser, panel: Panel) -> None:
    cells, columns = rows(panel, 0.9), len(panel.shown.tpot_ms)
    at = cells.index(panel.chosen)
    browser.js("document.querySelector('select').focus()")
    browser.press("Tab", 9)
    while not browser.js("document.activeElement.matches('.field')"):
        browser.press("Tab", 9)
    assert browser.js("[...document.querySelectorAll('.map .field')].indexOf(document.activeElement)") == at, "one stop by Tab"
    for key, code, step in (("ArrowLeft", 37, -1), ("ArrowUp", 38, -columns), ("ArrowRight", 39, 1), ("ArrowDown", 40, columns)):
        browser.press(key, code)
        at += step
        assert browser.js(SAYS) == sentence(cells[at]), key
    browser.press("ArrowUp", 38)
    browser.press("Enter", 13)
    browser.press("Tab", 9)
    assert browser.js(SAYS) == sentence(cells[at - columns])


def test_an_arrow_stops_at_the_end_of_a_row(browser: Browser) -> None:
    browser.js("document.querySelector('.map tbody tr:nth-child(2) td .field').focus()")
    before = browser.js(SAYS)
    browser.press("ArrowLeft", 37)
    assert browser.js(SAYS) == before


def test_a_preset_is_chosen_with_its_share_though_no_field_has_it(browser: Browser, panel: Panel) -> None:
    for n, (mark, cell) in enumerate(panel.presets):
        browser.js(f"(s => {{ s.value = '{n}'; s.dispatchEvent(new Event('change')); }})(document.querySelector('select'))")
        assert browser.js(SAYS) == sentence(cell), mark.name
        inside = (cell.ttft_ms, cell.tpot_ms) in panel.shown.cells
        assert browser.js("document.querySelectorAll('[aria-current]').length") == (1 if inside else 0), mark.name
        assert browser.js("document.querySelectorAll('.map .field[tabindex=\"0\"]').length") == 1
    browser.click(".share[data-share='95']")
    assert "for 95 % of the requests" in browser.js(SAYS)


def test_without_a_script_the_run_s_own_row_is_text(browser: Browser, page: Path) -> None:
    assert browser.js("document.querySelector('.row').hidden")
    browser.scripts(False)
    try:
        browser.open("about:blank")
        browser.open(page.as_uri())
        root = browser.ask("DOM.getDocument")["root"]["nodeId"]
        shown = {}
        for what in (".row", ".says", ".map"):
            node = browser.ask("DOM.querySelector", nodeId=root, selector=what)["nodeId"]
            shown[what] = browser.ask("DOM.getBoxModel", nodeId=node)["model"]["height"]
        assert min(shown.values()) > 20
        controls = browser.ask("DOM.querySelector", nodeId=root, selector=".controls")["nodeId"]
        attributes = browser.ask("DOM.getAttributes", nodeId=controls)["attributes"]
        assert "hidden" in attributes
        text = browser.ask("DOM.getOuterHTML", nodeId=browser.ask("DOM.querySelector", nodeId=root, selector=".row")["nodeId"])
        assert "For TTFT ≤ 500 ms for 90 % of the requests: " in text["outerHTML"].replace("&lt;", "<")
    finally:
        browser.scripts(True)
        browser.open("about:blank")


@pytest.mark.parametrize("width", [400, 1280])
def test_no_width_makes_the_page_scroll_sideways(browser: Browser, width: int) -> None:
    browser.resize(width, 900)
    assert browser.js("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_the_row_is_printed_and_the_buttons_are_not(browser: Browser) -> None:
    browser.ask("Emulation.setEmulatedMedia", media="print")
    try:
        display = "getComputedStyle(document.querySelector({})).display"
        assert browser.js(display.format(json.dumps(".which .row"))) == "block"
        assert browser.js(display.format(json.dumps(".controls"))) == "none"
    finally:
        browser.ask("Emulation.setEmulatedMedia", media="")
