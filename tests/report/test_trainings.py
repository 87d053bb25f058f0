"""Reports of trainings: the tables of their kind, and the curves that are in the metrics."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_game.errors import InputError
from rlhf_game.report import write_report
from rlhf_game.report.trainings import curves_of
from tests.report.pages import data_of, page_of

CONFIG = {
    "kind": "reward_model",
    "data": {"file": "p.jsonl"},
    "backbone": "b",
    "method": "head",
    "files": {"p.jsonl": "0"},
}
JUDGED = {"pairs": 29, "accuracy": 0.759, "brier": 0.188, "calibration_error": 0.161, "length_correlation": 0.392}
METRICS: dict[str, Any] = {
    "kind": "reward_model",
    "model": {"test": JUDGED},
    "log": [{"step": k, "loss": 1.0 / (1 + k), "note": "x", "rare": None} for k in range(5)],
    "calibration": {"model": [{"confidence": 0.6, "accuracy": 0.5}, {"confidence": 0.8, "accuracy": 0.9}]},
    "best": 0.25,
}


def folder_of(path: Path, config: dict[str, Any], metrics: dict[str, Any]) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    (path / "metrics.json").write_text(json.dumps(metrics))
    return path


def test_the_tables_of_the_kind_and_every_curve_are_on_the_page(tmp_path: Path) -> None:
    page = page_of(write_report(folder_of(tmp_path / "model", CONFIG, METRICS)))
    assert page.one("h1").text == "Training: reward model"
    row = data_of(page, "table-0")[0]
    assert (row["reward"], row["on"], row["accuracy"]) == ("model", "test", "0.759")
    assert row["95 % interval"] == "0.565 to 0.897"  # of 22 in 29, as scipy's binomtest has it
    assert [float(r["loss"]) for r in data_of(page, "curves-0")] == [1.0 / (1 + k) for k in range(5)]
    assert [float(r["accuracy"]) for r in data_of(page, "curves-1")] == [0.5, 0.9]
    assert (page.one("dt").text, page.one("dd").text) == ("best", "0.2500")


def test_rows_without_an_axis_are_a_table_and_calibration_is_points(tmp_path: Path) -> None:
    """How much two members agree was drawn as a line over another of its numbers, and counts of pairs as a curve."""
    agreement = [
        {"members": [0, k], "same_backbone": True, "spearman": 0.5 + k / 10, "same_choice": 1.0 - k / 10}
        for k in (1, 2)
    ]
    sure = [{"pairs": 3, "confidence": 0.6, "accuracy": 0.5}, {"pairs": 9, "confidence": 0.8, "accuracy": 0.75}]
    metrics = {**METRICS, "agreement": agreement, "calibration": {"model": sure}}
    page = page_of(write_report(folder_of(tmp_path / "model", CONFIG, metrics)))
    assert [row["same choice"] for row in data_of(page, "table-1")] == ["0.900", "0.800"]
    assert [title.text for title in page.one(id="curves").all("h3")] == ["log", "Calibration"]
    drawn = page.one(id="curves-1")
    assert "A point is of 3 to 9 pairs" in drawn.one("figcaption").text
    assert [path.attributes["class"].split()[-1] for path in drawn.all("path", class_="curve")] == ["dashed"]
    assert [row["accuracy"] for row in data_of(page, "curves-1")] == ["0.5", "0.75"]


WIDE = {"estimate": 0.5, "low": 0.0, "high": 1.0}


@pytest.mark.parametrize(
    "rows",
    [
        [{"confidence": c, "accuracy": 0.5, "pairs": WIDE} for c in (0.5, 0.9)],
        [{"confidence": None, "accuracy": 0.5, "pairs": 3}] * 2
        + [{"confidence": 0.7, "accuracy": None, "pairs": 1}] * 2,
        [{"confidence": 10**400, "accuracy": 0.5, "pairs": 3}, {"confidence": 0.5, "accuracy": WIDE, "pairs": 3}],
        [{"confidence": WIDE, "accuracy": 0.5, "pairs": 3}] * 2,
        [{"step": 1, "reward": {"estimate": "x", "low": 0, "high": 1}}, {"step": 2, "reward": WIDE, "kl": {}}],
    ],
)
def test_odd_rows_of_the_metrics_have_a_page(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    metrics = {**METRICS, "calibration": {"model": rows}}
    page = write_report(folder_of(tmp_path / "model", CONFIG, metrics)).read_text()
    assert ">nan</text>" not in page


def test_curves_of_intervals_are_drawn_with_their_bands(tmp_path: Path) -> None:
    """Reward and KL of a policy's checkpoints are intervals: the report drew its perplexity alone."""
    points = [
        {"step": k, "reward": {"estimate": 0.5, "low": 0.5 - k / 8, "high": 0.5 + k / 8, "level": 0.95}, "kl": k / 4}
        for k in (0, 1, 3)
    ]
    points[1]["reward"] = {"estimate": 0.75, "low": 0.5, "high": 1.0}
    metrics = {**METRICS, "runs": {"a": {"points": points}}}
    page = page_of(write_report(folder_of(tmp_path / "model", CONFIG, metrics)))
    drawn = page.one(id="curves-2")
    assert [title.text for title in drawn.all("h4")] == ["reward", "kl"]
    assert len(drawn.all("path", class_="band")) == 1
    data = data_of(page, "curves-2")
    assert [tuple(row.values())[1:] for row in data] == [
        ("0", "0.5", "0.5", "0.5", "0.0"), ("1", "0.75", "0.5", "1.0", "0.25"), ("3", "0.5", "0.125", "0.875", "0.75"),
    ]  # fmt: skip


def test_curves_are_found_wherever_they_are() -> None:
    found = dict(curves_of({"a": {"b": [{"x": 1, "y": 2}, {"x": 2, "y": 3}]}, "c": [1, 2], "d": [{"x": 1}]}))
    assert list(found) == [("a", "b")]


def test_a_folder_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json: kind: must be"):
        write_report(folder_of(tmp_path / "model", {**CONFIG, "kind": "magic"}, METRICS))


def test_the_log_of_a_training_is_drawn_and_its_course_said(tmp_path: Path) -> None:
    """Preference trainings had no curve at all; what never changes is said instead of drawn as a line."""
    folder = folder_of(tmp_path / "model", CONFIG, {**METRICS, "training": {"steps": 40, "dropped_pairs": 3}})
    rows = [
        {"step": k + 1, "loss": 2.0 - k / 40, "rewards": {"a<b": k / 40}, "kl": None if k % 2 else 0.01 * k,
         "learning_rate": 0.001, "tokens": 10 * k, "seconds": 1.5}
        for k in range(40)
    ]  # fmt: skip
    (folder / "steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "round-1").mkdir()
    (folder / "round-1" / "steps.jsonl").write_bytes((folder / "steps.jsonl").read_bytes())  # its copy is not drawn
    page = page_of(write_report(folder))
    said = page.one(id="steps").text
    assert "The loss of round-1 went from 1.962 to 1.062 in 40 steps (means of the first and of the last tenth)" in said
    assert "The same throughout: learning rate 0.001000" in said
    data = data_of(page, "steps-0")
    assert [float(row["reward: a<b"]) for row in data] == [k / 40 for k in range(40)]
    assert set(data[0]) == {"curve", "step", "loss", "kl", "learning_rate", "reward: a<b"}
    facts = dict(zip([one.text for one in page.all("dt")], [one.text for one in page.all("dd")], strict=True))
    assert (facts["steps"], facts["dropped pairs"]) == ("40", "3")


def test_a_broken_log_is_one_line(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", CONFIG, METRICS)
    (folder / "steps.jsonl").write_text('{"step": 1}\n{"step"')
    with pytest.raises(InputError, match=r"steps\.jsonl: line 2"):
        write_report(folder)


def test_responses_before_and_after_stand_side_by_side(tmp_path: Path) -> None:
    changed = [
        {"prompt": "Say <b>hi</b>", "before": "no", "after": "<script>x</script>\nhi"},
        {"prompt": "And?", "before": "", "after": ""},
    ]
    page = page_of(write_report(folder_of(tmp_path / "model", CONFIG, {**METRICS, "outputs": changed})))
    shown = page.one(id="outputs")
    assert "first 2 prompts that the training is judged on; 1 of them is the same before and after" in shown.text
    assert [cell.one("bdi").text for cell in shown.all("table")[0].all("td")] == [
        "no", "<script>x</script>\nhi", "2", "21", "(empty)", "(empty)", "0", "0",
    ]  # fmt: skip
    alone = page_of(write_report(folder_of(tmp_path / "alone", CONFIG, {**METRICS, "outputs": changed[1:]})))
    assert "first prompt that the training is judged on, the same before and after." in alone.one(id="outputs").text
    data = data_of(page, "outputs-0")
    assert [(row["prompt"], row["after"]) for row in data] == [(row["prompt"], row["after"]) for row in changed]


@pytest.mark.parametrize("outputs", ["x", [1], [{"prompt": "a", "before": "b"}]])
def test_forged_outputs_are_refused(tmp_path: Path, outputs: Any) -> None:
    with pytest.raises(InputError, match=r"metrics\.json: outputs"):
        write_report(folder_of(tmp_path / "model", CONFIG, {**METRICS, "outputs": outputs}))


def test_of_a_policy_it_is_said_what_it_earns_not_its_loss(tmp_path: Path) -> None:
    """The loss of a policy gradient is rounding about 0."""
    folder = folder_of(tmp_path / "model", CONFIG, METRICS)
    rows = [{"step": k + 1, "loss": (-1) ** k * 1e-8, "reward": k / 10, "kl": 0.5 * k} for k in range(20)]
    (folder / "steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = page_of(write_report(folder)).one(id="steps").text
    assert "The reward went from 0.05000 to 1.850 in 20 steps; the KL to the reference went from 0.2500 to 9.2" in said
    assert "loss went" not in said


STEPS: list[dict[str, Any]] = [{"step": k + 1, "loss": 1 / (k + 1), "rewards": {"a": k / 10}} for k in range(5)]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ([{**row, "loss": float("nan")} for row in STEPS], "The loss was no number in 5 of 5 steps"),
        ([{**row, "loss": float("inf") if row["step"] == 2 else 1.0} for row in STEPS], "the loss was no number in 1"),
        ([{**row, "loss": 1e308 * (-1) ** row["step"]} for row in STEPS], "in 5 steps"),
        ([{**row, "loss": 10**400} for row in STEPS], "The loss was no number in 5 of 5 steps"),
        ([{**row, "step": float("nan")} for row in STEPS], "went from 1.000 to 0.2000"),
        ([{**row, "step": 10**400 + row["step"]} for row in STEPS], "went from 1.000 to 0.2000"),
        ([{"loss": 1.0}, {"step": 2}, {"step": 3, "loss": 2.0}], "went from 1.000 to 2.000 in 2 steps"),
        (
            [{**row, "step": str(row["step"]), "<script>x": row["step"], "": 1, "a\nb": 2} for row in STEPS],
            "in 5 steps",
        ),
        ([{**row, **{f"c{k}": row["step"] * k for k in range(100)}} for row in STEPS], "more columns are in the data"),
        ([[1, 2], 3, None], None),
    ],
)
def test_a_log_of_odd_numbers_and_columns_has_a_page(tmp_path: Path, changed: list[Any], said: str | None) -> None:
    """Logs are others' too: what has no place on an axis is said, and nothing of it breaks the page or its figures."""
    folder = folder_of(tmp_path / "model", CONFIG, {key: value for key, value in METRICS.items() if key != "log"})
    (folder / "steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in changed))
    page = write_report(folder).read_text()
    assert said is None or said in page
    assert "from nan" not in page
    assert "<script>x" not in page
    assert ">nan</text>" not in page
