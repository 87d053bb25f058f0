"""Runs with outcomes finetuned on a language model whose responses can all be listed, and the truth about them."""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.sampled.sampled_settlement import PolicySamples
from rlhf_game.outcomes import read_config, run
from rlhf_game.outcomes.finetuned.finetuned_run import FinetunedRun
from rlhf_game.training_backends.lm.models import LanguageModel
from rlhf_game.training_backends.lm.sampling import log_probabilities
from tests.training_backends.trainers.policies.enumerable import PROMPT, REWARDS, responses

LONGEST, STRENGTH = 2, 0.4
SIZES = np.array([2.0, 1.0])
QUICK: dict[str, Any] = {
    "kind": "finetuned", "steps": 4, "learning_rate": 3e-3, "batch_size": 32, "num_generations": 32,
    "max_new_tokens": LONGEST, "lora": "full", "save_steps": 1, "samples": 40, "choosing": 0,
}  # fmt: skip
GOOD = QUICK | {
    "steps": 60, "learning_rate": 1e-2, "batch_size": 128, "num_generations": 128, "save_steps": 60, "samples": 2000,
    "choosing": 200, "cap": 8.5,
    "trl": {"adam_beta2": 0.95}, "payments_from": "leave_one_out",
}  # fmt: skip
Write = Callable[..., Path]


def document(outcomes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    texts = sorted({" ".join(words) for words in every_text()})
    groups = [
        {"name": name, "size": int(size), "reward": {"table": {"values": {t: reward.worth(t) for t in texts}}}}
        for (name, reward), size in zip(REWARDS.items(), SIZES, strict=True)
    ]
    return {
        "model": "model", "prompts": [PROMPT], "outcomes": outcomes, "strength": STRENGTH, "groups": groups, "seed": 5,
        **changes,
    }  # fmt: skip


def every_text() -> list[tuple[str, ...]]:
    words = ("a", "b", "c", "d")
    return [(), *((one,) for one in words), *((one, two) for one in words for two in words)]


def finished(config: Path, out: Path) -> FinetunedRun:
    """Run with a settlement seed that is taken after the reports, as always, but the same in every test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secrets, "randbelow", lambda most: 5)
        done = run(read_config(config), out)
    assert isinstance(done, FinetunedRun)
    return done


class Truth:
    """Everything about a run's policies, by listing all responses. p, q, s: [m]; rewards: [n, m]."""

    def __init__(self, reference: LanguageModel) -> None:
        self.q = self.of(reference)
        texts = [reference.decode(list(ids)) for ids in responses(LONGEST)]
        self.rewards = np.array([[reward.worth(text) for text in texts] for reward in REWARDS.values()])

    def of(self, model: LanguageModel) -> Array:
        listed = responses(LONGEST)
        found = log_probabilities(model, [model.encode_prompt(PROMPT)] * len(listed), listed, batch_size=1000)
        return np.asarray(np.exp(found - np.logaddexp.reduce(found)))

    def best(self, shares: Array) -> float:
        return float(STRENGTH * np.log(self.q @ np.exp(shares @ self.rewards / STRENGTH)))

    def optimum(self, shares: Array) -> Array:
        p = self.q * np.exp(shares @ self.rewards / STRENGTH)
        return np.asarray(p / p.sum())

    def welfare(self, p: Array, shares: Array) -> float:
        return float(p @ (shares @ self.rewards - STRENGTH * np.log(p / self.q)))

    def payments(self, p: Array) -> Array:
        """max ASW_-i - ASW_-i(p): [n]."""
        others = [np.where(np.arange(2) == i, 0.0, SIZES) for i in range(2)]
        return np.array([self.best(o) - self.welfare(p, o) for o in others])

    def samples(self, p: Array, count: int, rng: np.random.Generator) -> PolicySamples:
        picked = rng.choice(p.size, size=count, p=p)
        return PolicySamples(self.rewards[:, None, picked], np.log(p / self.q)[None, picked])
