"""SVG as a tree of elements, whose every attribute and text is escaped when it is written down."""

import unicodedata
from dataclasses import dataclass
from html import escape
from math import isfinite
from typing import Final, TypeAlias, final

from rlhf_game.files.documents import shown

SIZE: Final = 13.0
"""Pixels of a letter's height."""
LETTER: Final = 0.56
"""The width of a usual letter, in heights."""
ELLIPSIS: Final = "\N{HORIZONTAL ELLIPSIS}"
SHAPES: Final = ("circle", "square", "triangle", "diamond", "down", "cross", "plus", "ring")
"""A series is told by its shape where its colour cannot be seen."""


@final
@dataclass(frozen=True)
class Element:
    """One element of a drawing."""

    name: str
    attributes: tuple[tuple[str, str], ...]
    children: tuple["Node", ...]

    def html(self) -> str:
        """Return it as text; nothing in an attribute or a text can end it."""
        names = "".join(f' {key}="{escape(value)}"' for key, value in self.attributes)
        inner = "".join(child.html() if isinstance(child, Element) else escape(child) for child in self.children)
        return f"<{self.name}{names}>{inner}</{self.name}>"


Node: TypeAlias = Element | str


def element(name: str, *children: Node, **attributes: str | float) -> Element:
    """Return an element; ``class_`` is class, and text_anchor is text-anchor. Numbers are pixels, to a hundredth."""
    pairs = tuple((key.rstrip("_").replace("_", "-"), _attribute(value)) for key, value in attributes.items())
    return Element(name, pairs, children)


def _attribute(value: str | float) -> str:
    if isinstance(value, str):
        return value
    if not isfinite(value):
        raise ValueError(f"a drawing has no place at {value}")
    return f"{round(float(value), 2) + 0.0:g}" if abs(value) < 1e5 else f"{value:.0f}"


def drawing(key: str, width: float, height: float, title: str, description: str, *children: Node) -> str:
    """Return a whole drawing as text. key: its id on the page; title, description: what it says, for who cannot see."""
    names = (f"{key}-title", f"{key}-text")
    return element(
        "svg",
        element("title", title, id=names[0]),
        element("desc", description, id=names[1]),
        *children,
        id=key,
        role="img",
        aria_labelledby=" ".join(names),
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        focusable="false",
    ).html()


def label(
    text: str, x: float, y: float, *, anchor: str = "start", kind: str = "label", room: float = 1e9, lines: int = 1
) -> Element:
    """Return a text at (x, y), its middle line where there are two.

    It is broken between words where it does not fit into ``room`` pixels and there are two ``lines``; what does not fit
    even so is cut, and then shown on hovering.
    """
    parts = wrapped(text, room) if lines > 1 else [fitted(text, room)]
    hint = (element("title", shown(text, 400)),) if " ".join(parts) != text else ()
    if len(parts) == 1:
        return element("text", parts[0], *hint, x=x, y=y, class_=kind, text_anchor=anchor)
    spans = [element("tspan", part + " ", x=x, y=y + way * SIZE / 2) for part, way in zip(parts, (-1, 1), strict=True)]
    return element("text", *spans, *hint, class_=kind, text_anchor=anchor)


def wrapped(text: str, room: float) -> list[str]:
    """Return the text on one line, or on two that are broken between words, the second one cut to fit."""
    words = shown(text, 400).split(" ")
    count = len(words)
    while count > 1 and width_of(" ".join(words[:count])) > room:
        count -= 1
    lines = [" ".join(words[:count]), " ".join(words[count:])]
    return [fitted(line, room) for line in lines if line]


def fitted(text: str, room: float) -> str:
    """Return the text on one line, cut to fit into ``room`` pixels: after a word, or within its only word."""
    text = shown(text, 400)
    if width_of(text) <= room:
        return text
    while text and width_of(text + ELLIPSIS) > room:
        text = text[:-1]
    whole = text.rpartition(" ")[0]
    return (whole or text).rstrip() + ELLIPSIS


def width_of(text: str) -> float:
    """Return about how many pixels wide a text is."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return SIZE * (LETTER * (len(text) - wide) + wide)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Element:
    """Return a straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def box(left: float, right: float, top: float, height: float, kind: str, hint: str = "") -> Element:
    """Return a bar from ``left`` to ``right`` in any order, with what is shown on hovering."""
    hints = (element("title", hint),) if hint else ()
    return element(
        "rect",
        *hints,
        x=min(left, right),
        y=top,
        width=max(abs(right - left), 0.75),
        height=height,
        rx=min(2.0, abs(right - left) / 2),
        class_=kind,
    )


def whisker(left: float, right: float, y: float, reach: float = 4.0) -> Element:
    """Return an interval as a line with two ends."""
    path = f"M{left:.2f} {y - reach:.2f}V{y + reach:.2f}M{left:.2f} {y:.2f}H{right:.2f}"
    return element("path", d=f"{path}M{right:.2f} {y - reach:.2f}V{y + reach:.2f}", class_="whisker")


def marker(slot: int, x: float, y: float, hint: str = "", radius: float = 4.5) -> Element:
    """Return the mark of series ``slot`` at (x, y): its own shape and colour."""
    r, shape = radius, SHAPES[slot % len(SHAPES)]
    hints = (element("title", hint),) if hint else ()
    kind = f"mark s{slot % len(SHAPES)}"
    if shape in ("circle", "ring"):
        return element("circle", *hints, cx=x, cy=y, r=r, class_=kind + (" hollow" if shape == "ring" else ""))
    paths = {
        "square": f"M{-r} {-r}H{r}V{r}H{-r}Z",
        "triangle": f"M0 {-1.2 * r}L{1.15 * r} {0.9 * r}H{-1.15 * r}Z",
        "diamond": f"M0 {-1.35 * r}L{1.35 * r} 0L0 {1.35 * r}L{-1.35 * r} 0Z",
        "down": f"M0 {1.2 * r}L{1.15 * r} {-0.9 * r}H{-1.15 * r}Z",
        "cross": f"M{-r} {-r}L{r} {r}M{-r} {r}L{r} {-r}",
        "plus": f"M0 {-1.2 * r}V{1.2 * r}M{-1.2 * r} 0H{1.2 * r}",
    }
    kind += " hollow" if shape in ("cross", "plus") else ""
    return element("path", *hints, d=paths[shape], transform=f"translate({x:.2f} {y:.2f})", class_=kind)
