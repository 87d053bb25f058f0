"""A report as a page: what stands on it, and the one HTML file that it becomes."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, TypeAlias, final

from rlhf_game import __version__
from rlhf_game.errors import MissingExtra
from rlhf_game.files.atomic import write_bytes
from rlhf_game.report.data_table import DataTable, share
from rlhf_game.report.svg import SHAPES, element, marker

SHORT: Final = 420
"""Letters of a text that are shown at once."""
MOST_ROWS: Final = 200
"""Rows of data that are shown on the page; the CSV holds all of them."""
PLAYED: Final = ("settle.js", "play.js")
"""The scripts of a page with a game to play."""


@final
@dataclass(frozen=True)
class Panel:
    """One drawing of a figure, with a heading of its own and a line below it."""

    drawing: str
    heading: str = ""
    note: str = ""
    slice: int | None = None
    """Which of the figure's slices it belongs to; None: all."""


@final
@dataclass(frozen=True)
class LegendEntry:
    """One entry of a legend: a series by its shape and colour, or a bar by its kind."""

    label: str
    slot: int | None = None
    kind: str = ""

    @property
    def mark(self) -> str:
        """Its drawing."""
        inner = marker(self.slot, 8, 8) if self.slot is not None else None
        inner = inner or element("rect", x=1, y=3, width=14, height=10, rx=2, class_=f"bar {self.kind}")
        return element("svg", inner, width=16, height=16, viewBox="0 0 16 16", aria_hidden="true").html()


@final
@dataclass(frozen=True)
class Figure:
    """Drawings that make one point, and the numbers behind them."""

    kind: ClassVar[str] = "figure"
    key: str
    """Its id, and the name of its CSV."""
    title: str
    panels: tuple[Panel, ...]
    caption: str
    data: DataTable
    legend: tuple[LegendEntry, ...] = ()
    slices: tuple[str, ...] = ()
    """Settings of which one is looked at at a time; on paper all of them are there."""

    @property
    def is_single(self) -> bool:
        """Whether one drawing is seen at a time."""
        return len(self.panels) == max(1, len(self.slices))


@final
@dataclass(frozen=True)
class TableBlock:
    """A table that is read as it stands. A cell with a line break has its second line small, but in one of texts."""

    kind: ClassVar[str] = "table"
    key: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str
    data: DataTable
    foot: tuple[tuple[str, ...], ...] = ()
    texts: int = 1
    """The first columns, which hold texts; the others hold numbers."""
    is_open: bool = True
    is_prose: bool = False
    """Whether its texts are somebody's, shown as they were written."""


def short(text: str) -> str:
    """Return a text, cut where it is long; the data of its block hold all of it."""
    return text if len(text) <= SHORT else text[:SHORT].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def cell_of(text: str) -> str:
    """Return a text for a cell of a table of texts: cut where it is long, and an empty one named so."""
    return short(text) or "(empty)"


@final
@dataclass(frozen=True)
class PageResponse:
    """One response: its probability before and after, and what the groups think of it."""

    text: str
    before: float
    after: float
    rewards: tuple[str, ...]

    @property
    def short(self) -> str:
        """The text, cut where it is long."""
        return short(self.text)

    @property
    def change(self) -> str:
        """The probabilities in words."""
        return f"{share(self.before)} \N{RIGHTWARDS ARROW} {share(self.after)}"

    @property
    def bar(self) -> str:
        """The probabilities as a bar (after) and a line across it (before)."""
        before, after = 200 * min(self.before, 1.0), 200 * min(self.after, 1.0)
        return element(
            "svg",
            element("title", f"before {share(self.before)}, after {share(self.after)}"),
            element("rect", x=0, y=5, width=200, height=10, rx=2, class_="track"),
            element("rect", x=0, y=5, width=max(after, 0.8), height=10, rx=2, class_="bar after"),
            element("path", d=f"M{max(before, 0.8):.2f} 1V19", class_="before"),
            viewBox="0 0 200 20",
            preserveAspectRatio="none",
            role="img",
            aria_label=f"before {share(self.before)}, after {share(self.after)}",
        ).html()


@final
@dataclass(frozen=True)
class PagePrompt:
    """One prompt and what became of its responses."""

    text: str
    moved: float
    responses: tuple[PageResponse, ...]
    rest: str
    """What is said of the responses that are not shown."""

    @property
    def moved_text(self) -> str:
        """How much of the probability changed sides."""
        return share(self.moved)


@final
@dataclass(frozen=True)
class Prompts:
    """The policy before and after, prompt by prompt."""

    kind: ClassVar[str] = "prompts"
    key: str
    title: str
    groups: tuple[str, ...]
    prompts: tuple[PagePrompt, ...]
    caption: str
    data: DataTable
    has_before: bool = True


@final
@dataclass(frozen=True)
class Note:
    """One sentence apart: good, bad, or plain."""

    kind: ClassVar[str] = "note"
    tone: str
    text: str


@final
@dataclass(frozen=True)
class PlayableGame:
    """A game that the reader may cheat in: the numbers that templates/play.js asks for."""

    kind: ClassVar[str] = "play"
    data: Mapping[str, Any]


def recomputed(found: Sequence[str], source: str) -> Note:
    """Return what is said of a receipt whose numbers were computed again. found: what differs. source: from what."""
    if not found:
        return Note("good", f"Checked: every number was computed again from the {source} for this page, and agrees.")
    verb = "give" if source.endswith("s") else "gives"
    return Note("bad", f"The {source} {verb} other numbers than the receipt says: {'; '.join(found[:3])}")


Block: TypeAlias = Figure | TableBlock | Prompts | Note | PlayableGame


@final
@dataclass(frozen=True)
class Section:
    """A part of the page: a question or a claim, and what answers it."""

    key: str
    title: str
    lead: str
    blocks: tuple[Block, ...]


@final
@dataclass(frozen=True)
class Page:
    """A whole report. facts: (name, number, unit or remark)."""

    title: str
    lead: str
    facts: tuple[tuple[str, str, str], ...]
    sections: tuple[Section, ...]
    provenance: tuple[tuple[str, str], ...]
    commands: tuple[str, ...] = ()


def html_of(page: Page) -> str:
    """Return a page as one HTML document that asks nothing of any network; raises MissingExtra without jinja2."""
    is_played = any(isinstance(block, PlayableGame) for section in page.sections for block in section.blocks)
    return render(
        "page.html",
        ("style.css", "play.css") if is_played else ("style.css",),
        ("theme.js", "script.js", *(PLAYED if is_played else ())),
        {"page": page, "most": MOST_ROWS, "shapes": len(SHAPES)},
    )


def render(template: str, styles: Sequence[str], scripts: Sequence[str], values: Mapping[str, Any]) -> str:
    """Return a template as one HTML document that may run nothing but the scripts that are in it.

    styles, scripts: names of templates that are put into the document one after the other. Raises MissingExtra without
    jinja2.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise MissingExtra("report", "jinja2") from None
    loader = PackageLoader("rlhf_game.report")
    jinja = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    style, script = ("".join(loader.get_source(jinja, name)[0] for name in names) for names in (styles, scripts))
    allowed = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    own = {"style": style, "script": script, "allowed": allowed, "version": __version__}
    document = jinja.get_template(template).render({**values, **own})
    return _without_controls(document.lstrip())


def write_page(path: Path, page: Page) -> Path:
    """Write a page at ``path``, whole or not at all."""
    write_bytes(path, html_of(page).encode("utf-8", "replace"))
    return path


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _without_controls(document: str) -> str:
    """Return the document with what HTML has no place for (control characters) replaced."""
    return "".join(c if c >= " " and c != "\x7f" or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in document)


def provenance_rows(*documents: tuple[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return named values as rows of a table: a mapping becomes one row for each of its keys."""
    rows: list[tuple[str, str]] = []
    for name, value in documents:
        if isinstance(value, dict):
            rows += provenance_rows(*((f"{name} {key}".strip(), inner) for key, inner in value.items()))
        elif value is not None:
            rows.append((name, value if isinstance(value, str) else json.dumps(value)))
    return tuple(rows)


def prompt_of(provenance: Mapping[str, Any] | None, b: int) -> str:
    """Return what prompt b is called: its text where a game's provenance says it, else its number."""
    said = (provenance or {}).get("prompts")
    return str(said[b]) if isinstance(said, list) and b < len(said) else f"Prompt {b + 1}"


def names_of(names: Sequence[str]) -> str:
    """Return names as a list in a sentence."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
