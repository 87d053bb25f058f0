"""Responses drawn from a language model before any report is read, as a policy space.

The mechanism on a fixed finite set of outcomes is an affine maximiser whatever the set is, so truth is a dominant
strategy for any number of candidates; only welfare suffers from few (theory section 5).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike

from rlhf_game.errors import InputError
from rlhf_game.files.conversations import Text, response_of, text_of
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.domains import Coordinates, Sheets
from rlhf_game.mechanism.draws.importance import normalized_weights
from rlhf_game.mechanism.regularizers.base import Regularizer
from rlhf_game.mechanism.reports import Normalization
from rlhf_game.mechanism.spaces.base import Policy, PolicySpace
from rlhf_game.mechanism.spaces.table import Table, TableCoordinates
from rlhf_game.rewards import texts as rewards
from rlhf_game.rewards.texts import TextReward, call_reward


@final
@dataclass(frozen=True)
class Draft:
    """A distinct response to a prompt, with the share of the prompt's samples that said the same."""

    text: Text
    count: int
    weight: float


def merge(texts: Sequence[Text], log_ratios: Sequence[float] | None = None) -> list[Draft]:
    """Return the distinct texts in the order of their first appearance, with their weights: count / N.

    log_ratios: log pi_ref - log pi_gen of each sample, where they were not drawn from the reference; its weight is then
    proportional to exp of it, and those of equal texts add.
    """
    if log_ratios is None:
        return [Draft(text, count, count / len(texts)) for text, count in Counter(texts).items()]
    sums: dict[Text, float] = dict.fromkeys(texts, 0.0)
    for text, weight in zip(texts, normalized_weights(log_ratios).tolist(), strict=True):
        sums[text] += weight
    counts = Counter(texts)
    return [Draft(text, counts[text], weight) for text, weight in sums.items()]


@final
class Candidates(PolicySpace[Sheets]):
    """All policies over drawn responses; the reference is the share of samples of each distinct response.

    prompts: [B], texts or messages; responses: the samples of each prompt, [B][N], duplicates and all; log_ratios: log
    of their probability under the reference less that under what they were drawn from, [B][N], where that is another
    (see ``mechanism.draws.importance``; for a complete list of distinct texts log of their probability); columns:
    further columns of the prompts, [B] each, that rewards get by keyword. A report's reward is a function with TRL's
    signature, ``reward(prompts, completions, **columns)``, or numbers shaped like ``drafts``. Raises InputError on
    empty lists.
    """

    def __init__(
        self,
        prompts: Sequence[rewards.Text],
        responses: Sequence[Sequence[rewards.Text]],
        regularizer: Regularizer,
        *,
        log_ratios: Sequence[Sequence[float]] | None = None,
        columns: Mapping[str, Sequence[Any]] | None = None,
        prompt_weights: ArrayLike | None = None,
        normalization: Normalization | str = Normalization.NONE,
    ) -> None:
        if not prompts or len(responses) != len(prompts) or not all(responses):
            raise InputError("responses must hold at least one text for each prompt")
        self.prompts = tuple(text_of(prompt, f"prompts[{b}]") for b, prompt in enumerate(prompts))
        said = [[response_of(text, f"responses[{b}]") for text in texts] for b, texts in enumerate(responses)]
        ratios = [None] * len(prompts) if log_ratios is None else list(log_ratios)
        if len(ratios) != len(prompts) or any(
            of is not None and len(of) != len(texts) for of, texts in zip(ratios, said, strict=True)
        ):
            raise InputError("log_ratios must be shaped like responses: a number for each text of each prompt")
        self.drafts = tuple(tuple(merge(texts, of)) for texts, of in zip(said, ratios, strict=True))
        self._columns = {name: tuple(values) for name, values in (columns or {}).items()}
        self.table = Table(
            [[draft.weight for draft in row] for row in self.drafts],
            regularizer,
            outcomes=[[(b, draft.text) for draft in row] for b, row in enumerate(self.drafts)],
            prompt_weights=prompt_weights,
            normalization=normalization,
        )
        self.strength, self.normalization = regularizer.strength, self.table.normalization

    @classmethod
    def draw(
        cls,
        model: str,
        prompts: Sequence[rewards.Text],
        per_prompt: int,
        regularizer: Regularizer,
        *,
        seed: int,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        system: str | None = None,
        base: Path | None = None,
    ) -> "Candidates":
        """Draw the responses now, before any report exists. model: see ``training_backends.lm.checkpoints``."""
        from rlhf_game.training_backends import Sampling, load_language_model, sample

        how = Sampling(max_new_tokens, temperature)
        asked = [text_of(prompt, f"prompts[{b}]") for b, prompt in enumerate(prompts)]
        samples = sample(
            load_language_model(model, base=base), asked, per_prompt, seed=seed, sampling=how, system=system
        )
        return cls(asked, [[drawn.text for drawn in row] for row in samples], regularizer)

    def read(self, reward: TextReward | ArrayLike) -> Sheets:
        """Return a reward as a table over the drafts; raise InputError if it does not fit or is outside the domain."""
        return self.table.read(self._on_outcomes(reward) if callable(reward) else reward)

    def read_boost(self, boost: TextReward | ArrayLike) -> Sheets:
        """Return what the provider adds to the score; it has no domain to be in."""
        return self.table.read_boost(self._on_outcomes(boost) if callable(boost) else boost)

    @property
    def enumeration(self) -> Table:
        """The table over the drafts."""
        return self.table

    def coordinates(self, reward: TextReward | ArrayLike) -> Coordinates:
        """Return the rows of the prompts."""
        return TableCoordinates(self.table, self.read_boost)

    def magnitude(self, reward: Sheets) -> float:
        """Return the largest entry's size."""
        return self.table.magnitude(reward)

    def least_gain(self, weights: Array, rewards: Sequence[Sheets], multiplier: float) -> Any:
        """Return the infimum over the declared domain."""
        return self.table.least_gain(weights, rewards, multiplier)

    def maximize(self, weights: Array, rewards: Sequence[Sheets]) -> Policy[Sheets]:
        """Return the exact optimum over the drafts."""
        return self.table.maximize(weights, rewards)

    def _on_outcomes(self, reward: TextReward) -> Callable[[Sequence[tuple[int, Text]]], Array]:
        def score(outcomes: Sequence[tuple[int, Text]]) -> Array:
            rows = [b for b, _ in outcomes]
            columns = {name: [values[b] for b in rows] for name, values in self._columns.items()}
            return call_reward(reward, [self.prompts[b] for b in rows], [text for _, text in outcomes], columns, rows)

        return score

    @property
    def reference(self) -> list[Array]:
        """The weights of the drafts, a list of B arrays."""
        return [np.array([draft.weight for draft in row]) for row in self.drafts]
