"""Reports of discoveries: the best loss beside the known ones, the search, and everything that was tried."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_game.errors import InputError
from rlhf_game.report import write_report
from tests.report.pages import data_of, page_of

HOSTILE = "<script>window.pwned = 1</script>"


def worth(score: float) -> dict[str, Any]:
    return {"score": score, "scores": [score, score], "reward": 2.0 * score, "kl": 0.5}


def tried(generation: int, index: int, text: str, score: float | None, reason: str | None = None) -> dict[str, Any]:
    numbers: dict[str, Any] = {"scores": [], "reward": score, "kl": score}
    line = {"generation": generation, "index": index, "text": text, "origin": "random", "score": score}
    return {**line, **numbers, "reason": reason}


ARCHIVE = [
    tried(0, 0, "-z", 0.1),
    tried(0, 1, HOSTILE, None, "must be one expression"),
    tried(1, 0, "relu(1 - z)", 0.4),
    tried(1, 1, "exp(-z)", 0.3),
    tried(2, 0, "-tanh(z)", 0.2),
]
RESULT: dict[str, Any] = {
    "best": {
        "name": "g001-000", "expression": "relu(1 - z)", "origin": "random", "search": worth(0.4),
        "held_out": worth(0.45),
    },
    "baselines": {
        "dpo": {"formula": "-log s(z)", "search": worth(0.35), "held_out": worth(0.41)},
        "slic": {"formula": "max(0, 1 - z)", "search": worth(0.38), "held_out": worth(0.44)},
    },
    "gain_over": {"dpo": {"mean": 0.04, "standard_error": 0.01}, "slic": {"mean": 0.01, "standard_error": 0.02}},
    "curve": [0.1, 0.4, 0.4],
    "candidates": {"proposed": 5, "scored": 4, "rejected": 1},
}  # fmt: skip


def folder_of(path: Path, result: dict[str, Any] = RESULT, archive: list[dict[str, Any]] = ARCHIVE) -> Path:
    path.mkdir()
    (path / "result.json").write_text(json.dumps(result))
    (path / "archive.jsonl").write_text("".join(json.dumps(line) + "\n" for line in archive))
    (path / "config.json").write_text(json.dumps({"generations": 3, "limits": {"size": 40}}))
    return path


def test_every_candidate_is_on_the_page_the_best_first_the_rejected_with_their_reasons(tmp_path: Path) -> None:
    page = page_of(write_report(folder_of(tmp_path / "search")))
    rows = data_of(page, "archive")
    assert [(row["candidate"], float(row["score"])) for row in rows] == [
        ("g001-000", 0.4), ("g001-001", 0.3), ("g002-000", 0.2), ("g000-000", 0.1),
    ]  # fmt: skip
    (rejected,) = data_of(page, "rejected")
    assert (rejected["expression"], rejected["reason"]) == (HOSTILE, "must be one expression")
    assert len(page.all("script")) == 1
    compared = data_of(page, "compared")
    assert [row["name"] for row in compared] == ["g001-000", "dpo", "slic"]
    assert [row["the best scores more, held out"] for row in compared] == ["", "0.04", "0.01"]
    assert ("limits size", "40") in [(row.one("th").text, row.one("td").text) for row in page.all("tr")[-2:]]


def test_the_curve_holds_the_best_of_each_generation_and_the_known_losses(tmp_path: Path) -> None:
    page = page_of(write_report(folder_of(tmp_path / "search")))
    rows = data_of(page, "scores")
    assert [(row["best so far"], row["best of the generation"]) for row in rows] == [
        ("0.1", "0.1"), ("0.4", "0.4"), ("0.4", "0.2"),
    ]  # fmt: skip
    drawing = page.one(id="search-curve")
    assert len(drawing.all("path", class_="dashed")) == 2
    assert "dpo: from 0.3500 to 0.3500" in drawing.one("desc").text
    one = {**RESULT, "curve": [0.4]}
    assert not page_of(write_report(folder_of(tmp_path / "one", one))).all(id="scores")  # a curve of one point is none


@pytest.mark.parametrize(("mean", "tone"), [(0.05, "good"), (0.01, "plain"), (-0.05, "bad")])
def test_a_gain_is_one_beyond_two_standard_errors(mean: float, tone: str, tmp_path: Path) -> None:
    result = copy.deepcopy(RESULT)
    result["gain_over"]["slic"]["mean"] = mean
    note = page_of(write_report(folder_of(tmp_path / "search", result))).one("p", class_="callout")
    assert note.has("class_", tone)
    assert ("may be chance" in note.text) == (tone == "plain")


def test_a_long_archive_is_cut_on_the_page_and_whole_in_the_data(tmp_path: Path) -> None:
    archive = [tried(k // 100, k % 100, f"{k} * z", 0.001 * k) for k in range(250)]
    archive.append(tried(2, 50, "z" * 5000, None, "must be shorter"))
    page = page_of(write_report(folder_of(tmp_path / "search", archive=archive)))
    card = page.one(id="archive")
    assert "50 more are in the data." in card.one("p", class_="caption").text
    assert len(data_of(page, "archive")) == 250
    assert len(page.one(id="rejected").all("th", scope="row")[0].text) == 300
    assert data_of(page, "rejected")[0]["expression"] == "z" * 5000


def test_a_wrong_file_is_named_with_its_field(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"archive\.jsonl: line 2: score"):
        write_report(folder_of(tmp_path / "line", archive=[ARCHIVE[0], {**ARCHIVE[1], "score": "high"}]))
    with pytest.raises(InputError, match=r"result\.json: best"):
        write_report(folder_of(tmp_path / "best", {**RESULT, "best": None}))
