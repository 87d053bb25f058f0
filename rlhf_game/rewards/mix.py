"""Several rewards of one group in one: a weighted mean, each part in [0, 1] by its own declared calibration."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.rewards.calibration import Calibration
from rlhf_game.rewards.texts import Text, TextReward, call_reward, is_pointwise, plain


@final
@dataclass(frozen=True)
class Part:
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

    parts: tuple[Part, ...]
    __name__: ClassVar[str] = "mix"

    def __post_init__(self) -> None:
        if not self.parts or not all(part.weight > 0 for part in self.parts):
            raise InputError("parts must hold at least one reward, each with a weight > 0")

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any) -> list[float]:
        """Return one number in [0, 1] per completion."""
        asked, given = [plain(prompt) for prompt in prompts], dict(columns)
        weights = np.array([part.weight for part in self.parts])
        scores = [part.calibration(call_reward(part.reward, prompts, completions, given), asked) for part in self.parts]
        return [float(value) for value in weights / weights.sum() @ np.stack(scores)]

    @property
    def is_pointwise(self) -> bool:
        """Whether the score of a completion does not depend on the other completions: no part is ranked."""
        return all(part.calibration.is_pointwise and is_pointwise(part.reward) for part in self.parts)

    @property
    def provenance(self) -> list[Any]:
        """Where each part comes from."""
        return [getattr(part.reward, "provenance", None) for part in self.parts]
