"""The page as a document: complete in itself, and for people who do not see, do not point, or print."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_game.report import write_report
from rlhf_game.report.axes import spanning, spanning_log
from rlhf_game.report.charts import WaterfallStep, waterfall
from rlhf_game.report.data_table import column, number
from rlhf_game.report.svg import fitted, width_of
from tests.cli.runner import run as command
from tests.report.pages import Node, page_of, read
from tests.report.test_games import HAND, PROMPTS, folder_of
from tests.report.test_studies import GAMES, MARKET
from tests.report.test_studies import folder_of as study_of


@pytest.fixture(params=["run", "games", "market"])
def page(request: pytest.FixtureRequest, tmp_path: Path) -> Node:
    if request.param == "run":
        return page_of(write_report(folder_of(tmp_path / "run", PROMPTS)))
    return page_of(write_report(study_of(tmp_path / "study", GAMES if request.param == "games" else MARKET)))


def test_nothing_is_asked_of_a_network(page: Node) -> None:
    for node in page.all():
        for key in ("src", "href", "srcset", "xlink:href", "data", "action"):
            assert node.attributes.get(key, "#").startswith(("#", "data:"))
    style = page.one("style").text
    assert not re.search(r"url\(|@import|https?:", style)
    assert "https:" not in page.one("script").text
    assert "fetch(" not in page.one("script").text


def test_every_figure_says_what_it_shows_and_has_its_data(page: Node) -> None:
    figures = page.all("figure")
    assert len(figures) >= 3
    for figure in figures:
        assert figure.one("h3").text
        assert figure.one("table").all("td")
        assert figure.one("a", class_="csv").attributes["href"].startswith("data:text/csv")
        drawings = figure.all("svg", role="img")
        assert drawings
        for drawing in drawings:
            title, text = (page.one(id=key) for key in drawing.attributes["aria-labelledby"].split())
            assert (title.name, text.name) == ("title", "desc")
            assert title.text
            assert any(c.isdigit() for c in text.text)


def test_ids_are_unique_and_links_lead_somewhere(page: Node) -> None:
    ids = [node.attributes["id"] for node in page.all() if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    for link in page.all("a"):
        target = link.attributes["href"]
        assert not target.startswith("#") or target[1:] in ids


def test_the_page_can_be_used_without_eyes_and_mouse(page: Node) -> None:
    assert page.one("html").attributes["lang"] == "en"
    assert page.one("a", class_="skip").attributes["href"] == "#content"
    assert page.one("main").attributes["id"] == "content"
    levels = [int(node.name[1]) for node in page.all() if re.fullmatch("h[1-6]", node.name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
    for node in page.all("th"):
        assert node.attributes["scope"] in ("row", "col")
    for drawing in page.all("svg"):
        assert drawing.attributes.get("role") == "img" or drawing.attributes.get("aria-hidden") == "true"
    for region in page.all("div", role="region"):
        assert region.attributes["tabindex"] == "0"
        assert region.attributes["aria-label"]
    style = page.one("style").text
    assert ":focus-visible" in style
    assert "@media print" in style
    assert "prefers-reduced-motion" in style


def luminance(colour: str) -> float:
    channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, two: str) -> float:
    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_texts_and_marks_stand_out(scheme: int, tmp_path: Path) -> None:
    """WCAG 2.2: 4.5 for texts, 3 for what a figure is read by; marks differ in shape and line too."""
    style = page_of(write_report(folder_of(tmp_path / "run", HAND))).one("style").text
    pairs = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", style)
    colours = {name: pair[scheme] for name, *pair in pairs}
    for text in ("ink", "quiet", "accent"):
        for ground in ("ground", "card", "stripe"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for tone in ("good", "bad", "plain"):
        assert contrast(colours["ink"], colours[f"{tone}-ground"]) >= 4.5
    for mark in ("own", "pay", "cost", "reg", "keep", *(f"s{k}" for k in range(8))):
        assert contrast(colours[mark], colours["card"]) >= 3.0, mark


def test_the_steps_of_a_waterfall_are_drawn_from_where_the_last_one_ended() -> None:
    steps = [
        WaterfallStep("own", 0.0, 2.0, "own", True),
        WaterfallStep("cost", 2.0, 0.5, "cost"),
        WaterfallStep("kept", 0.0, 0.5, "keep", True),
    ]
    drawn = read(waterfall("w", "t", "d", steps))
    own, cost, kept = (
        [float(bar.attributes[key]) for key in ("x", "width")] for bar in drawn.all("rect", class_="bar")
    )
    assert cost[0] + cost[1] == pytest.approx(own[0] + own[1], abs=0.02)
    assert cost[0] == pytest.approx(kept[0] + kept[1], abs=0.02)
    assert cost[1] / own[1] == pytest.approx(0.75, abs=1e-3)


def test_axes_hold_what_is_drawn_and_their_numbers_are_round() -> None:
    axis = spanning([0.013, 0.987], 0.0, 100.0)
    assert axis.low < 0.013 < 0.987 < axis.high
    assert [text for _, text in axis.ticks()] == ["0", "0.25", "0.50", "0.75", "1.00"]
    assert axis.at(axis.low) == 0
    assert axis.at(axis.high) == 100
    assert [text for _, text in spanning_log([0.125, 8.0], 0, 100).ticks(6)] == [
        "1/8",
        "1/4",
        "1/2",
        "1",
        "2",
        "4",
        "8",
    ]
    for same in ([3.0, 3.0], [0.0], [], [-2.0]):
        flat = spanning(same, 0, 1, zero=not same)
        assert flat.low < flat.high
        assert flat.ticks()


def test_numbers_as_people_read_them() -> None:
    assert [number(x) for x in (0.0, 1.5, 0.123456, -2.0, 1e-12, 123456.0)] == [
        "0", "1.500", "0.1235", "\N{MINUS SIGN}2.000", "1.0e\N{MINUS SIGN}12", "123456",
    ]  # fmt: skip
    assert column([1.0, 0.25, None, "x", 3]) == ["1.000", "0.250", "\N{EN DASH}", "x", "3"]


def test_labels_fit_their_room() -> None:
    assert fitted("short", 200) == "short"
    cut = fitted("a very long name of a group", 80)
    assert cut.endswith("\N{HORIZONTAL ELLIPSIS}")
    assert width_of(cut) <= 80
    assert width_of("\u4f60\u597d") > width_of("ab")


def test_the_command_reports_folders_games_and_audits(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run", HAND)
    assert command("report", folder).out == f"report: {folder / 'report.html'}\n"
    whole = (folder / "report.html").read_bytes()
    assert write_report(folder).read_bytes() == whole
    game = folder / "game.json"
    assert command("report", game).code == 0
    assert "The game was settled for this page" in (folder / "game.report.html").read_text()
    (tmp_path / "audit.json").write_text(command("audit", game, "--json", "--starts", 2).out)
    result = command("report", folder, "--audit", tmp_path / "audit.json", "-o", tmp_path / "x.html")
    assert (result.code, result.err) == (0, "")
    assert "2 starts" in (tmp_path / "x.html").read_text()


def test_the_command_refuses_what_is_no_folder_of_ours(tmp_path: Path) -> None:
    study = study_of(tmp_path / "study", GAMES)
    (tmp_path / "empty").mkdir()
    for arguments in ([tmp_path / "empty"], [tmp_path / "none"], [study, "--audit", study / "study.json"]):
        result = command("report", *arguments)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps({"payment": "affine"}))
    assert "or of `discover` (result.json)" in command("report", tmp_path / "empty").err
    result = command("report", folder_of(tmp_path / "run", HAND), "--audit", wrong)
    assert (result.code, result.err.startswith(f"rlhf-game: {wrong}: ")) == (2, True)


def test_without_the_extra_the_message_names_it(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run", HAND)
    code = (
        "import sys; sys.modules['jinja2'] = None\n"
        "from pathlib import Path\n"
        "from rlhf_game.cli.report import leave_report\n"
        f"print(leave_report(Path({str(folder)!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"
    assert done.stderr.startswith("no report.html: jinja2 is not installed")
    assert "rlhf-game[report]" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (folder / "report.html").exists()


def test_a_report_is_made_again_when_what_it_shows_is_newer(tmp_path: Path) -> None:
    from rlhf_game.cli.report import leave_report

    folder = folder_of(tmp_path / "run", HAND)
    path = leave_report(folder)
    assert path == folder / "report.html"
    path.write_text("kept")
    assert leave_report(folder) == path
    assert path.read_text() == "kept"
    (folder / "receipt.json").write_text((folder / "receipt.json").read_text())
    leave_report(folder)
    assert path.read_text().startswith("<!DOCTYPE html>")
