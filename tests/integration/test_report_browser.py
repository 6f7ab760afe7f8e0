"""The report's page in a real browser, headless Chromium: no error, what mouse and keyboard get, links, both schemes, no script.

Debian and Ubuntu: apt-get install chromium."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.load.frame import load_runs
from analysis.report.html_page import write_page
from tests.integration.browser import Browser, program
from tests.unit.analysis.records_made import invalid, record
from tests.unit.analysis.records_made import write as write_records

pytestmark = pytest.mark.skipif(program() is None, reason="no Chromium here: apt-get install chromium")
TIP = "document.getElementById('tip')"
MARK = ".charts .series[data-series=route_2] .point"
EVIL = "<img src=x onerror=\"window.hacked='yes'\"><script>window.hacked='yes'</script>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    lengths = ((512, 256), (1024, 256), (512, 512))
    records = [
        record(arm, at, i, value=v + i) for arm, v in (("route_2", 10.0), ("pd_1p1d", 20.0)) for at in lengths for i in range(3)
    ]
    records.append(invalid("pd_1p1d", repeat=9))
    records.append(record("pd_1p1d", (512, 512), 8, error=EVIL, status="failed", valid=False, value=None))
    write_records(folder, records)
    return write_page(load_runs([folder]), folder / "report.html")


def tip(browser: Browser) -> str:
    return "" if browser.js(f"{TIP}.hidden") else str(browser.js(f"{TIP}.innerText"))


def test_a_mark_under_the_mouse_says_arm_setting_value_interval_and_repeats(browser: Browser) -> None:
    assert tip(browser) == ""
    browser.hover(MARK)
    browser.until(lambda: tip(browser), "the tip is shown")
    said = tip(browser)
    assert said.splitlines()[0] == "route_2"
    assert "input 512 tokens, output 256 tokens" in said
    assert "11.00 tokens/s" in said
    assert "95 % interval of the mean within the one start: 8.52 to 13.48 tokens/s; 3 repeats" in said  # 11 ± 4.303·1/√3
    browser.ask("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    browser.until(lambda: not tip(browser), "the tip is gone")


def test_a_click_keeps_the_tip_and_its_link_leads_to_the_record(browser: Browser) -> None:
    browser.click(MARK)
    browser.ask("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    assert not browser.js("new Promise(r => setTimeout(() => r(document.getElementById('tip').hidden), 400))")
    browser.click("#tip a")
    browser.until(lambda: browser.js("location.pathname").endswith(".json"), "the record is open")
    record_shown = json.loads(browser.js("document.body.innerText"))
    assert (record_shown["arm"], record_shown["point"]["input_len"], record_shown["point"]["repeat"]) == ("route_2", 512, 0)


def test_a_number_leads_to_its_measurements(browser: Browser) -> None:
    browser.click("#numbers ~ .scroll tbody tr:first-child a")
    anchor = browser.js("location.hash")
    browser.until(
        lambda: browser.js(f"document.querySelector('{anchor}').getBoundingClientRect().top < innerHeight"), "it is in sight"
    )
    assert browser.js(f"document.querySelector('{anchor}').innerText").startswith("pd_1p1d: input 512 tokens, output 256 tokens")


def test_the_keyboard_is_enough(browser: Browser) -> None:
    browser.js(f"document.querySelector({json.dumps(MARK)}).focus()")
    assert tip(browser).startswith("route_2")
    browser.press("Enter", 13)
    assert browser.js("document.activeElement.textContent") == "repeat 0: record"
    browser.press("Escape", 27)
    assert tip(browser) == ""
    assert browser.js(f"document.activeElement === document.querySelector({json.dumps(MARK)})")
    for _ in range(3):
        browser.press("Tab", 9)
    assert browser.js("document.activeElement.matches('.point, .scroll, summary, a, button')")


def test_an_arm_is_switched_off_in_every_chart(browser: Browser) -> None:
    every = "[...document.querySelectorAll('.chart .series[data-series=pd_1p1d]')]"
    shown = f"{every}.filter(s => getComputedStyle(s).display !== 'none').length"
    before = browser.js(shown)
    assert before > 4
    browser.click(".swatch[data-series=pd_1p1d]")
    assert browser.js(shown) == 0
    browser.click(".swatch[data-series=pd_1p1d]")
    assert browser.js(shown) == before


def test_what_records_say_is_not_run(browser: Browser) -> None:
    assert "window.hacked" in browser.js("document.querySelector('main').textContent")
    assert browser.js("window.hacked") is None
    # Even markup that got in is not run: the page's policy forbids it. The browser complains of it, as it should.
    browser.js("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked = 1\">')")
    browser.until(lambda: browser.problems or browser.js("1") == 0, "the browser refuses")
    assert browser.js("window.hacked") is None
    assert all("Content Security Policy" in problem for problem in browser.problems)
    browser.problems.clear()


@pytest.mark.parametrize("width", [400, 800, 1280])
def test_no_width_makes_the_page_scroll_sideways(browser: Browser, width: int) -> None:
    browser.resize(width, 900)
    assert browser.js("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_marks_stand_out_in_both_schemes(browser: Browser, scheme: str) -> None:
    """WCAG 2's contrast: 4.5 for text, 3 for what is drawn (of the first two colours; light ones further on have a dark edge)."""
    browser.scheme(scheme)
    colour = "(s, what) => getComputedStyle(document.querySelector(s))[what].match(/\\d+/g).slice(0, 3).map(Number)"
    page, text, soft = (
        browser.js(f"({colour})('{s}', '{w}')") for s, w in (("body", "backgroundColor"), ("body", "color"), (".soft", "color"))
    )
    assert (sum(page) < 150) == (scheme == "dark")
    assert min(contrast(text, page), contrast(soft, page)) > 4.5
    for series in ("pd_1p1d", "route_2"):
        drawn = browser.js(f"({colour})('.chart .series[data-series={series}] polyline', 'stroke')")
        assert contrast(drawn, page) > 3


def contrast(one: list[int], other: list[int]) -> float:
    """WCAG 2.1's contrast ratio of two sRGB colours."""

    def luminance(rgb: list[int]) -> float:
        linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_without_a_script_everything_is_there(browser: Browser, page: Path) -> None:
    browser.scripts(False)
    try:
        browser.open(page.as_uri())
        text = browser.ask("DOM.getDocument", depth=-1)["root"]
        said = json.dumps(text)
        assert "95 % interval of the mean within the one start: 8.52 to 13.48 tokens/s; 3 repeats" in said
        assert "Highest output throughput" in said
    finally:
        browser.scripts(True)
