"""The browser, and the page to cheat on as it is at first."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf_game.report.play import write_play_page
from tests.report.browser import Browser, browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as one:
        one.resize(1200)
        one.prefer("light")
        yield one


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_play_page(tmp_path_factory.mktemp("play") / "play.html")


@pytest.fixture
def played(chromium: Browser, page: Path) -> Browser:
    chromium.open(page)
    chromium.run("localStorage.clear()")
    chromium.open(page)
    return chromium
