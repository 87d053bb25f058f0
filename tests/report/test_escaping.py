"""Prompts, responses and names are anybody's: nothing in them becomes markup, script, an address or a formula."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from rlhf_game.report import write_report
from rlhf_game.report.data_table import DataTable
from rlhf_game.report.svg import element, label
from tests.report.pages import Node, data_of, page_of, read
from tests.report.test_games import folder_of
from tests.report.test_studies import GAMES as STUDY
from tests.report.test_studies import MARKET

HOSTILE = (
    "<script>window.pwned = 1</script>",
    "</script><script>window.pwned = 2</script>",
    "<img src=x onerror='window.pwned = 3'>",
    "\" onmouseover=\"window.pwned = 4\" x=\"",
    "' onfocus='window.pwned = 5' autofocus x='",
    "javascript:window.pwned = 6",
    "]]><svg onload=window.pwned=7>",
    "--><style>body{display:none}</style><!--",
    "</title></desc></svg></style></textarea><iframe src=//evil.example>",
    "{{ 7 * 7 }}{% include '/etc/passwd' %}",
    "=HYPERLINK(\"http://evil.example\",\"x\")",
    "+1+cmd|' /C calc'!A0",
    "@SUM(1)",
    "-2+3",
    "\t=1+1",
    "&lt;script&gt;&#60;b&#62;&amp;",
    "\u202e\u2066right to left\x07\x00\x1b[31m",
    "\ud83d\ude00 \u4f60\u597d " + "long" * 300,
)  # fmt: skip
HOSTILE_GAME: dict[str, Any] = {
    "reference": [[1 / 9] * 9, [1 / 9] * 9],
    "outcomes": [list(HOSTILE[:9]), list(HOSTILE[9:])],
    "strength": 0.5,
    "groups": [
        {"name": text, "size": 1 + i, "reward": [[((i + 2) * x % 9) / 9 for x in range(9)]] * 2}
        for i, text in enumerate(HOSTILE)
    ],
    "provenance": {"prompts": [HOSTILE[0], HOSTILE[1]], HOSTILE[2]: {HOSTILE[3]: HOSTILE[4]}},
}


def hostile_run(path: Path) -> Path:
    """A run whose every text is hostile, those of its receipt's provenance too."""
    folder = folder_of(path, HOSTILE_GAME)
    receipt = json.loads((folder / "receipt.json").read_text())
    receipt["provenance"] = {"model": {"model": HOSTILE[0]}, HOSTILE[1]: HOSTILE[2], "seed": 0}
    (folder / "receipt.json").write_text(json.dumps(receipt))
    return folder


def hostile_audit(path: Path) -> Path:
    """Such a run with an audit whose every text is hostile, as if nobody paid: the report searches for no other."""
    folder = hostile_run(path)
    groups = [
        {
            "name": text, "truthful_utility": 1.0, "regret_found": 0.5, "regret_bound": None, "best_gain": 0.5,
            "best_strategy": text, "best_report": {"size": 2, "reward": [[0.5] * 9] * 2},
        }
        for text in HOSTILE
    ]  # fmt: skip
    joint = [{"members": list(HOSTILE[:2]), "truthful_utility": 0.0, "gain": 0.1}]
    audit = {"payment": "none", "groups": groups, "starts": 1, "seed": 0, "coalitions": joint}
    (folder / "audit.json").write_text(json.dumps(audit))
    return folder


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Node:
    """The report of a hostile run."""
    return page_of(write_report(hostile_run(tmp_path_factory.mktemp("hostile") / "run")))


def hostile_study(path: Path, study: dict[str, Any]) -> Path:
    """A study whose labels, fields, values and errors are hostile."""
    path.mkdir()
    text = json.dumps(study).replace("polarize(temperature=4.0)", json.dumps(HOSTILE[0])[1:-1])
    text = text.replace('"strength"', json.dumps(HOSTILE[2])).replace('"0badcafe"', json.dumps(HOSTILE[1]))
    document = json.loads(text)
    document |= {"failed": 1, "errors": [{"point": 0, "game": 1, "error": HOSTILE[3]}]}
    (path / "study.json").write_text(json.dumps(document))
    return path


def check_harmless(page: Node) -> None:
    """Fail where the page holds more than our own script, style, addresses and attributes."""
    (script,), (style,) = page.all("script"), page.all("style")
    assert "pwned" not in script.text
    assert "pwned" not in style.text
    assert "display:none}" not in style.text.replace(" ", "")
    assert not [node.name for node in page.all() if node.name in ("iframe", "img", "object", "embed", "base", "form")]
    for node in page.all():
        for key, value in node.attributes.items():
            assert not key.startswith("on"), f"{key} in <{node.name}>"
            assert key != "style"
            if key in ("href", "src", "xlink:href", "action"):
                assert value.startswith(("#", "data:text/csv;charset=utf-8;base64,")) or value == "data:,", value
    allowed = page.one("meta", http_equiv="Content-Security-Policy").attributes["content"]
    assert "default-src 'none'" in allowed
    assert "unsafe" not in allowed
    assert not re.search(r"https?://", "".join(v for n in page.all() for v in n.attributes.values()))


def test_hostile_texts_of_a_run_are_texts(hostile: Node) -> None:
    page = hostile
    check_harmless(page)
    shown = page.text
    for text in HOSTILE[:16]:
        assert text.strip() in shown, text
    assert page.one("h1").text == f"18 groups share {HOSTILE[0]}"


@pytest.mark.parametrize("study", [STUDY, MARKET], ids=["games", "market"])
def test_hostile_texts_of_a_study_are_texts(tmp_path: Path, study: dict[str, Any]) -> None:
    page = page_of(write_report(hostile_study(tmp_path / "study", study)))
    check_harmless(page)
    assert HOSTILE[3] in page.text


def test_hostile_texts_of_an_audit_are_texts(tmp_path: Path) -> None:
    check_harmless(page_of(write_report(hostile_audit(tmp_path / "run"))))


def test_no_cell_of_a_csv_is_a_formula(hostile: Node) -> None:
    page = hostile
    for link in page.all("a", class_="csv"):
        content = base64.b64decode(link.attributes["href"].partition("base64,")[2]).decode("utf-8-sig")
        key = link.attributes["download"].removesuffix(".csv")
        for row in data_of(page, key):
            for cell in row.values():
                assert not cell.startswith(("=", "@", "+", "\t", "\r")), cell
                assert not cell.startswith("-") or re.fullmatch(r"-[0-9.e+-]+", cell), cell
        assert not re.search(r"[\x00-\x08\x1b]", content)


def test_numbers_stay_numbers_and_texts_that_look_like_formulas_do_not() -> None:
    data = DataTable(("name", "gain"), (("=1+1", -0.5), ("-3", 1e-20), ('a"b,\nc', 2), ("x", None)))
    assert data.csv() == 'name,gain\r\n\'=1+1,-0.5\r\n\'-3,1e-20\r\n"a""b,\nc",2\r\nx,\r\n'


def test_a_drawing_cannot_be_ended_from_inside() -> None:
    text = "\"'><script>x</script>]]>"
    drawn = element("g", label(text, 1, 2, kind=text), element("title", text), id=text).html()
    tree = read(drawn)
    assert [node.name for node in tree.all()] == ["g", "text", "title"]
    assert tree.one("g").attributes["id"] == tree.one("text").attributes["class"] == text
    assert tree.text == text * 2


def test_no_place_in_a_drawing_is_infinite() -> None:
    with pytest.raises(ValueError, match="no place"):
        element("rect", x=float("nan"))
