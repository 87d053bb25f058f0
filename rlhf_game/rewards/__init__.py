"""What groups want from a text: any function with TRL's signature, and a few on real libraries.

A text reward is called as ``reward(prompts=[..], completions=[..], **columns)`` and returns a number per completion.
Nothing is loaded before a reward is called.
"""

from rlhf_game.rewards.aggregates import (
    Aggregate,
    Mean,
    MeanMinusDeviation,
    Median,
    Minimum,
    UncertaintyWeighted,
)
from rlhf_game.rewards.calibration import Affine, Calibration, Logistic, Rank, Unit
from rlhf_game.rewards.ensemble import Ensemble
from rlhf_game.rewards.functions import TextTable
from rlhf_game.rewards.lexical import Brevity, Clean, Readability, Sentiment
from rlhf_game.rewards.mix import Mix, MixPart
from rlhf_game.rewards.neural import ImplicitReward, RewardModel, Similarity, WeightAverage
from rlhf_game.rewards.remote import Judge, ScoreEndpoint
from rlhf_game.rewards.texts import TextReward, call_reward

__all__ = [
    "Affine", "Aggregate", "Brevity", "Calibration", "Clean", "Ensemble", "ImplicitReward", "Judge", "Logistic", "Mean",
    "MeanMinusDeviation", "Median", "Minimum", "Mix", "MixPart", "Rank", "Readability", "RewardModel", "ScoreEndpoint",
    "Sentiment", "Similarity", "TextReward", "TextTable", "UncertaintyWeighted", "Unit", "WeightAverage",
    "call_reward",
]  # fmt: skip
