"""Pairs of texts as token ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from rlhf_game.errors import InputError
from rlhf_game.training_backends.lm.models import LanguageModel
from rlhf_game.training_backends.trainers.reward_training import Pair


@final
@dataclass(frozen=True)
class TokenPair:
    """The token ids of a prompt, rendered, and of two responses with their end token."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]

    @property
    def longest(self) -> int:
        """Tokens of the prompt with the longer response."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))

    @property
    def tokens(self) -> int:
        """Tokens that a step reads."""
        return 2 * len(self.prompt) + len(self.chosen) + len(self.rejected)


def encode_pairs(model: LanguageModel, pairs: Sequence[Pair], system: str | None) -> list[TokenPair]:
    """Return the pairs as sampling would read the prompt and draw the responses: each response ends by itself.

    Raises InputError that names the pair whose turns the model's chat template refuses.
    """
    return [_encoded(model, k, pair, system) for k, pair in enumerate(pairs)]


def _encoded(model: LanguageModel, k: int, pair: Pair, system: str | None) -> TokenPair:
    prompt, chosen, rejected = pair
    try:
        asked, first = model.encode_exchange(prompt, chosen, system)
        return TokenPair(tuple(asked), tuple(first), tuple(model.encode_exchange(prompt, rejected, system)[1]))
    except InputError as error:
        raise InputError(f"pairs[{k}]: {error}") from error


def fitting(pairs: Sequence[TokenPair], longest: int) -> list[tuple[int, TokenPair]]:
    """Return the pairs of at most ``longest`` tokens, with their places. Raises InputError when there are none."""
    found = [(k, pair) for k, pair in enumerate(pairs) if pair.longest <= longest]
    if not found:
        raise InputError(f"max_length must leave pairs to train on, all {len(pairs)} are longer than {longest} tokens")
    return found
