"""Figures and tables as files of their own: the same numbers, no style sheet, and texts that LaTeX can set."""

import copy
import csv
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rlhf_game.errors import InputError
from rlhf_game.report import write_report
from rlhf_game.report.data_table import DataTable
from rlhf_game.report.figures import latex_of, pdf_of, resolved, write_figures
from rlhf_game.report.page import Figure, Page
from rlhf_game.report.studies import read_study
from rlhf_game.report.study_pages import study_page
from tests.cli.runner import run
from tests.report.pages import data_of, page_of
from tests.report.test_studies import GAMES, folder_of

SVG = "{http://www.w3.org/2000/svg}"
pytest.importorskip("matplotlib", reason="needs matplotlib, of the extra 'report'")


def test_every_figure_and_table_of_a_page_is_a_file(tmp_path: Path) -> None:
    single = {**GAMES, "axes": [], "points": [{}], "summaries": [s for s in GAMES["summaries"] if s["point"] == 0]}
    folder = folder_of(tmp_path / "study", single)
    page = page_of(write_report(folder))
    result = run("report", folder, "--figures", tmp_path / "out")
    assert (result.code, result.err) == (0, "")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert result.out == f"figures: {tmp_path / 'out'} ({len(names)} files)\n"
    for figure in page.all("figure"):
        key, panels = figure.attributes["id"], figure.all("div", class_="panel")
        stems = [key] if len(panels) == 1 else [f"{key}-{k + 1}" for k in range(len(panels))]
        assert {f"{stem}{end}" for stem in stems for end in (".svg", ".pdf")} <= names
        assert {f"{key}.csv", f"{key}.tex"} <= names
        with open(tmp_path / "out" / f"{key}.csv", encoding="utf-8", newline="") as file:
            assert list(csv.DictReader(file)) == data_of(page, key)
        for stem, panel in zip(stems, panels, strict=True):
            root = ElementTree.parse(tmp_path / "out" / f"{stem}.svg").getroot()
            drawn = [(m.attributes["cx"], m.attributes["cy"]) for m in panel.all("circle")]
            alone = [(one.get("cx"), one.get("cy")) for one in root.iter(f"{SVG}circle")]
            assert alone[: len(drawn)] == drawn
            assert (tmp_path / "out" / f"{stem}.pdf").read_bytes().startswith(b"%PDF-")
    assert {"means.csv", "means.tex"} <= names


def figure_of(page: Page, key: str) -> Figure:
    return next(b for section in page.sections for b in section.blocks if isinstance(b, Figure) and b.key == key)


def test_a_drawing_stands_alone_with_its_colours_and_its_legend(tmp_path: Path) -> None:
    figure = figure_of(study_page(read_study(folder_of(tmp_path / "study", GAMES) / "study.json")), "gain")
    root = resolved(figure.panels[0].drawing, figure.legend)
    text = ElementTree.tostring(root, encoding="unicode")
    assert not re.search(r"class=|var\(|light-dark|data-", text)
    curves = {one.get("stroke") for one in root.iter(f"{SVG}path") if one.get("fill") == "none" and one.get("stroke")}
    assert {"#0072b2", "#d55e00"} <= curves
    said = ["".join(one.itertext()) for one in root.iter(f"{SVG}text")]
    assert {"with affine payments", "without payments"} <= set(said)
    assert pdf_of(root) == pdf_of(root)


def test_latex_sets_any_text_and_aligns_numbers() -> None:
    data = DataTable(("lie_1", "50% & more"), (("a#b{c}~^\\$", -0.25), ("plain", 1.5)))
    assert latex_of(data).splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"lie\_1 & 50\% \& more \\",
        r"\midrule",
        r"a\#b\{c\}\textasciitilde{}\textasciicircum{}\textbackslash{}\$ & $-$0.250 \\",
        r"plain & 1.500 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_names_that_are_hostile_stay_texts(tmp_path: Path) -> None:
    study = copy.deepcopy(GAMES)
    study["axes"] = [{"field": "scenario", "values": ["<script>$x$</script>", "b & c"]}]
    study["points"] = [{"scenario": value} for value in study["axes"][0]["values"]]
    study["summaries"] = [one for one in study["summaries"] if one["point"] < 2]
    page = study_page(read_study(folder_of(tmp_path / "study", study) / "study.json"))
    for panel in figure_of(page, "gain").panels:
        assert not list(resolved(panel.drawing).iter(f"{SVG}script"))


def test_nothing_is_written_where_it_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    folder = folder_of(tmp_path / "study", GAMES)
    assert run("report", folder, "--figures", tmp_path / "file").code == 2
    with pytest.raises(InputError, match="no figure and no table"):
        write_figures(Page("t", "", (), (), ()), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert json.loads((folder / "study.json").read_text()) == GAMES
