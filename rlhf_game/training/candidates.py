"""How members agree on candidates: rank correlation, and whether they choose the same best of n as n grows."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.files.documents import kind, parse_json_lines, read_text, shown
from rlhf_game.mechanism.arrays import Array
from rlhf_game.rewards.diagnostics import best_of_n_agreement, length_correlation, spearman_by_prompt
from rlhf_game.training.reward_models import MemberSpec


@final
@dataclass(frozen=True)
class Responses:
    """Candidates: N different responses to each of B prompts."""

    prompts: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]

    def pairs(self) -> list[tuple[str, str]]:
        """Return all (prompt, response), [B N]."""
        return [(prompt, text) for prompt, row in zip(self.prompts, self.texts, strict=True) for text in row]

    def table(self, scores: Array) -> Array:
        """Return scores [B N] as [B, N]."""
        return scores.reshape(len(self.prompts), -1)


def read_responses(path: Path) -> Responses:
    """Return the candidates of a .jsonl file of rows {prompt, responses}.

    Raises InputError that names file and row unless every row has as many responses, at least two and all different.
    """
    name = shown(str(path), 200)
    prompts: list[str] = []
    texts: list[tuple[str, ...]] = []
    for where, row in parse_json_lines(read_text(path), name):
        prompt, responses = (row.get("prompt"), row.get("responses")) if isinstance(row, dict) else (None, None)
        if not isinstance(prompt, str) or not isinstance(responses, list):
            raise InputError(f"{where}: must be {{prompt, responses: [..]}}, found {kind(row)}")
        is_text = all(isinstance(text, str) and text.strip() for text in responses)
        if not is_text or len(set(responses)) != len(responses) or len(responses) < 2:
            raise InputError(f"{where}: responses: must be at least two different texts, found {kind(responses)}")
        if texts and len(responses) != len(texts[0]):
            raise InputError(
                f"{where}: responses: must be {len(texts[0])} as in the first row, found {len(responses)} texts"
            )
        prompts.append(prompt)
        texts.append(tuple(responses))
    return Responses(tuple(prompts), tuple(texts))


def agreement_on(responses: Responses, members: Sequence[MemberSpec], places: Sequence[Path], seed: int) -> Any:
    """Return how the members of an ensemble agree on candidates, pair by pair, and each one's taste for length."""
    from rlhf_game.training_backends import Named, load_reward_models

    pairs = responses.pairs()
    scorers = load_reward_models([Named(str(place)) for place in places])
    tables = [responses.table(scorer.score(pairs)) for scorer in scorers]
    lengths = responses.table(np.array([len(text) for _, text in pairs], dtype=np.float64))
    sizes = [2**k for k in range(1, 10) if 2**k <= len(responses.texts[0])]
    rng = np.random.default_rng(seed)
    found = [
        {
            "members": [i, k],
            "same_backbone": members[i].backbone == members[k].backbone,
            "spearman": _known(spearman_by_prompt(tables[i], tables[k])),
            "same_best_of": {str(n): best_of_n_agreement(tables[i], tables[k], n, rng) for n in sizes},
        }
        for i, k in combinations(range(len(tables)), 2)
    ]
    return {"pairs": found, "length_correlation": [_known(length_correlation(table, lengths)) for table in tables]}


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
