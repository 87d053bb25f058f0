"""Preferences with a known truth: each word has a value, a response is worth the sum, labels follow Bradley-Terry."""

import numpy as np

from rlhf_game.files.preferences import Preference

VALUES = {"good": 2.0, "thanks": 1.0, "yes": 0.5, "maybe": 0.0, "now": 0.0, "no": -0.5, "please": -1.0, "bad": -2.0}
PROMPTS = ("good please", "maybe now", "yes no", "thanks")


def worth(text: str) -> float:
    return sum(VALUES[word] for word in text.split())


def preferences(count: int, seed: int, words: int = 4) -> tuple[Preference, ...]:
    rng = np.random.default_rng(seed)
    rows: list[Preference] = []
    while len(rows) < count:
        first, second = (" ".join(rng.choice(list(VALUES), words)) for _ in range(2))
        if first == second:
            continue
        if rng.random() > 1 / (1 + np.exp(worth(second) - worth(first))):
            first, second = second, first
        rows.append(Preference(f"{rng.choice(PROMPTS)} {' '.join(rng.choice(list(VALUES), 3))}", first, second))
    return tuple(rows)


def triples(rows: tuple[Preference, ...]) -> list[tuple[str, str, str]]:
    return [(row.prompt, row.chosen, row.rejected) for row in rows]
