"""The pages are true: examples run and print what the page shows, links lead somewhere, commands exist."""

import re
import subprocess
import sys
import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import rlhf_game

ROOT = Path(__file__).resolve().parents[2]
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")


def _generator() -> ModuleType:
    spec = spec_from_file_location("generate", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = _generator()
PAGES = [page.relative_to(ROOT).as_posix() for page in generate.pages()]


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def headings(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ +(.*)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(page: Path, text: str) -> list[str]:
    """Links of a page to files or headings that are not there; links to the network must be https."""
    broken = []
    for link in LINK.findall(FENCED.sub("", text)):
        if "://" in link:
            if not link.startswith("https://"):
                broken.append(link)
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        if not target.exists() or (anchor and anchor not in headings(target.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES)
def test_examples_run_and_print_what_the_page_shows(page: str) -> None:
    assert generate.regenerated(read(page)) == read(page)


def test_an_output_that_is_out_of_date_is_written_anew() -> None:
    page = "```python\nprint(1 + 1)\n```\n\n<!-- generated: output -->\n```text\n3\n```\n<!-- end -->\n"
    assert generate.regenerated(page) == page.replace("3", "2")


def test_an_example_that_fails_is_not_passed_over() -> None:
    with pytest.raises(ZeroDivisionError):
        generate.regenerated("```python\n1 / 0\n```\n")


@pytest.mark.parametrize("command", ["rlhf-game settle missing.yaml", "ls"])
def test_a_command_that_fails_or_is_not_ours_is_not_passed_over(command: str) -> None:
    with pytest.raises(SystemExit, match="must be one of rlhf-game that succeeds"):
        generate.regenerated(f"```console\n$ {command}\n```\n\n<!-- generated: commands -->\n<!-- end -->\n")


def test_the_gallery_has_every_figure_of_the_pages() -> None:
    shown = set(generate.FIGURE.findall(read("docs/gallery.md")))
    assert {path for _, path in shown} == {f"figures/{path.name}" for path in (ROOT / "docs/figures").glob("*.svg")}


def test_the_readme_shows_what_the_demo_prints() -> None:
    shown = {part["name"]: part["old"] for part in generate.PART.finditer(read("README.md")) if part["name"]}
    assert shown["demo"].startswith("```text\n"), "make readme runs the demo and writes its table"


def test_the_page_of_the_interface_has_every_public_name_and_short_examples_for_three_readers() -> None:
    page = read("docs/api.md")
    names = re.findall(r"^\| `(\w+)` \| \S", page, re.MULTILINE)
    assert sorted(names) == sorted(rlhf_game.__all__)
    assert len(names) <= 50
    examples = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(examples) == 3
    assert all(len([line for line in example.splitlines() if line.strip()]) <= 16 for example in examples)
    assert all(title in page for title in ("## A researcher", "## An RLHF engineer", "## A provider"))


def test_every_extra_is_described() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    assert generate.EXTRAS.keys() == project["optional-dependencies"].keys()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    assert broken_links(ROOT / page, read(page)) == []


@pytest.mark.parametrize("link", ["missing.md", "README.md#no-such-heading", "#no-such-heading", "http://example.org"])
def test_a_broken_link_is_seen(link: str) -> None:
    assert broken_links(ROOT / "README.md", f"# Title\n\nSee [this]({link}).") == [link]


def test_every_page_of_the_documentation_is_in_its_index() -> None:
    listed = {link.partition("#")[0] for link in LINK.findall(read("docs/index.md"))}
    there = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").glob("**/*.md")}
    assert there - {"index.md"} <= listed


def test_every_make_target_that_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", read("Makefile"), re.MULTILINE))
    named = {
        name for page in [*PAGES, ".ci/run"] for name in re.findall(r"(?:^|`|\$ )make ([a-z-]+)", read(page), re.M)
    }
    assert {"demo", "test"} <= named <= targets


def test_every_command_that_a_page_names_exists() -> None:
    named = {name for page in PAGES for name in re.findall(r"`rlhf-game ([a-z]+)", read(page))}
    command = Path(sys.executable).with_name("rlhf-game")
    help_text = subprocess.run([command, "--help"], capture_output=True, text=True, check=True).stdout
    assert named <= set(re.findall(r"[a-z]+", help_text))


def test_ci_runs_the_test_command_of_the_readme_first() -> None:
    commands = [line for line in read(".ci/run").splitlines() if line.startswith("make ")]
    assert commands[0] == "make test"
    assert "$ make test " in read("README.md")


def test_the_version_is_the_same_everywhere() -> None:
    """The release under way, which a tree without tags is a development version of, and what is cited."""
    citation = yaml.safe_load(read("CITATION.cff"))
    under_way = tomllib.loads(read("pyproject.toml"))["tool"]["setuptools_scm"]["fallback_version"]
    assert re.findall(r"^## (\S+)", read("CHANGELOG.md"), re.MULTILINE)[0] + ".dev0" == under_way
    assert f"{citation['version']}.dev0" == under_way
    assert citation["date-released"]
    assert {"cff-version", "message", "title", "authors", "license"} <= citation.keys()
