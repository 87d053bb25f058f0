"""Configurations: what is right is read, what is wrong is one line that names the field."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_game import InputError
from rlhf_game.outcomes import read_config
from tests.cli.runner import run as command

Write = Callable[..., Path]


def group(**changes: Any) -> list[dict[str, Any]]:
    return [{"name": "a", "reward": {"brevity": 5}, **changes}]


@pytest.mark.parametrize("fitted", ["minmax", "min_max", "zscore", "z-score", "Standardize", "softmax"])
def test_a_calibration_fitted_on_the_groups_own_scores_is_refused(write: Write, fitted: str) -> None:
    for calibration in (fitted, {"kind": fitted}, {"kind": fitted, "low": 0}):
        with pytest.raises(InputError) as caught:
            read_config(write(groups=group(calibration=calibration)))
        assert "groups[0].calibration: must not be fitted on the group's own scores" in str(caught.value)
        assert "declare affine" in str(caught.value)


def test_a_fitted_calibration_inside_a_mix_is_refused_too(write: Write) -> None:
    mix = {"mix": [{"reward": "sentiment", "calibration": "zscore"}]}
    with pytest.raises(InputError, match="must not be fitted on the group's own scores"):
        read_config(write(groups=group(reward=mix)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": None}, "model: must be given"),
        ({"model": 3}, "model"),
        ({"model": {"name": "x", "weights": 1}}, "model.weights"),
        ({"model": {"name": "x", "dtype": "int4"}}, "model.dtype"),
        ({"prompts": []}, "prompts"),
        ({"prompts": [""]}, "prompts"),
        ({"prompts": ["  "]}, "prompts[0]: must be text"),
        ({"prompts": ["a", {"prompt": "b"}]}, "prompts[1]: must have the same form"),
        ({"prompts": [{"prompt": "a", "x": 1}, {"prompt": "b"}]}, "prompts[1]: must have the same form and columns"),
        ({"prompts": [{"text": "a"}]}, "prompts[0]: must be text"),
        ({"prompts": "nowhere.txt"}, "nowhere.txt: must be a file"),
        ({"prompts": "config.json"}, "must be a list of prompts"),
        ({"prompts": "mine.py"}, "prompts: must be a .txt"),
        ({"outcomes": {"kind": "candidates"}}, "per_prompt"),
        ({"outcomes": {"kind": "magic", "per_prompt": 1}}, "outcomes"),
        ({"outcomes": {"kind": "candidates", "per_prompt": 0}}, "per_prompt"),
        ({"outcomes": {"kind": "candidates", "per_prompt": 2, "temperature": 0}}, "temperature"),
        ({"outcomes": {"kind": "candidates", "per_prompt": 2, "top_p": 1.5}}, "top_p"),
        ({"outcomes": {"kind": "candidates", "per_prompt": 2.5}}, "per_prompt"),
        ({"strength": 0}, "strength"),
        ({"strength": float("nan")}, "strength"),
        ({"strength": None}, "strength: must be given"),
        ({"regularizer": "manhattan"}, "regularizer"),
        ({"payment": "later"}, "payment"),
        ({"payment": "revenue"}, "payment: revenue must come with normalization"),
        ({"normalization": "l2"}, "normalization"),
        ({"weights": {"nobody": 1.0}}, "weights.nobody: must be the name of a group"),
        ({"seed": -1}, "seed"),
        ({"seed": True}, "seed"),
        ({"groups": []}, "groups"),
        ({"groups": group() + group()}, "groups[1].name: must differ"),
        ({"groups": group(size=0)}, "groups[0].size"),
        ({"groups": group(reward="charm")}, "groups[0].reward: must name a reward: python"),
        ({"groups": group(reward={"charm": 1})}, "groups[0].reward"),
        ({"groups": group(reward={"brevity": 0})}, "groups[0].reward.words: must be greater"),
        ({"groups": group(reward={"python": "no colon"})}, "groups[0].reward"),
        ({"groups": group(reward={"python": "nowhere.py:f"})}, "must name a file that exists"),
        ({"groups": group(reward={"table": {"a": "x"}})}, "groups[0].reward"),
        ({"groups": group(reward={"kind": "table"})}, "groups[0].reward.values: must be given where file is not"),
        ({"groups": group(reward={"mix": []})}, "groups[0].reward"),
        ({"groups": group(reward={"similarity": {}})}, "groups[0].reward.text: must be given"),
        (
            {"groups": group(calibration={"kind": "affine", "low": 1, "high": 1})},
            "groups[0].calibration.high: must be above low",
        ),
        ({"groups": group(calibration={"kind": "affine", "low": 1})}, "high: must be given"),
        ({"groups": group(calibration={"kind": "logistic", "center": 0, "scale": 0})}, "scale"),
        ({"groups": group(calibration="cubic")}, "groups[0].calibration: must have the kind unit, affine"),
        ({"extra": 1}, "must be one of the keys"),
    ],
)
def test_a_wrong_configuration_is_one_line(write: Write, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    result = command("run", write(**changes), "-o", tmp_path / "out")
    assert result.code == 2, result.err
    assert result.out == ""
    assert result.err.count("\n") == 1
    assert said in result.err
    assert not (tmp_path / "out").exists()


def test_short_and_long_forms_are_the_same_configuration(write: Write) -> None:
    short = group(
        reward={"mix": [{"reward": "sentiment"}, {"reward": {"python": "mine.py:good"}, "calibration": "rank"}]}
    )
    long = group(
        reward={
            "kind": "mix",
            "parts": [
                {"reward": {"kind": "sentiment"}, "weight": 1.0},
                {"reward": {"kind": "python", "function": "mine.py:good"}, "calibration": {"kind": "rank"}},
            ],
        },
        size=1,
    )
    first, second = read_config(write(groups=short)), read_config(write(groups=long))
    assert first.document() == second.document()
    assert first.sha256 == second.sha256


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "good\n\nbad\n"),
        ("p.jsonl", '{"prompt": "good", "answer": "x"}\n{"prompt": "bad", "answer": "y"}\n'),
        ("p.json", '["good", "bad"]'),
    ],
)
def test_prompts_come_from_files(write: Write, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    configuration = read_config(write(prompts=name))
    assert configuration.source.prompts == ("good", "bad")
    assert configuration.source.columns == ({"answer": ("x", "y")} if name == "p.jsonl" else {})
    assert list(configuration.files) == ["mine.py", name] if "mine.py" in configuration.files else [name]


def test_yaml_is_read_as_the_same_configuration(write: Write, tmp_path: Path) -> None:
    config = write()
    (tmp_path / "config.yaml").write_text(config.read_text())  # JSON is YAML
    assert read_config(tmp_path / "config.yaml").sha256 == read_config(config).sha256
    assert json.loads(json.dumps(read_config(config).document())) == read_config(config).document()
