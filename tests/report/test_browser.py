"""Reports in headless Chromium: no error, nothing hidden, clicks work. Skipped where there is no Chromium."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf_game.report import write_report
from tests.report.browser import CHROMEDRIVER, CHROMIUM, Browser, browser
from tests.report.test_escaping import HOSTILE, hostile_audit
from tests.report.test_games import PROMPTS, folder_of
from tests.report.test_studies import GAMES
from tests.report.test_studies import folder_of as study_of

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or CHROMEDRIVER is None,
    reason="needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)",
)
PHONE = 390


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as one:
        yield one


@pytest.fixture(scope="module")
def run_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    asked = {"prompts": ["May I, in one sentence that is wider than any phone?", "What to drink?"]}
    return write_report(folder_of(tmp_path_factory.mktemp("run") / "run", {**PROMPTS, "provenance": asked}))


@pytest.fixture(scope="module")
def study_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(study_of(tmp_path_factory.mktemp("study") / "study", GAMES))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, PHONE])
@pytest.mark.parametrize("which", ["run_page", "study_page"])
def test_a_report_renders_without_an_error_at_any_width_and_colour(
    chromium: Browser, which: str, width: int, scheme: str, request: pytest.FixtureRequest
) -> None:
    chromium.resize(width)
    chromium.prefer(scheme)
    chromium.open(request.getfixturevalue(which))
    assert chromium.log() == []
    assert chromium.too_wide() == 0
    drawn = chromium.run(
        "return [...document.querySelectorAll('svg[role=img]')].filter(s => s.checkVisibility())"
        ".map(s => [s.getBoundingClientRect().width, s.getBoundingClientRect().height])"
    )
    assert len(drawn) >= 5
    assert all(w > 40 and h > 10 for w, h in drawn)
    ground = chromium.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground.removeprefix("rgb(").removesuffix(")").split(","))) > 384) == (scheme == "light")
    requests = chromium.run("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in requests if not name.startswith("data:")] == []


def test_no_text_of_a_figure_lies_outside_it(chromium: Browser, run_page: Path) -> None:
    chromium.resize(PHONE)
    chromium.open(run_page)
    outside = chromium.run(
        "return [...document.querySelectorAll('.panel svg text')].filter(t => {"
        "const s = t.ownerSVGElement.getBoundingClientRect(), b = t.getBoundingClientRect();"
        "return b.left < s.left - 2 || b.right > s.right + 2 }).map(t => t.textContent)"
    )
    assert outside == []


def test_clicks_work(chromium: Browser, run_page: Path, study_page: Path) -> None:
    chromium.resize(1200)
    chromium.prefer("light")
    chromium.open(run_page)
    before = chromium.run("return getComputedStyle(document.body).backgroundColor")
    chromium.click("#theme")
    assert chromium.run("return getComputedStyle(document.body).backgroundColor") != before
    assert chromium.run("return document.getElementById('theme').textContent") == "Light"
    chromium.click("#regret summary")
    assert chromium.run("return document.querySelector('#regret table').checkVisibility()")
    chromium.click("#fold")
    assert chromium.run("return [...document.querySelectorAll('details')].every(d => d.open)")
    chromium.click("#fold")
    assert not chromium.run("return [...document.querySelectorAll('details')].some(d => d.open)")
    chromium.open(study_page)
    seen = (
        "return ['#gain', '#yields'].map(f => "
        "[...document.querySelectorAll(f + ' .panel')].map(p => p.checkVisibility()))"
    )
    assert chromium.run(seen) == [[True, True, False, False], [True] * 4 + [False] * 4]
    chromium.click("#gain .slices button:last-child")
    assert chromium.run(seen) == [[False, False, True, True], [False] * 4 + [True] * 4]
    assert chromium.log() == []


def test_the_csv_of_a_figure_can_be_downloaded(chromium: Browser, run_page: Path, tmp_path: Path) -> None:
    chromium.prefer("light")
    chromium.devtools("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    chromium.open(run_page)
    chromium.click("#settlement-table a.csv")
    wanted = tmp_path / "settlement-table.csv"
    chromium.run("return new Promise(done => setTimeout(done, 500))")
    assert wanted.read_text(encoding="utf-8-sig").startswith("group,size,value,payment,utility")


def test_the_keyboard_reaches_the_content_first(chromium: Browser, run_page: Path) -> None:
    chromium.open(run_page)
    chromium.press("Tab", 9)
    assert chromium.run("return document.activeElement.className") == "skip"
    assert chromium.run("return document.activeElement.getBoundingClientRect().left") >= 0


def test_hostile_texts_run_nothing(chromium: Browser, tmp_path: Path) -> None:
    chromium.open(write_report(hostile_audit(tmp_path / "run")))
    assert chromium.log() == []
    assert chromium.run("return window.pwned === undefined")
    assert chromium.run("return document.querySelector('h1').textContent") == f"18 groups share {HOSTILE[0]}"
    elements = chromium.run("return [...document.querySelectorAll('*')].map(e => e.localName)")
    assert {"iframe", "img", "textarea"}.isdisjoint(elements)
    assert elements.count("script") == 1


def test_the_page_on_paper_holds_every_prompt_and_no_buttons(chromium: Browser, run_page: Path) -> None:
    chromium.open(run_page)
    chromium.click("#fold")
    chromium.click("#fold")  # all closed
    chromium.devtools("Emulation.setEmulatedMedia", media="print")
    try:
        chromium.run("window.dispatchEvent(new Event('beforeprint'))")
        for selector, is_seen in (("#theme", False), (".csv", False), (".prompt table", True), (".panel svg", True)):
            found = f"return document.querySelector({json.dumps(selector)}).checkVisibility()"
            assert chromium.run(found) is is_seen, selector
    finally:
        chromium.devtools("Emulation.setEmulatedMedia", media="")
