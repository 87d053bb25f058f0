"""How far the money of a game over system prompts depends on its questions and answers."""

from pathlib import Path

import numpy as np
import pytest

from rlhf_game.files.build import settle
from rlhf_game.files.games import Game, parse_game
from rlhf_game.outcomes.prompts import prompts_game


def test_the_bootstrap_covers_and_tells_noise_from_certainty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts_game, "RESAMPLES", 40)
    strength, rng = 0.1, np.random.default_rng(0)
    truth = np.array([[0.8, 0.5, 0.2], [0.3, 0.4, 0.6]])
    origin = {"system_prompts": [{"text": f"prompt {k}"} for k in range(3)]}

    def game(rewards: np.ndarray) -> Game:
        groups = [
            {"name": name, "size": size, "reward": reward.tolist()}
            for name, size, reward in zip("ab", (2, 1), rewards, strict=True)
        ]
        return parse_game({"reference": [1 / 3] * 3, "strength": strength, "groups": groups}, "game", tmp_path, False)

    exact, covered, widths = settle(game(truth)).payments, list[list[bool]](), dict[float, list[float]]()
    for spread in (0.02, 0.2):
        for repetition in range(12):
            rewards = truth[:, None, :, None] + spread * rng.standard_normal((2, 24, 3, 2))
            said = prompts_game.over_questions(
                game(rewards.mean(axis=(1, 3))),
                origin,
                24,
                {"a": rewards[0].ravel(), "b": rewards[1].ravel()},
                repetition,
            )
            assert said is not None
            found = [one["payment"] for one in said["groups"]]
            assert all(one["low"] <= one["estimate"] <= one["high"] for one in found)
            covered.append([one["low"] <= paid <= one["high"] for one, paid in zip(found, exact, strict=True)])
            widths.setdefault(spread, []).append(found[0]["high"] - found[0]["low"])
    assert np.mean(covered) > 0.85  # 95 % with many questions
    assert np.mean(widths[0.2]) > 5 * np.mean(widths[0.02])
    assert prompts_game.over_questions(game(truth), origin, 1, {"a": truth[0], "b": truth[1]}, 0) is None
