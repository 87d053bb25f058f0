"""Ready-made automata: n-gram references, rewards for keywords, patterns and lengths, and their products as a chain."""

from rlhf_game.mechanism.automata.machines import Reference, RewardMachine, combine
from rlhf_game.mechanism.automata.ngrams import characters, ngram
from rlhf_game.mechanism.automata.patterns import pattern
from rlhf_game.mechanism.automata.rewards import keywords, length

__all__ = ["RewardMachine", "Reference", "characters", "combine", "keywords", "length", "ngram", "pattern"]
