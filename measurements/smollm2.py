"""What the measurements of trained policies on SmolLM2 share: two rewards, the tape of the reference, and a yardstick.

The tape (many draws of the reference) knows log Z, and so the affine welfare of the optimum over all texts; fresh draws
of a policy, with their log probabilities under it and under the reference, know what the policy reaches.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from measurements.measure_draws import PROMPTS, SIZES
from measurements.measure_tape import reward_model
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.sampled.sampled_settlement import PolicySamples, SampledGame, least_cap, welfare_gap
from rlhf_game.outcomes.finetuned.finetuned_training import in_unit
from rlhf_game.outcomes.run_config import GroupSpec
from rlhf_game.training_backends import LanguageModel, Sampling, load_language_model, log_probabilities, sample

MODEL, TOKENS, SEED = "smollm2-135m-instruct", 16, 1
SYSTEM = ""
"""An empty system turn, which is shorter than the one that the model's template puts there."""
ASKED = (PROMPTS[0], PROMPTS[3])
TAPE, DRAWS, BATCH = 1024, 256, 256
LEXICAL: tuple[dict[str, Any], ...] = (
    {"name": "pleasant", "reward": "sentiment"},
    {"name": "short", "reward": {"brevity": TOKENS}},
)
"""Groups whose rewards nobody trained, as configurations have them."""


def group_documents(folder: Path) -> list[dict[str, Any]]:
    """The two groups as configurations have them, but for their sizes; their reward models are trained once."""
    known = folder / "groups.json"
    if not known.exists():
        groups = [{"name": name, **reward_model(name, folder)} for name in ("helpful", "harmless")]
        known.write_text(json.dumps(groups), encoding="utf-8")
    found: list[dict[str, Any]] = json.loads(known.read_text(encoding="utf-8"))
    return found


@final
@dataclass(frozen=True, eq=False)
class Drawn:
    """Draws of a policy. samples: rewards [2, B, N] and log ratios [B, N]; texts: [B][N]; tokens: of all of them."""

    samples: PolicySamples
    texts: list[list[str]]
    tokens: int

    @property
    def scores(self) -> Array:
        """Return s: [B, N]."""
        return np.tensordot(SIZES, self.samples.rewards, 1)


def gains(scores: Array, log_ratios: Array, strength: float) -> Array:
    """Return numbers whose means over draws of p are its gain in affine welfare, in score, and its KL: [3, B, N].

    E_p[s] - E_q[s] = E_p[s (1 - q / p)], for any constant in s, and KL(p || q) = E_p[log p / q + q / p - 1], since
    E_p[q / p] = 1 (derived): both are near 0 on every draw where p is near q, and so is their standard error.
    scores: s of draws of p, of each prompt less a constant, [B, N]; log_ratios: log p / q: [B, N].
    """
    rest = -np.expm1(-log_ratios)
    score, divergence = scores * rest, log_ratios - rest
    return np.stack([score - strength * divergence, score, divergence])


@final
class Yardstick:
    """The reference, its tape, and what they say about a policy.

    folder: keeps what was drawn; kind: of rewards, trained or lexical.
    """

    def __init__(self, folder: Path, kind: str = "trained") -> None:
        self.folder, self.kind = folder, kind
        groups = group_documents(folder) if kind == "trained" else LEXICAL
        self.rewards = in_unit([GroupSpec.model_validate(group) for group in groups], folder)
        self.reference = load_language_model(MODEL)
        self.tape = self.draws("tape", lambda: self.reference, TAPE)

    def draws(self, name: str, load: Callable[[], LanguageModel], count: int = DRAWS) -> Drawn:
        """Draw from a policy, or read what was drawn before under that name."""
        path = self.folder / ("drawn" if self.kind == "trained" else f"drawn_{self.kind}") / f"{name}.json"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(self._drawn(load(), count)), encoding="utf-8")
        known = json.loads(path.read_text(encoding="utf-8"))
        samples = PolicySamples(np.array(known["rewards"]), np.array(known["log_ratios"]))
        return Drawn(samples, known["texts"], known["tokens"])

    def _drawn(self, policy: LanguageModel, count: int) -> dict[str, Any]:
        how = Sampling(TOKENS)
        rows = sample(policy, ASKED, count, seed=SEED, sampling=how, system=SYSTEM, batch_size=BATCH)
        texts = [one.text for row in rows for one in row]
        asked = [prompt for prompt, row in zip(ASKED, rows, strict=True) for _ in row]
        ratios = np.zeros((len(ASKED), count))
        if policy is not self.reference:
            ids = [one.token_ids for row in rows for one in row]
            prompts = [self.reference.encode_prompt(prompt, SYSTEM) for prompt in asked]
            known = log_probabilities(self.reference, prompts, ids, sampling=how, batch_size=BATCH)
            ratios = np.array([one.log_probability for row in rows for one in row]) - known
        rewards = np.array([reward(prompts=asked, completions=texts) for reward in self.rewards.values()])
        return {
            "rewards": rewards.reshape(len(SIZES), len(ASKED), count).tolist(),
            "log_ratios": ratios.reshape(len(ASKED), count).tolist(),
            "texts": [[one.text for one in row] for row in rows],
            "tokens": sum(len(one.token_ids) for row in rows for one in row),
        }

    def best(self, strength: float) -> tuple[float, float]:
        """Return the affine welfare of the optimum, from the tape, and its standard error."""
        powers = np.exp((self.tape.scores - SIZES.sum()) / strength)
        mean, error = powers.mean(axis=1), powers.std(axis=1, ddof=1) / np.sqrt(powers.shape[1])
        value = SIZES.sum() + strength * np.log(mean).mean()
        return float(value), strength * float(np.sqrt(((error / mean) ** 2).sum())) / len(mean)

    def untouched(self) -> float:
        """Return the affine welfare of the reference, from the tape."""
        return float(self.tape.scores.mean())

    def gained(self, drawn: Drawn, strength: float) -> tuple[Array, Array]:
        """Return what a policy gained over the reference (see ``gains``), and standard errors: [3]."""
        centre = self.tape.scores.mean(axis=1, keepdims=True)
        found = gains(drawn.scores - centre, drawn.samples.log_ratios, strength)
        errors = np.sqrt((found.var(axis=2, ddof=1) / found.shape[2]).sum(axis=1)) / found.shape[1]
        return found.mean(axis=(1, 2)), errors

    def certified(self, drawn: Drawn, strength: float) -> tuple[float, float]:
        """Return the gap as a settlement estimates it from the policy's draws, and what it certifies."""
        game = SampledGame(SIZES, np.ones(len(SIZES)), strength, 0.95, least_cap(SIZES, strength))
        gap = welfare_gap(game, drawn.samples, self.tape.samples)
        return float(gap.value), float(gap.high)
