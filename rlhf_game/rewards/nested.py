"""Rewards inside rewards: what every reward of a configuration says of itself, and the one walk over all of them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from pydantic import BaseModel

from rlhf_game.errors import InputError
from rlhf_game.files.schema import Strict
from rlhf_game.rewards.calibration import Calibration, Unit
from rlhf_game.rewards.calibration_specs import CalibrationSpec, RankSpec
from rlhf_game.rewards.texts import TextReward


class RewardSpec(Strict, ABC):
    """A reward, by name."""

    @abstractmethod
    def build(self, base: Path) -> TextReward:
        """Return the reward; nothing is loaded yet. base: the folder that relative paths are in."""

    def build_keeping(self, base: Path, calls: Path) -> TextReward:
        """Return the reward; what it asks of language models is kept and accounted for in the folder ``calls``."""
        return self.build(base)

    def natural(self) -> Calibration:
        """Return the map to [0, 1] where the configuration declares none."""
        return Unit()

    def inner(self) -> "Sequence[Nested]":
        """Return the rewards that this one is made of."""
        return ()

    def own_files(self) -> tuple[str, ...]:
        """Return the files whose content is part of this reward, but for those of the rewards inside it."""
        return ()

    def own_code(self) -> tuple[str, ...]:
        """Return the functions whose source is part of this reward, but for those of the rewards inside it."""
        return ()

    def own_models(self) -> tuple[str, ...]:
        """Return the models whose weights are part of this reward, but for those of the rewards inside it."""
        return ()

    def files(self) -> tuple[str, ...]:
        """Return the files whose content is part of the configuration."""
        return tuple(file for one in nested(self) for file in one.reward.own_files())

    def code(self) -> tuple[str, ...]:
        """Return the functions whose source is part of the configuration, as they are named in it."""
        return tuple(target for one in nested(self) for target in one.reward.own_code())

    def is_reproducible(self) -> bool:
        """Return whether another run gets the same rewards: not of an endpoint that has no version."""
        return all(one.reward.is_fixed() for one in nested(self))

    def is_fixed(self) -> bool:
        """Return whether this reward stays what it is as long as its files and models do."""
        return True

    def models(self) -> tuple[str, ...]:
        """Return the models whose weights are part of the configuration."""
        return tuple(model for one in nested(self) for model in one.reward.own_models())


@final
@dataclass(frozen=True)
class Nested:
    """A reward where it is in a configuration, and the map to [0, 1] that is declared for it there."""

    place: str
    reward: RewardSpec
    calibration: CalibrationSpec | None = None


def nested(reward: RewardSpec, place: str = "reward", calibration: CalibrationSpec | None = None) -> Iterator[Nested]:
    """Yield a reward and all that are inside it, however deep: every check of rewards walks this way."""
    yield Nested(place, reward, calibration)
    for one in reward.inner():
        yield from nested(one.reward, f"{place}.{one.place}", one.calibration)


def rewards_in(value: Any, place: str = "") -> Iterator[tuple[str, RewardSpec]]:
    """Yield the rewards of a configuration, wherever they are in it, each with its place and not those inside it."""
    if isinstance(value, RewardSpec):
        yield place, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from rewards_in(getattr(value, name), f"{place}.{name}" if place else name)
    elif isinstance(value, list):
        for i, one in enumerate(value):
            yield from rewards_in(one, f"{place}[{i}]")


BATCHES: Final = ": a rank among the responses of one batch is another reward in every batch"
"""Why a reward that trains or judges one batch after the other cannot be a rank."""


def refuse_rank(reward: RewardSpec, place: str, why: str, calibration: CalibrationSpec | None = None) -> None:
    """Raise InputError when a reward, or one inside it, is calibrated by its rank. why: what is wrong with that."""
    for one in nested(reward, place, calibration):
        if isinstance(one.calibration, RankSpec):
            at = one.place.removesuffix("reward") + "calibration"
            raise InputError(f"{at}: must not be rank{why}, found rank")
