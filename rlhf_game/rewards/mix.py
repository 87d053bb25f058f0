"""Several rewards of one group in one: a weighted mean, each part in [0, 1] by its own declared calibration."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.rewards.calibration import Calibration
from rlhf_game.rewards.texts import (
    Backbones,
    Text,
    TextReward,
    call_reward,
    count_cut,
    is_pointwise,
    plain,
    sharing,
    upper_bounds,
)


@final
@dataclass(frozen=True)
class MixPart:
    """One reward of a mix, its map to [0, 1], and its share before normalisation."""

    reward: TextReward
    calibration: Calibration
    weight: float = 1.0


@final
@dataclass(frozen=True)
class Mix:
    """The weighted mean of calibrated rewards, in [0, 1].

    A part that is calibrated by rank is ranked among the completions to the same prompt of one call.
    """

    parts: tuple[MixPart, ...]
    backbones: Backbones = field(default_factory=Backbones, repr=False, compare=False)
    __name__: ClassVar[str] = "mix"

    def __post_init__(self) -> None:
        if not self.parts or not all(part.weight > 0 for part in self.parts):
            raise InputError("parts must hold at least one reward, each with a weight > 0")

    @cached_property
    def _rewards(self) -> tuple[TextReward, ...]:
        return sharing([part.reward for part in self.parts], self.backbones)

    def sharing(self, backbones: Backbones) -> "Mix":
        """Return the mix with its parts' networks among others' networks."""
        return replace(self, backbones=backbones)

    def count_cut(self, prompts: Sequence[Text], completions: Sequence[Text]) -> int:
        """Return how many completions the parts do not read whole, of all parts together."""
        return sum(count_cut(reward, prompts, completions) for reward in self._rewards)

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any) -> list[float]:
        """Return one number in [0, 1] per completion."""
        asked, given = [plain(prompt) for prompt in prompts], dict(columns)
        weights = np.array([part.weight for part in self.parts])
        scores = [
            part.calibration(call_reward(reward, prompts, completions, given), asked)
            for part, reward in zip(self.parts, self._rewards, strict=True)
        ]
        return [float(value) for value in weights / weights.sum() @ np.stack(scores)]

    def upper_bounds(self, beginnings: Sequence[str]) -> list[float]:
        """Return the most that any completion which begins so can be worth, from what the parts say of it."""
        weights, prompts = np.array([part.weight for part in self.parts]), [""] * len(beginnings)
        most = np.ones((len(self.parts), len(beginnings)))
        for k, (part, reward) in enumerate(zip(self.parts, self._rewards, strict=True)):
            bounds = upper_bounds(reward, beginnings)
            if np.isfinite(bounds).all() and part.calibration.is_pointwise:
                most[k] = part.calibration(bounds, prompts)
        return [float(value) for value in weights / weights.sum() @ most]

    @property
    def is_pointwise(self) -> bool:
        """Whether the score of a completion does not depend on the other completions: no part is ranked."""
        return all(part.calibration.is_pointwise and is_pointwise(part.reward) for part in self.parts)

    @property
    def provenance(self) -> list[Any]:
        """Where each part comes from."""
        return [getattr(reward, "provenance", None) for reward in self._rewards]
