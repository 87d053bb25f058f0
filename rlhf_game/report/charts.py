"""The figures of a report, drawn: each returns one drawing of 380 pixels' width: a phone's."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import Final, final

from rlhf_game.report.axes import Axis, is_geometric, spanning, spanning_log
from rlhf_game.report.data_table import MINUS, decimals, number
from rlhf_game.report.svg import SHAPES, Element, Node, box, drawing, element, label, line, marker, whisker

WIDTH: Final = 380.0
NAMES: Final = 136.0
"""Room for the names of rows."""
NUMBERS: Final = 66.0
"""Room for their numbers."""
ROW: Final = 30.0
BAR: Final = 16.0
DOT: Final = 15.0


@final
@dataclass(frozen=True)
class WaterfallStep:
    """One row of a waterfall: from where to where, and what it is (a class of the style sheet)."""

    label: str
    start: float
    end: float
    kind: str
    is_total: bool = False


@final
@dataclass(frozen=True)
class Range:
    """One row of a bracket: [low, high] (high None: nothing is known), and its series."""

    label: str
    low: float
    high: float | None
    slot: int


@final
@dataclass(frozen=True)
class CurvePoint:
    """One point of a curve; low and high are the ends of its interval, equal to y where it is known."""

    x: float
    y: float
    low: float
    high: float
    label: str = ""
    is_best: bool = False
    """On the front: told apart by a ring, and named."""


@final
@dataclass(frozen=True)
class Series:
    """A curve or a cloud of points, told by its slot: a colour and a shape."""

    label: str
    slot: int
    points: tuple[CurvePoint, ...]
    is_line: bool = True
    is_dashed: bool = False
    has_marks: bool = True


@final
@dataclass(frozen=True)
class Plot:
    """Axes and what they mean; ``x_mark`` is a place on the x axis with a name."""

    x_title: str
    y_title: str
    x_mark: tuple[float, str] | None = None
    has_zero: bool = False
    is_log: bool | None = None
    """Of the x axis; None: where its numbers are better read so."""


def waterfall(key: str, title: str, description: str, steps: Sequence[WaterfallStep]) -> str:
    """Return what becomes of an amount, step by step from top to bottom."""
    height = ROW * len(steps) + 14
    axis = spanning([v for s in steps for v in (s.start, s.end)], NAMES + 4, WIDTH - NUMBERS, zero=True, room=0.02)
    places = decimals([value for s in steps for value in (s.start, s.end)])
    stripes = [6 + ROW * k for k, step in enumerate(steps) if step.is_total]
    nodes: list[Node] = [element("rect", x=0, y=top, width=WIDTH, height=ROW, class_="stripe") for top in stripes]
    nodes.append(line(axis.at(0), 2, axis.at(0), height - 4, "axis"))
    for k, step in enumerate(steps):
        top, amount = 6 + ROW * k, step.end - step.start if not step.is_total else abs(step.end - step.start)
        middle = top + ROW / 2
        text = number(amount, places)
        if not step.is_total and amount > 0:
            text = "+" + text
        hint = f"{step.label}: {text}"
        nodes += [
            label(
                step.label, 4, middle + 4.5, kind="label strong" if step.is_total else "label", room=NAMES - 8, lines=2
            ),
            box(axis.at(step.start), axis.at(step.end), middle - BAR / 2, BAR, f"bar {step.kind}", hint),
            label(text, WIDTH - 4, middle + 4.5, anchor="end", kind="label strong" if step.is_total else "label"),
        ]
        if k + 1 < len(steps) and step.kind != "pay":
            at = axis.at(step.end)
            nodes.append(line(at, middle + BAR / 2, at, middle + ROW - BAR / 2, "thread"))
    return drawing(key, WIDTH, height, title, description, *nodes)


def shares(
    key: str, title: str, description: str, rows: Sequence[tuple[str, float, float, tuple[float, float] | None]]
) -> str:
    """Return for each row (name, kept, paid, interval of what is paid) two bars after each other.

    Where less than nothing is kept they are one above the other.
    """
    height = ROW * 1.2 * len(rows) + 34
    ends = [v for _, kept, paid, _ in rows for v in (kept, max(kept, 0.0) + paid)]
    ends += [max(kept, 0.0) + end for _, kept, _, interval in rows if interval for end in interval]
    axis = spanning(ends, NAMES + 4, WIDTH - 16, zero=True, room=0.03)
    bottom = height - 30
    nodes: list[Node] = [*_grid(axis, 4, bottom), line(axis.at(0), 4, axis.at(0), bottom, "axis")]
    for k, (name, kept, paid, interval) in enumerate(rows):
        middle = 4 + ROW * 1.2 * (k + 0.5)
        tops, start, high = (
            ((middle - 9, middle - 9), kept, 18.0) if kept >= 0 else ((middle - 9, middle + 1), 0.0, 8.0)
        )
        nodes += [
            label(name, 4, middle + 4.5, room=NAMES - 8, lines=2),
            box(axis.at(0), axis.at(kept), tops[0], high, "bar keep", f"{name} keeps {number(kept)}"),
            box(axis.at(start), axis.at(start + paid), tops[1], high, "bar pay", f"{name} pays {number(paid)}"),
        ]
        if interval is not None:
            left, right = (axis.at(start + end) for end in interval)
            nodes.append(whisker(left, right, tops[1] + high / 2))
    return drawing(key, WIDTH, height, title, description, *nodes)


def brackets(key: str, title: str, description: str, rows: Sequence[tuple[str, Sequence[Range]]], x_title: str) -> str:
    """Return for each name its ranges, one above the other: what was found, and what is proved."""
    lines = sum(len(ranges) for _, ranges in rows)
    height = 26.0 * lines + 12 * len(rows) + 50
    ends = [end for _, ranges in rows for r in ranges for end in (r.low, r.high) if end is not None]
    axis = spanning(ends, NAMES + 12, WIDTH - NUMBERS - 12, zero=True)
    places = decimals([one.low for _, ranges in rows for one in ranges])
    bottom, y, nodes = height - 46, 4.0, list[Node]()
    nodes += [*_grid(axis, 4, bottom), line(axis.at(0), 4, axis.at(0), bottom, "axis")]
    for name, ranges in rows:
        nodes.append(label(name, 4, y + 13 * len(ranges) + 10.5, room=NAMES - 8, lines=2))
        for one in ranges:
            y += 26
            nodes += _range(one, axis, y - 7, places)
        y += 12
    nodes.append(label(x_title, (axis.start + axis.end) / 2, height - 6, anchor="middle", kind="axis-title"))
    return drawing(key, WIDTH, height, title, description, *nodes)


def _range(one: Range, axis: Axis, y: float, places: int) -> list[Node]:
    found, hint = axis.at(one.low), f"{one.label}: found {number(one.low)}"
    kind = f"reach s{one.slot}"
    if one.high is None:
        reach = axis.end + 8
        head = f"M{reach - 5:.2f} {y - 4:.2f}L{reach:.2f} {y:.2f}L{reach - 5:.2f} {y + 4:.2f}"
        arrow = f"M{found:.2f} {y:.2f}H{reach:.2f}{head}"
        proof: Element = element("path", d=arrow, class_=kind + " open")
    else:
        proof = element("path", d=f"M{found:.2f} {y:.2f}H{axis.at(one.high):.2f}", class_=kind)
        hint += f", at most {number(one.high)}"
    start = element("path", d=f"M{axis.at(0):.2f} {y:.2f}H{found:.2f}", class_=f"{kind} found")
    text = number(one.low, places) if one.low == 0 else "+" + number(one.low, places)
    if one.low == 0 and one.high is not None and one.high > 10.0**-6:
        text = "\N{LESS-THAN OR EQUAL TO} " + number(one.high)
    return [start, proof, marker(one.slot, found, y, hint), label(text, WIDTH - 4, y + 4.5, anchor="end")]


def dots(key: str, title: str, description: str, names: Sequence[str], series: Sequence[Series], x_title: str) -> str:
    """Return for each name a mark of each series with its interval; the x of a point is the place of its name."""
    every = [point for one in series for point in one.points]
    axis = spanning([v for p in every for v in (p.y, p.low, p.high)], 12, WIDTH - NUMBERS, zero=True)
    places = decimals([point.y for point in every])
    row = 22 + DOT * len(series)
    bottom = row * len(names) + 4
    height = bottom + (44 if x_title else 26)
    nodes: list[Node] = [label(text, axis.at(v), bottom + 17, anchor="middle", kind="tick") for v, text in axis.ticks()]
    for at, name in enumerate(names):
        top, end = row * at + 22, row * (at + 1)  # no line runs through a name
        nodes += [line(axis.at(value), top, axis.at(value), end, "grid") for value, _ in axis.ticks()]
        nodes += [line(axis.at(0), top, axis.at(0), end, "axis"), label(name, 4, top - 4, room=WIDTH - 8)]
    for k, one in enumerate(series):
        for point in one.points:
            x, y = axis.at(point.y), row * point.x + 22 + DOT * (k + 0.5)
            text = number(point.y, places)
            hint = f"{names[int(point.x)]}, {one.label}: {text}"
            if point.low < point.high:
                left, right = axis.at(point.low), axis.at(point.high)
                nodes.append(line(left, y, right, y, f"error s{one.slot % len(SHAPES)}"))
                hint += f" ({number(point.low, places)} to {number(point.high, places)})"
            nodes += [marker(one.slot, x, y, hint, 4.0), label(text, WIDTH - 4, y + 4.5, anchor="end", kind="tick")]
    nodes.append(label(x_title, (axis.start + axis.end) / 2, height - 6, anchor="middle", kind="axis-title"))
    return drawing(key, WIDTH, height, title, description, *nodes)


def plot(key: str, title: str, description: str, of: Plot, series: Sequence[Series], height: float = 272.0) -> str:
    """Return curves or points with their intervals on two axes."""
    points = [point for one in series for point in one.points if isfinite(point.x) and isfinite(point.y)]
    ys = [v for p in points for v in (p.y, p.low, p.high)]
    bottom, top = height - 44, 30.0 if of.y_title else 12.0
    y_axis = spanning(ys, bottom, top, zero=of.has_zero)
    ticks = y_axis.ticks()
    left = 14 + max((7.3 * len(text) for _, text in ticks), default=0)
    xs = [p.x for p in points] + ([of.x_mark[0]] if of.x_mark else [])
    is_log = is_geometric(xs) if of.is_log is None else of.is_log
    spread: Callable[[Iterable[float], float, float], Axis] = spanning_log if is_log else _tight
    x_axis = spread(xs, left, WIDTH - 16)
    nodes: list[Node] = [label(of.y_title, 0, 14, kind="axis-title", room=WIDTH)] if of.y_title else []
    for value, text in ticks:
        at = y_axis.at(value)
        nodes += [line(left, at, WIDTH - 10, at, "grid"), label(text, left - 7, at + 4.5, anchor="end", kind="tick")]
    for value, text in _places(of, xs, x_axis):
        at = x_axis.at(value)
        nodes += [line(at, bottom, at, bottom + 4, "axis"), label(text, at, bottom + 18, anchor="middle", kind="tick")]
    if y_axis.low < 0 < y_axis.high:
        nodes.append(line(left, y_axis.at(0), WIDTH - 10, y_axis.at(0), "axis"))
    nodes.append(line(left, bottom, WIDTH - 10, bottom, "axis"))
    if of.x_mark:
        at = x_axis.at(of.x_mark[0])
        nodes += [line(at, top - 6, at, bottom, "mark-line")]
        side = "end" if at > WIDTH - 90 else "start"
        nodes.append(label(of.x_mark[1], at + (5 if side == "start" else -5), top + 4, anchor=side, kind="tick"))
    nodes.append(
        label(of.x_title, (left + WIDTH) / 2, height - 6, anchor="middle", kind="axis-title", room=WIDTH - left)
    )
    for one in series:
        nodes += _curve(one, x_axis, y_axis, of)
    return drawing(key, WIDTH, height, title, description, *nodes)


def _places(of: Plot, xs: Sequence[float], axis: Axis) -> list[tuple[float, str]]:
    """Return where the x axis is named: every number where they are few, or round ones."""
    values = sorted(set(xs))
    pixels = [axis.at(value) for value in values]
    is_roomy = all(b - a > 34 for a, b in pairwise(pixels))
    if of.x_mark is None and 1 < len(values) <= 7 and is_roomy and all(len(f"{value:g}") <= 5 for value in values):
        return [(value, f"{value:g}".replace("-", MINUS)) for value in values]
    if not axis.is_log and all(value == round(value) for value in values):  # steps, rounds: no half of one
        return [(at, number(at, 0)) for at, _ in axis.ticks() if abs(at - round(at)) < 1e-9]
    return axis.ticks()


def _curve(one: Series, x_axis: Axis, y_axis: Axis, of: Plot) -> list[Node]:
    """Return the nodes of a series: its band, its line, and at most 24 marks with their intervals."""
    points = [p for p in one.points if isfinite(p.x) and isfinite(p.y)]
    slot = f"s{one.slot % len(SHAPES)}"
    at = [(x_axis.at(p.x), y_axis.at(p.y)) for p in points]
    nodes: list[Node] = []
    if one.is_line and len(at) > 1:
        upper = [(x, y_axis.at(p.high)) for (x, _), p in zip(at, points, strict=True)]
        lower = [(x, y_axis.at(p.low)) for (x, _), p in zip(at, points, strict=True)]
        if any(p.low < p.high for p in points):
            nodes.append(element("path", d=_path([*upper, *lower[::-1]]) + "Z", class_=f"band {slot}"))
        kind = f"curve {slot}" + (" dashed" if one.is_dashed else "")
        nodes.append(element("path", d=_path(at), class_=kind))
    is_sparse = len(at) <= 24 and one.has_marks
    for (x, y), p in zip(at, points, strict=True):
        if p.low < p.high and is_sparse:
            ends = (y_axis.at(p.low), y_axis.at(p.high))
            nodes.append(line(x, ends[0], x, ends[1], f"error {slot}"))
        if is_sparse:
            name = f"{one.label}, {p.label}" if p.label else one.label
            hint = f"{name}: {of.x_title} {number(p.x)}, {of.y_title} {number(p.y)}"
            nodes.append(marker(one.slot, x, y, hint, 4.0))
        if p.is_best:
            is_right = x > WIDTH / 2
            nodes.append(element("circle", cx=x, cy=y, r=8, class_="ring"))
            text = label(
                p.label, x - 12 if is_right else x + 12, y + 4, anchor="end" if is_right else "start", kind="tick"
            )
            nodes.append(text)
    return nodes


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in points)


def _tight(values: Iterable[float], start: float, end: float) -> Axis:
    return spanning(values, start + 8, end - 4, room=0.02)


def _grid(axis: Axis, top: float, bottom: float) -> list[Node]:
    nodes: list[Node] = []
    for value, text in axis.ticks():
        at = axis.at(value)
        nodes += [line(at, top, at, bottom, "grid"), label(text, at, bottom + 17, anchor="middle", kind="tick")]
    return nodes
