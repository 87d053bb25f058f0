"""The site builds without a warning, holds what its pages link to, and the theory's tests are there."""

import ast
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rlhf_game.cli.schema import SchemaKind, schema_of
from tests.report.browser import CHROMEDRIVER, CHROMIUM, browser

ROOT = Path(__file__).resolve().parents[2]
THEORY = (ROOT / "docs/theory.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="needs mkdocs, of the extra 'docs'")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return out


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.found += [value for key in ("href", "src") if (value := named.get(key))]
        source = named.get("src") if tag in ("script", "img") else named.get("href") if tag == "link" else None
        self.loaded += [source] if source else []


def test_every_link_of_the_site_leads_to_a_file_and_nothing_is_fetched(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        links = _Links()
        links.feed(page.read_text(encoding="utf-8"))
        for link in links.found:
            if "://" in link or link.startswith(("#", "mailto:", "data:", "/", ".")) and page.name == "404.html":
                continue
            path = link.partition("#")[0].partition("?")[0]
            if "://" not in link and path and not link.startswith(("mailto:", "data:")):
                target = (page.parent / path).resolve()
                assert target.exists(), f"{page.relative_to(site)}: {link}"
        assert [link for link in links.loaded if "://" in link] == [], page


def test_the_reference_describes_public_names(site: Path) -> None:
    text = (site / "reference/index.html").read_text(encoding="utf-8")
    for name in ("Mechanism", "AffinePayments", "BestResponse", "certified_gap", "implementability"):
        assert f">{name}</" in text or f".{name}" in text, name


def test_formulas_are_drawn_and_no_docstring_is_taken_for_markup(site: Path) -> None:
    theory = (site / "theory/index.html").read_text(encoding="utf-8")
    formulas = len(re.findall(r"\$\$.+?\$\$|\$[^$\n]+\$", THEORY))
    assert theory.count("<math") == formulas > 50
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"FORMULA\d+END", text), page
        assert re.findall(r"<(?:p|q|b|nu|mu|visits|weights)[*_a-z]*,[^>]*>", text) == [], page
        assert re.findall(r"\w<em>\s*[(,)=]", text) == [], page
    reference = (site / "reference/index.html").read_text(encoding="utf-8")
    assert "&lt;p, r&gt;" in reference
    assert "p*" in reference


@pytest.mark.skipif(CHROMIUM is None or CHROMEDRIVER is None, reason="needs chromium and chromedriver")
def test_no_formula_makes_a_page_wider_than_a_telephone(site: Path) -> None:
    with_formulas = [page for page in sorted(site.rglob("*.html")) if "<math" in page.read_text(encoding="utf-8")]
    assert len(with_formulas) >= 3
    with browser() as one:
        one.resize(380)
        for page in with_formulas:
            one.open(page)
            assert one.too_wide() == 0, page.relative_to(site)


def test_the_first_page_has_a_door_for_everybody_and_the_page_to_cheat_on_is_there(site: Path) -> None:
    first = (site / "index.html").read_text(encoding="utf-8")
    doors = ("I study mechanisms", "I train language models", "I provide the model", "I get the bill")
    assert all(door in first for door in doors)
    assert "Try to cheat" in (site / "try-to-cheat.html").read_text(encoding="utf-8")
    assert "search" in first
    for of in SchemaKind:
        assert json.loads((site / "schemas" / f"{of.value}.schema.json").read_text()) == schema_of(of)


def _tests(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_a_page_links_to_the_tests_that_it_names(site: Path) -> None:
    text = (site / "theory/index.html").read_text(encoding="utf-8")
    assert re.search(
        r'<a href="[^"]*repository/tests/mechanism/test_rochet.py"><code>tests/mechanism/test_rochet.py::', text
    )
    assert (site / "repository/tests/mechanism/test_rochet.py").is_file()


def test_every_test_that_a_page_names_exists() -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", pages)
    assert len(named) > 20
    for path, test in named:
        assert (ROOT / path).is_file(), path
        assert not test or test in _tests(ROOT / path), f"{path}::{test}"
    sections = re.split(r"^## ", THEORY, flags=re.MULTILINE)[2:]
    assert [section.splitlines()[0] for section in sections if "tests/" not in section] == []
