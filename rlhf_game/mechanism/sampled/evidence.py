"""Evidence that draws are of another law than the one that they are said to be of, by betting on the other one.

Over independent draws x_1, x_2, ... of p, a ratio prod_k q_k(x_k) / p(x_k), where q_k depends on the draws before x_k
alone, has an expectation of at most 1, also where more than p(x_k) is put in its place, and so has the mean of several
such ratios. So it is 1 / CHANCE or more with a probability of at most CHANCE (Markov), whatever p is and however many
draws there are (Ville 1939; Shafer 2021, JRSS A 184(2), "Testing by betting").
"""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from rlhf_game.mechanism.arrays import Array, numbers

CHANCE: Final = 1e-9
"""The most with which draws that are what they are said to be are taken for others."""
REPEATS: Final = "the same ones again and again"
"""What draws are where a law that says what was drawn before explains them better than their own."""


def bets(
    draws: Sequence[tuple[Hashable, Hashable]], log_probabilities: ArrayLike, others: Mapping[str, ArrayLike]
) -> dict[str, float]:
    """Return the log of what each other law wins against the one that the draws are said to be of, in nats.

    draws: prompt and outcome of each, [N]. log_probabilities: of the outcomes under the law that is said, [N], finite;
    where they are known up to an error, the most that they may be. others: under laws that may have drawn them instead,
    by name, [N] each; minus infinity where they never do.
    """
    said = numbers(log_probabilities, "log_probabilities")
    found = {name: float((numbers(other, name) - said).sum()) for name, other in others.items()}
    return {**found, REPEATS: _repeats(draws, said)}


def other_law(
    draws: Sequence[tuple[Hashable, Hashable]], log_probabilities: ArrayLike, others: Mapping[str, ArrayLike]
) -> str | None:
    """Return the law that the draws speak for, where they speak against the one that they are said to be of.

    None where they do not; see ``bets``. Draws that are what they are said to be are refused with a probability of at
    most CHANCE.
    """
    won = bets(draws, log_probabilities, others)
    mean = float(np.logaddexp.reduce(list(won.values()))) - math.log(len(won))
    return max(won, key=lambda name: won[name]) if mean >= -math.log(CHANCE) else None


def _repeats(draws: Sequence[tuple[Hashable, Hashable]], said: Array) -> float:
    """Return what it wins to bet a half, or 1 / (n + 1), on one of the n draws before of the same prompt, in nats."""
    before, same = Counter[Hashable](), Counter[tuple[Hashable, Hashable]]()
    half = rare = 0.0
    for draw, log_p in zip(draws, said.tolist(), strict=True):
        n, c = before[draw[0]], same[draw]
        if n:
            ratio = math.log(c / n) - log_p if c else -math.inf
            half += float(np.logaddexp(0.0, ratio)) - math.log(2)
            rare += float(np.logaddexp(math.log(n), ratio)) - math.log(n + 1)
        before[draw[0]] += 1
        same[draw] += 1
    return float(np.logaddexp(half, rare)) - math.log(2)
