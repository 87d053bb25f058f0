"""``run --calibrate``: maps and ceilings from public texts, and what they do to the number of proposals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_game import InputError
from rlhf_game.outcomes import read_config
from rlhf_game.outcomes.draws.calibrating import calibrate
from rlhf_game.outcomes.draws.plan import plan
from tests.cli.runner import run as command

Write = Callable[..., Path]
WORDS = ("good", "bad", "yes", "no", "please", "thanks", "maybe", "now")


@pytest.fixture
def public(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = [{"prompt": "good", "response": " ".join(rng.choice(WORDS, size=rng.integers(1, 6)))} for _ in range(60)]
    (tmp_path / "public.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "public.jsonl"


@pytest.fixture
def squeezed(write: Write) -> Callable[..., Path]:
    """Rewards that a wide logistic map leaves between .49 and .51, and draws of what it makes of them."""

    def config(**changes: Any) -> Path:
        wide = {"kind": "logistic", "center": 0.0, "scale": 50.0}
        groups = [
            {"name": "kind", "size": 2, "reward": {"python": "mine.py:good"}, "calibration": wide},
            {
                "name": "brief",
                "reward": {"python": "mine.py:short"},
                "calibration": {"kind": "affine", "low": 0, "high": 5},
            },
        ]
        draws = {"kind": "draws", "draws": 4, "max_proposals": 10**6, "max_new_tokens": 4}
        return write(**({"outcomes": draws, "groups": groups} | changes))

    return config


def test_constants_are_those_of_the_public_texts(squeezed: Callable[..., Path], public: Path) -> None:
    texts = [json.loads(line)["response"].split() for line in public.read_text().splitlines()]
    scores = np.array([words.count("good") - words.count("bad") for words in texts])
    result = command("run", squeezed(), "--calibrate", public, "--spread", "0.25", "--json")
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    kind, brief = found["groups"]
    assert (found["texts"], found["spread"]) == (60, 0.25)
    assert kind["calibration"]["center"] == pytest.approx(scores.mean())
    assert kind["calibration"]["scale"] == pytest.approx(0.25 * scores.std())
    top = 1 / (1 + np.exp(-(scores.max() - scores.mean()) / (0.25 * scores.std())))
    assert top <= kind["ceiling"] <= top + 0.01
    assert (kind["flat"], brief["flat"]) == (True, False)
    printed = command("run", squeezed(), "--calibrate", public)
    assert "kind: calibration: {kind: logistic, center: " in printed.out
    assert printed.out.count("varies by less than a tenth") == 1


def test_a_steep_map_leaves_more_to_play_for(squeezed: Callable[..., Path], public: Path) -> None:
    before = plan(read_config(squeezed()))
    assert before["flat"] == ["kind"]
    found = calibrate(read_config(squeezed()), public)
    groups = json.loads(squeezed().read_text())["groups"]
    groups[0]["calibration"] = found["groups"][0]["calibration"]
    after = plan(read_config(squeezed(groups=groups)))
    assert after["flat"] == []
    moved = [one["plans"][0]["width"] for one in (before, after)]
    assert moved[1] > 2 * moved[0]  # payments depend on what is said again


def test_wrong_public_texts_are_refused(squeezed: Callable[..., Path], tmp_path: Path) -> None:
    configuration = read_config(squeezed())
    for content, said in (
        ('{"prompt": "a", "response": "b"}\n', "at least 20 public texts, found 1"),
        ('{"prompt": "a", "response": 3}\n' * 20, "line 1: response: must be text"),
        ("3\n" * 20, "line 1: prompt: must be text"),
        ('{"prompt": "a", "response": "b"}\n' * 20, r"groups\[0\].reward: must differ between the texts"),
    ):
        (tmp_path / "texts.jsonl").write_text(content)
        with pytest.raises(InputError, match=said):
            calibrate(configuration, tmp_path / "texts.jsonl")
    with pytest.raises(InputError, match="must be a .jsonl file"):
        calibrate(configuration, tmp_path / "texts.txt")
    with pytest.raises(InputError, match="spread must be > 0"):
        calibrate(configuration, tmp_path / "texts.jsonl", 0.0)


def test_a_run_warns_of_rewards_that_hardly_vary(squeezed: Callable[..., Path], tmp_path: Path) -> None:
    candidates = {"kind": "candidates", "per_prompt": 9, "max_new_tokens": 4}
    for name, outcomes in (("draws", None), ("candidates", candidates)):
        config = squeezed(strength=2.0) if outcomes is None else squeezed(outcomes=outcomes)
        printed = command("run", config, "-o", tmp_path / name)
        assert printed.out.count("varies by less than a tenth") == 1
        assert "kind's reward varies by less than a tenth of its range" in printed.out
