"""Several rewards as one: each member scores every text, once and in batches, and an aggregate makes one score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.rewards.aggregates import Aggregate
from rlhf_game.rewards.neural import RewardModel
from rlhf_game.rewards.texts import (
    Backbones,
    Text,
    TextReward,
    call_reward,
    count_cut,
    is_pointwise,
    name_of,
    sharing,
)


@final
@dataclass(frozen=True)
class Ensemble:
    """An aggregate of rewards.

    Reward models that are adapters on one backbone share it. A member is identified when its scores mean the same for
    every prompt: it was trained with the eta term, or it is no trained model at all. All aggregates but the mean are
    refused for members that are not, unless ``assume_identified`` says that they may be compared anyway.
    """

    members: tuple[TextReward, ...]
    aggregate: Aggregate
    assume_identified: bool = False
    backbones: Backbones = field(default_factory=Backbones, repr=False, compare=False)
    __name__: ClassVar[str] = "ensemble"

    def __post_init__(self) -> None:
        if not self.members:
            raise InputError("members must hold at least one reward")

    @property
    def members_apart(self) -> tuple[TextReward, ...]:
        """The members, whose scores say how far a bill depends on which of them is right."""
        return self._ready

    @cached_property
    def _ready(self) -> tuple[TextReward, ...]:
        if self.aggregate.needs_identified and not self.assume_identified:
            for i, member in enumerate(self.members):
                if not getattr(member, "is_identified", True):
                    raise InputError(
                        f"members[{i}]: must be identified for {type(self.aggregate).__name__}: the scores of "
                        f"{_called(member)} are only known up to a constant of each prompt. Train with eta > 0, take "
                        "the mean, or say assume_identified: true"
                    )
        return sharing(self.members, self.backbones)

    def sharing(self, backbones: Backbones) -> "Ensemble":
        """Return the ensemble with its members' networks among others' networks."""
        return replace(self, backbones=backbones)

    def count_cut(self, prompts: Sequence[Text], completions: Sequence[Text]) -> int:
        """Return how many completions the members do not read whole, of all members together."""
        return sum(count_cut(member, prompts, completions) for member in self._ready)

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any) -> list[float]:
        """Return one score per completion. Raises InputError on members that the aggregate cannot compare."""
        return [float(score) for score in self.aggregate(self.scores(prompts, completions, dict(columns)))]

    def scores(self, prompts: Sequence[Text], completions: Sequence[Text], columns: Mapping[str, Any]) -> Array:
        """Return every member's scores, [M, k]. Raises InputError on members that the aggregate cannot compare."""
        return np.stack([call_reward(member, prompts, completions, columns) for member in self._ready])

    @property
    def is_identified(self) -> bool:
        """Whether every member is."""
        return all(getattr(member, "is_identified", True) for member in self.members)

    @property
    def is_pointwise(self) -> bool:
        """Whether every member is."""
        return all(is_pointwise(member) for member in self.members)

    @property
    def provenance(self) -> dict[str, Any]:
        """Where each member comes from, and how they are put together."""
        origins = [getattr(member, "provenance", None) for member in self._ready]
        return {"aggregate": repr(self.aggregate), "members": origins}


def _called(member: TextReward) -> str:
    return member.model if isinstance(member, RewardModel) else name_of(member)
