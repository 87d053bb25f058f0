"""Made-up preferences with a known truth.

The file beside this one: python examples/preferences.py > examples/preferences.jsonl

A support answer is a few sentences; each sentence has a value, and an answer is worth the sum. Which of two answers is
preferred follows the Bradley-Terry model: with probability sigma(worth of the first - worth of the second).
"""

import json

import numpy as np

SENTENCES = {
    "We have fixed it for you already.": 2.0,
    "Here are the three steps that solve it.": 1.5,
    "Thank you for telling us.": 0.5,
    "Please see the attached terms.": -0.5,
    "This is not our department.": -1.5,
    "You should have read the manual.": -2.0,
}
PROBLEMS = ("My invoice is wrong", "I cannot log in", "The parcel is late", "The app is slow", "I was charged twice")
TONES = ("please help", "this is the second time", "I am on holiday", "it worked yesterday", "thanks in advance")


def worth(answer: str) -> float:
    """Return the true reward of an answer."""
    return sum(value for sentence, value in SENTENCES.items() if sentence in answer)


def make(count: int, seed: int) -> list[dict[str, str]]:
    """Return rows {prompt, chosen, rejected}."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, str]] = []
    while len(rows) < count:
        first, second = (" ".join(rng.choice(list(SENTENCES), 2, replace=False)) for _ in range(2))
        if first == second:
            continue
        if rng.random() > 1 / (1 + np.exp(worth(second) - worth(first))):
            first, second = second, first
        rows.append({"prompt": f"{rng.choice(PROBLEMS)}, {rng.choice(TONES)}.", "chosen": first, "rejected": second})
    return rows


if __name__ == "__main__":
    for row in make(160, seed=0):
        print(json.dumps(row))
