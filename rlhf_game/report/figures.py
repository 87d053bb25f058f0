"""Figures and tables of a report as files of their own: SVG and PDF, LaTeX and CSV, for papers.

A drawing is resolved once: every element gets, as attributes, what the style sheet says of its classes (the light
colours), so that no reader of SVG needs a style sheet; the PDF is the same elements drawn by matplotlib.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias
from xml.etree import ElementTree

from rlhf_game.errors import InputError, MissingExtra
from rlhf_game.files.atomic import write_bytes
from rlhf_game.files.documents import shown
from rlhf_game.report.data_table import MINUS, DataTable
from rlhf_game.report.page import Figure, LegendEntry, Page, TableBlock
from rlhf_game.report.svg import box, label, marker

Style: TypeAlias = Mapping[str, str]
DRAWN: Final = ("fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-weight")
SPECIAL: Final = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", MINUS: "$-$", "\N{INFINITY}": r"$\infty$",
    "\N{EN DASH}": "--", "\N{MULTIPLICATION SIGN}": r"$\times$", "<": "$<$", ">": "$>$", "|": "$|$",
}  # fmt: skip
LINE: Final = 20.0
"""Pixels of a line of a legend."""
SVG: Final = "http://www.w3.org/2000/svg"
_RULE: Final = re.compile(r"([^{}]+)\{([^{}]*)\}")


def write_figures(page: Page, folder: Path) -> list[Path]:
    """Write every figure of a page, one .svg and .pdf for each panel, and its numbers as .csv and .tex; return them.

    Tables are written as .csv and .tex. The same page gives the same bytes. Raises InputError when ``folder`` is a
    file, or the page has no figure and no table; MissingExtra without matplotlib.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{shown(str(folder), 200)}: must be a folder for the figures, found a file")
    made: dict[str, bytes] = {}
    for section in page.sections:
        for block in section.blocks:
            if isinstance(block, Figure):
                for k, panel in enumerate(block.panels):
                    name = block.key if len(block.panels) == 1 else f"{block.key}-{k + 1}"
                    drawing = resolved(panel.drawing, block.legend)
                    made[f"{name}.svg"] = ElementTree.tostring(drawing, encoding="utf-8", xml_declaration=True)
                    made[f"{name}.pdf"] = pdf_of(drawing)
            if isinstance(block, Figure | TableBlock):
                made[f"{block.key}.csv"] = block.data.csv().encode("utf-8", "replace")
                made[f"{block.key}.tex"] = latex_of(block.data).encode("utf-8", "replace")
    if not made:
        raise InputError("the report has no figure and no table to write")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in made.items():
        write_bytes(folder / name, content)
    return [folder / name for name in made]


def latex_of(data: DataTable) -> str:
    """Return the rows as a LaTeX table (booktabs), numbers to the right, with as many digits as on the page."""
    columns = "".join("r" if number else "l" for number in data.is_number)
    rows = [data.header, *data.cells]
    head, *body = (" & ".join(_latex(cell) for cell in row) + r" \\" for row in rows)
    lines = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        head,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex(text: str) -> str:
    return "".join(SPECIAL.get(letter, letter) for letter in " ".join(text.split()))


def resolved(drawing: str, legend: Sequence[LegendEntry] = ()) -> ElementTree.Element:
    """Return a drawing of a report, its legend below it, with styles as attributes, in the namespace of SVG."""
    root = ElementTree.fromstring(drawing)
    width, height = (float(root.get(name, "0")) for name in ("width", "height"))
    for key in legend:
        mark = marker(key.slot, 12, height + LINE / 2) if key.slot is not None else None
        bar = box(6, 18, height + 4, 10, f"bar {key.kind}")
        for one in (mark or bar, label(key.label, 28, height + LINE / 2 + 4, room=width - 32)):
            root.append(ElementTree.fromstring(one.html()))
        height += LINE
    root.set("height", f"{height:g}")
    root.set("viewBox", f"0 0 {width:g} {height:g}")
    for element in root.iter():
        classes = element.attrib.pop("class", "").split()
        for name, value in _style(element.tag, tuple(classes)).items():
            element.set(name, value)
    for element in root.iter():
        element.tag = f"{{{SVG}}}{element.tag}"
    ElementTree.register_namespace("", SVG)
    root.set("font-family", "Helvetica, Arial, sans-serif")
    return root


@cache
def _sheet() -> tuple[Style, tuple[tuple[str, frozenset[str], str], ...]]:
    """Return the colours by name, and the rules of drawings: (tag or "", classes, declarations), as they come."""
    text = (Path(__file__).parent / "templates" / "style.css").read_text(encoding="utf-8")
    colours = {name: light.strip() for name, light in re.findall(r"(--[a-z0-9-]+): light-dark\(([^,]+),[^)]*\)", text)}
    body = text[text.index("svg text {") :]
    rules = []
    for selectors, said in _RULE.findall(body[: body.index("@media")]):
        for selector in selectors.split(","):
            last = selector.split()[-1]
            tag, *classes = last.split(".")
            rules.append((tag, frozenset(classes), said))
    return colours, tuple(rules)


@cache
def _style(tag: str, classes: tuple[str, ...]) -> Style:
    """Return what the sheet says of an element, later and more particular rules over others."""
    colours, rules = _sheet()
    found = [rule for rule in rules if rule[0] in ("", tag) and rule[1] <= set(classes) and (rule[0] or rule[1])]
    said: dict[str, str] = {}
    for _, _, declarations in sorted(found, key=lambda rule: len(rule[1])):
        for declaration in filter(None, map(str.strip, declarations.split(";"))):
            name, _, value = declaration.partition(":")
            said[name.strip()] = value.strip()

    def colour(value: str) -> str:
        while match := re.search(r"var\((--[a-z0-9-]+)\)", value):
            value = value.replace(match[0], said.get(match[1]) or colours.get(match[1], "none"))
        return value

    drawn = {name: value for name, value in said.items() if name in DRAWN and value != "inherit"}
    return {name: colour(value).removesuffix("px") for name, value in drawn.items()}


def pdf_of(drawing: ElementTree.Element) -> bytes:
    """Return a resolved drawing as a PDF page of its size, a pixel being a point. Raises MissingExtra."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure as Canvas
    except ModuleNotFoundError as error:
        raise MissingExtra("report", error.name or "matplotlib") from error
    width, height = (float(drawing.get(name, "0")) for name in ("width", "height"))
    out = io.BytesIO()
    with mpl.rc_context({"pdf.fonttype": 42, "lines.scale_dashes": False, "font.family": "sans-serif"}):
        canvas = Canvas(figsize=(width / 72, height / 72))
        axes = canvas.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        axes.axis("off")
        for element in drawing.iter():
            _draw(axes, element)
        canvas.savefig(out, format="pdf", metadata={"CreationDate": None, "Creator": "rlhf-game", "Producer": None})
    return out.getvalue()


def _draw(axes: Any, element: ElementTree.Element) -> None:
    """Add one element of a drawing to matplotlib's axes, whose y points down as SVG's does."""
    from matplotlib import patches
    from matplotlib.path import Path as Curve

    def at(name: str) -> float:
        return float(element.get(name, "0"))

    tag = element.tag.removeprefix(f"{{{SVG}}}")
    if tag == "text":
        _write(axes, element)
        return
    if tag == "line":
        curve = Curve([(at("x1"), at("y1")), (at("x2"), at("y2"))])
    elif tag == "rect":
        left, top, right, bottom = at("x"), at("y"), at("x") + at("width"), at("y") + at("height")
        curve = Curve([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], closed=True)
    elif tag == "circle":
        curve = Curve.circle((at("cx"), at("cy")), at("r"))
    elif tag == "path":
        shift = re.fullmatch(r"translate\((\S+) (\S+)\)", element.get("transform", ""))
        x, y = (float(shift[1]), float(shift[2])) if shift else (0.0, 0.0)
        steps = list(_steps(element.get("d", "")))
        curve = Curve([(px + x, py + y) for _, px, py in steps], [code for code, _, _ in steps])
    else:
        return
    dashes = tuple(float(length) for length in element.get("stroke-dasharray", "").split())
    fill, stroke = element.get("fill", "none" if tag == "line" else "black"), element.get("stroke", "none")
    axes.add_patch(
        patches.PathPatch(
            curve,
            facecolor=fill,
            edgecolor=stroke,
            linewidth=float(element.get("stroke-width", "1")) if stroke != "none" else 0,
            linestyle=(0, dashes) if dashes else "solid",
            alpha=float(element.get("opacity", "1")),
            clip_on=False,
        )
    )


def _write(axes: Any, element: ElementTree.Element) -> None:
    spans = [one for one in element if one.tag.endswith("}tspan")] or [element]
    anchor = {"middle": "center", "end": "right"}.get(element.get("text-anchor", ""), "left")
    for span in spans:
        axes.text(
            float(span.get("x", "0")),
            float(span.get("y", "0")),
            (span.text or "").strip().replace("$", r"\$"),
            ha=anchor,
            va="baseline",
            fontsize=float(element.get("font-size", "11.5")),
            fontweight="bold" if element.get("font-weight") else "normal",
            color=element.get("fill", "black"),
        )


def _steps(commands: str) -> Iterator[tuple[int, float, float]]:
    """Yield the points of a path with matplotlib's codes: what drawings use, which is M, L, H, V and Z."""
    x = y = 0.0
    begun = (0.0, 0.0)
    for letter, said in re.findall(r"([MLHVZ])([^MLHVZ]*)", commands):
        numbers = [float(number) for number in re.findall(r"-?[0-9.]+(?:e-?[0-9]+)?", said)]
        if letter == "Z":
            yield 79, *begun
            continue
        x = numbers[0] if letter in "MLH" else x
        y = numbers[-1] if letter in "MLV" else y
        begun = (x, y) if letter == "M" else begun
        yield 1 if letter == "M" else 2, x, y
