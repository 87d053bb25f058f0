"""The groups of a TRL script: rewards as ``reward_funcs``, what they weigh as ``reward_weights``, lambda as beta."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.files.names import check_names
from rlhf_game.files.schema import parse_model
from rlhf_game.mechanism.arrays import Array
from rlhf_game.outcomes.run_config import GroupSpec
from rlhf_game.rewards.mix import Mix, MixPart
from rlhf_game.rewards.nested import BATCHES, refuse_rank
from rlhf_game.rewards.reward_specs import calibration_of
from rlhf_game.rewards.texts import call_reward, sharing

Observer = Callable[[int, Callable[[str, float], None]], None]
"""Called with the step and TRL's ``log_metric`` whenever rewards are asked for, before they are."""


@final
class GroupReward:
    """One group's reward as TRL calls and logs it, in [0, 1]."""

    def __init__(self, name: str, reward: Mix, observers: Sequence[Observer] = ()) -> None:
        self.__name__ = name
        self.reward = reward
        self._observers = observers

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        """Return the rewards, [k]. Raises RunError where they are no finite numbers, InputError outside [0, 1]."""
        if "log_metric" in columns and "trainer_state" in columns:
            for observer in self._observers:
                observer(int(columns["trainer_state"].global_step), columns["log_metric"])
        return [float(value) for value in self.score(prompts, completions, columns)]

    def score(self, prompts: Sequence[Any], completions: Sequence[Any], columns: Mapping[str, Any]) -> Array:
        """Return the rewards: [k]."""
        return call_reward(self.reward, prompts, completions, columns)


@final
class GroupRewards:
    """Groups that share a policy: ``reward_funcs``, ``reward_weights`` and ``beta`` of a TRL configuration.

    groups: each with ``name``, ``reward``, and if need be ``size``, ``calibration`` and ``weight`` (mu), as in a
    configuration of ``rlhf-game run``; a reward may also be a function with TRL's signature, with numbers in [0, 1] or
    a calibration to it. strength: lambda, in units of reward. base: the folder that paths start from. What is trained
    is argmax E[sum mu size reward] - lambda KL, by ``RLOOConfig(beta=rewards.beta, reward_weights=rewards.weights)``.
    """

    def __init__(self, groups: Sequence[Mapping[str, Any]], strength: float, *, base: Path | None = None) -> None:
        if not groups:
            raise InputError("groups must be at least one, got none")
        self.strength = _positive(strength, "strength")
        self.multipliers: dict[str, float] = {}
        self.specs, rewards = [], []
        for i, group in enumerate(groups):
            if not isinstance(group, Mapping):
                raise InputError(f"groups[{i}] must be a mapping with name and reward, got {type(group).__name__}")
            given = group.get("reward")
            document = {key: value for key, value in group.items() if key != "weight"}
            if callable(given):  # its numbers are taken as they are, as a column's would be
                document["reward"] = {"column": str(group.get("name"))}
            spec = parse_model(GroupSpec, document, f"groups[{i}]")
            refuse_rank(spec.reward, f"groups[{i}].reward", BATCHES, spec.calibration)
            built = given if callable(given) else spec.reward.build(base or Path())
            rewards.append(Mix((MixPart(built, calibration_of(spec.reward, spec.calibration)),)))
            self.multipliers[spec.name] = _positive(group.get("weight", 1.0), f"groups[{i}].weight")
            self.specs.append(spec)
        check_names([spec.name for spec in self.specs], ())
        self._observers: list[Observer] = []
        self.reward_funcs = [
            GroupReward(spec.name, reward, self._observers if i == 0 else ())
            for i, (spec, reward) in enumerate(zip(self.specs, sharing(rewards), strict=True))
        ]

    @property
    def weights(self) -> list[float]:
        """What each reward weighs, mu times the group's size: for ``reward_weights``."""
        return [self.multipliers[spec.name] * spec.size for spec in self.specs]

    @property
    def beta(self) -> float:
        """Lambda as RLOO has it."""
        return self.strength

    def observe(self, observer: Observer) -> None:
        """Have an observer called whenever the first group's rewards are asked for in a training."""
        self._observers.append(observer)

    def score(self, prompts: Sequence[Any], texts: Sequence[Any], columns: Mapping[str, Any]) -> Array:
        """Return every group's rewards of responses: [n, k]. prompts: of each response, [k]."""
        return np.stack([one.score(prompts, texts, columns) for one in self.reward_funcs])


def _positive(value: Any, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise InputError(f"{where} must be a number > 0, got {value!r}")
    return float(value)
