"""Reports of studies: every mean with its interval is on the page, in the figures and behind them."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_game.errors import InputError
from rlhf_game.report import write_report
from rlhf_game.report.studies import families, read_study, sweep_of
from tests.report.pages import data_of, page_of

LIES = ["truthful", "polarize(temperature=4.0)", "false_names(names=2, factor=1.0)"]
POINTS = [{"strength": s, "scenario.groups": n} for s in (0.2, 1.0, 5.0) for n in (2, 4)]


GAINS = {
    "affine": {"truthful": 0.0, LIES[1]: -0.3, LIES[2]: 0.05},
    "none": {"truthful": 0.0, LIES[1]: 0.2, LIES[2]: 0.2},
}


def mean(value: float) -> dict[str, float]:
    return {"estimate": value, "low": value - 0.01, "high": value + 0.01, "level": 0.95}


def measures(point: dict[str, Any], lie: str, payment: str) -> dict[str, Any]:
    gain = GAINS[payment][lie]
    welfare = 3.0 / point["strength"] ** 0.25 * point["scenario.groups"]
    revenue = (0.1 + point["strength"]) * (payment == "affine")
    numbers = {"welfare": welfare, "affine_welfare": welfare - 0.1, "revenue": revenue, "divergence": 1.0, "gain": gain}
    return {name: mean(value) for name, value in numbers.items()} | {"regret": mean(abs(gain)), "gaining": None}


HEAD = {"version": "0.1.0", "config_sha256": "0badcafe", "seed": 1, "games": 400, "failed": 0, "errors": []}
GAMES: dict[str, Any] = {
    **HEAD, "kind": "games", "rows": 14400,
    "axes": [{"field": "strength", "values": [0.2, 1.0, 5.0]}, {"field": "scenario.groups", "values": [2, 4]}],
    "points": POINTS, "strategies": LIES, "payments": ["affine", "none"],
    "summaries": [
        {"point": p, "strategy": lie, "payment": payment, "games": 400, "failed": 0, "kind": lie.partition("(")[0],
         "who": "nobody" if lie == "truthful" else "each", "largest_regret": max(0.0, GAINS[payment][lie]) * 2,
         "measures": measures(point, lie, payment)}
        for p, point in enumerate(POINTS) for lie in LIES for payment in ("affine", "none")
    ],
}  # fmt: skip
ROUNDS = {"estimate": [0.2, 0.5, 0.9], "low": [0.1, 0.4, 0.8], "high": [0.3, 0.6, 1.0], "level": 0.95}
MARKET: dict[str, Any] = {
    **HEAD, "kind": "market", "rows": 240, "rounds": 3,
    "axes": [{"field": "strength", "values": [0.5, 1.0]}], "points": [{"strength": 0.5}, {"strength": 1.0}],
    "strategies": LIES[:2], "payments": ["affine", "none"],
    "summaries": [
        {"point": p, "payment": payment, "games": 40, "failed": 0, "rounds": [0, 1, 2],
         "measures": {"truthful": ROUNDS, "efficiency": ROUNDS, "present": {**ROUNDS, "estimate": [2.0, 2.0, 2.0]}},
         "last": {"truthful": mean(0.9 if payment == "affine" else 0.1), "efficiency": mean(0.95),
                  "welfare": mean(2.0 - p), "revenue": mean(0.1 + p)}}
        for p in (0, 1) for payment in ("affine", "none")
    ],
}  # fmt: skip


def folder_of(path: Path, study: dict[str, Any]) -> Path:
    path.mkdir()
    (path / "study.json").write_text(json.dumps(study))
    return path


def test_the_gains_on_the_page_are_those_of_the_study(tmp_path: Path) -> None:
    page = page_of(write_report(folder_of(tmp_path / "study", GAMES)))
    rows = {(r["strength"], r["scenario.groups"], r["strategy"], r["payments"]): r for r in data_of(page, "gain")}
    wanted = [one for one in GAMES["summaries"] if one["strategy"] != "truthful"]
    assert len(rows) == len(wanted)
    for one in wanted:
        point = POINTS[one["point"]]
        row = rows[str(point["strength"]), str(point["scenario.groups"]), one["strategy"], one["payment"]]
        assert {"estimate": row["mean"], "low": row["low"], "high": row["high"]} == {
            end: str(one["measures"]["gain"][end]) for end in ("estimate", "low", "high")
        }
    panels = page.one(id="gain").all("div", class_="panel")
    assert len(panels) == 2 * 2  # lies and slices
    for panel in panels:
        assert len(panel.all("path", class_="band")) == 2  # an interval for each payment rule
        assert len([*panel.all("circle"), *panel.all("path", class_="mark")]) == 2 * 3


def test_the_page_says_which_lies_gain(tmp_path: Path) -> None:
    page = page_of(write_report(folder_of(tmp_path / "study", GAMES)))
    affine, free = page.one(id="lies").all("p", class_="callout")
    assert f"{LIES[1]} gains in no game at 6 of 6 settings; {LIES[2]} gains on average at 6 of 6" in affine.text
    assert "All of these gains are those of one group under several names" in affine.text
    assert affine.has("class_", "plain")
    assert f"{LIES[1]} gains on average at 6 of 6 settings; {LIES[2]} gains on average at 6 of 6" in free.text
    assert free.has("class_", "bad")
    rows = data_of(page, "verdicts")
    assert len(rows) == 6 * 2 * 2
    assert {(row["payments"], row["lie"], row["verdict"]) for row in rows} == {
        ("with affine payments", LIES[1], "gains in no game"), ("with affine payments", LIES[2], "gains on average"),
        ("without payments", LIES[1], "gains on average"), ("without payments", LIES[2], "gains on average"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("gain", "largest", "verdict"),
    [
        ((-0.3, -0.31, -0.29), 0.0, "gains in no game"),
        ((-0.3, -0.31, -0.29), 1e-6, "loses on average, though it gains in some games"),
        ((0.0, -0.01, 0.01), 0.2, "gains in some games, with a mean that is not told from 0"),
        ((0.02, 0.01, 0.03), 0.2, "gains on average"),
    ],
)
def test_a_verdict_is_that_of_one_point(
    tmp_path: Path, gain: tuple[float, float, float], largest: float, verdict: str
) -> None:
    """Of one setting among six; the others stay as they are."""
    study = copy.deepcopy(GAMES)
    (one,) = (s for s in study["summaries"] if (s["point"], s["strategy"], s["payment"]) == (3, LIES[1], "affine"))
    one["measures"]["gain"] |= dict(zip(("estimate", "low", "high"), gain, strict=True))
    one["largest_regret"] = largest
    page = page_of(write_report(folder_of(tmp_path / "study", study)))
    said = [row["verdict"] for row in data_of(page, "verdicts") if row["lie"] == LIES[1] and "with " in row["payments"]]
    others = ["gains in no game"] * 5
    assert said == [*others[:3], verdict, *others[:2]]


def test_the_front_holds_the_settings_that_no_other_one_beats(tmp_path: Path) -> None:
    """Here welfare falls and revenue rises with the strength, so every setting with payments is on the front."""
    page = page_of(write_report(folder_of(tmp_path / "study", GAMES)))
    for at in (0, 1):
        assert len(page.one(id=f"pareto-{at}").all("circle", class_="ring")) == 3
    worse = copy.deepcopy(GAMES)
    for one in worse["summaries"]:
        if one["point"] == 2 and one["strategy"] == "truthful":
            one["measures"]["revenue"] = mean(0.0)
    page = page_of(write_report(folder_of(tmp_path / "worse", worse)))
    assert [len(page.one(id=f"pareto-{at}").all("circle", class_="ring")) for at in (0, 1)] == [2, 3]
    assert len(data_of(page, "pareto")) == 12


def test_every_mean_is_in_the_table(tmp_path: Path) -> None:
    page = page_of(write_report(folder_of(tmp_path / "study", GAMES)))
    rows = data_of(page, "means")
    assert len(rows) == len(GAMES["summaries"])
    assert [float(row["welfare"]) for row in rows] == [
        one["measures"]["welfare"]["estimate"] for one in GAMES["summaries"]
    ]


def test_the_rounds_of_a_market_are_curves(tmp_path: Path) -> None:
    page = page_of(write_report(folder_of(tmp_path / "study", MARKET)))
    rows = data_of(page, "rounds")
    assert [float(r["mean"]) for r in rows if r["measure"] == "truthful"] == ROUNDS["estimate"] * 4
    assert not [r for r in rows if r["measure"] == "present"]  # nothing happens
    good, bad = (note.text for note in page.one(id="course").all("p", class_="callout"))
    assert "With affine payments, groups end up telling the truth with probability 0.90" in good
    assert "Without payments, groups end up telling the truth with probability 0.10" in bad
    assert "95.0% of the best there is, over 2 settings" in good
    assert len(data_of(page, "pareto")) == 4
    headings = [heading.text for heading in page.one(id="ends").all("h4")]
    assert headings.index("Affine social welfare, as a share of the best") < headings.index("Social welfare")
    assert "Plain social welfare" not in page.text  # it is not
    more = copy.deepcopy(MARKET)
    more["summaries"][1]["last"]["welfare"] = mean(2.5)
    for k, one in enumerate(more["summaries"]):
        one["last"]["affine_welfare"] = mean(1.0 - 0.1 * k)
    page = page_of(write_report(folder_of(tmp_path / "more", more)))
    assert (
        "higher without payments than with affine payments at 1 of 2 settings, affine social welfare at 0" in page.text
    )
    paid = copy.deepcopy(MARKET) | {"payments": ["affine"]}
    paid["summaries"] = [one for one in paid["summaries"] if one["payment"] == "affine"]
    assert "Plain social welfare" not in page_of(write_report(folder_of(tmp_path / "paid", paid))).text


def test_a_study_without_a_sweep_and_one_whose_games_all_failed_have_reports(tmp_path: Path) -> None:
    single = {**GAMES, "axes": [], "points": [{}], "summaries": [s for s in GAMES["summaries"] if s["point"] == 0]}
    page = page_of(write_report(folder_of(tmp_path / "single", single)))
    rows = data_of(page, "gain")
    assert [row["strategy"] for row in rows if row["measure"] == "gain"] == LIES[1:] * 2
    assert {row["measure"] for row in rows} == {"gain", "regret"}  # the third one is not known
    panels = page.one(id="gain").all("div", class_="panel")
    assert len(panels) == 2
    for panel in panels:
        assert [name.text for name in panel.all("text", class_="label")] == LIES[1:]
        assert len(panel.all("path", class_="s1")) == 2  # one mark for each lie without payments ...
        assert len(panel.all("line", class_="s1")) == 2  # ... and its interval
    found = panels[0].all("line", class_="s0")[0]  # of polarize, which loses 0.3 (0.31 to 0.29) with payments
    zero = float(panels[0].all("line", class_="axis")[0].attributes["x1"])
    left, right = (zero - float(found.attributes[end]) for end in ("x1", "x2"))
    assert left / right == pytest.approx(0.31 / 0.29, rel=1e-3)
    assert not page.all(id="yields")
    assert not page.all(id="pareto")
    worth = GAMES["summaries"][0]["measures"]
    (said,) = (note.text for note in page.one(id="yield").all("p", class_="callout"))
    assert f"Social welfare is {worth['welfare']['estimate']:.3f} (" in said
    assert f"The provider earns {worth['revenue']['estimate']:.4f} (" in said
    failed = json.loads(json.dumps(single))
    for one in failed["summaries"]:
        one["measures"] = dict.fromkeys(one["measures"])
    failed |= {"failed": 2400, "rows": 2400, "errors": [{"point": 0, "game": 0, "error": "it broke"}]}
    page = page_of(write_report(folder_of(tmp_path / "failed", failed)))
    assert "it broke" in page.text
    assert "every game failed" in page.text
    assert not page.all(id="yield")


def test_swept_strategies_share_a_curve(tmp_path: Path) -> None:
    study = json.loads(json.dumps({**GAMES, "axes": [{"field": "strategies.0.temperature", "values": [1.0, 4.0]}]}))
    labels = ["polarize(temperature=1.0)", "polarize(temperature=4.0)"]
    study["points"] = [{"strategies.0.temperature": 1.0}, {"strategies.0.temperature": 4.0}]
    study["strategies"] = ["truthful", *labels]
    study["summaries"] = [
        {**one, "strategy": labels[one["point"]] if one["strategy"] != "truthful" else "truthful"}
        for one in study["summaries"] if one["point"] < 2 and one["strategy"] != LIES[2]
    ]  # fmt: skip
    found = read_study(folder_of(tmp_path / "study", study) / "study.json")
    assert families(found) == {"truthful": "truthful", labels[0]: "polarize", labels[1]: "polarize"}
    assert sweep_of(found).field == "strategies.0.temperature"
    page = page_of(write_report(tmp_path / "study"))
    assert len(page.one(id="gain").all("div", class_="panel")) == 1


def test_values_that_are_no_numbers_are_places_with_names(tmp_path: Path) -> None:
    study = json.loads(json.dumps(GAMES))
    study["axes"] = [{"field": "scenario.kind", "values": ["random", "polarised"]}]
    study["points"] = [{"scenario.kind": "random"}, {"scenario.kind": "polarised"}]
    study["summaries"] = [one for one in study["summaries"] if one["point"] < 2]
    page = page_of(write_report(folder_of(tmp_path / "study", study)))
    for key in ("gain-0-0", "yields-0-0"):
        drawing = page.one(id=key)
        assert [name.text for name in drawing.all("text", class_="label")] == [
            "scenario.kind = random", "scenario.kind = polarised",
        ]  # fmt: skip
        assert not drawing.all("path", class_="curve")  # nothing leads from one to the other


def test_a_wrong_study_names_the_field(tmp_path: Path) -> None:
    wrong = {**GAMES, "summaries": [{**GAMES["summaries"][0], "measures": {"gain": {"estimate": "much"}}}]}
    with pytest.raises(InputError, match=r"study\.json: summaries\[0\]\.measures"):
        write_report(folder_of(tmp_path / "study", wrong))
