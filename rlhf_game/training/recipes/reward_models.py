"""Kinds ``reward_model``, ``ensemble`` and ``warm``: Bradley-Terry reward models, alone or several."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal, final

from pydantic import Field

from rlhf_game.errors import InputError
from rlhf_game.files.schema import Name, Nonnegative, Positive, parse_model
from rlhf_game.files.training_fields import Count, LoraSpec, PassesFields, Plain, Seed
from rlhf_game.optimization import HUB, REWARD_ARGUMENTS, check_arguments
from rlhf_game.registry import recipe
from rlhf_game.rewards.neural import Truncate
from rlhf_game.rewards.reward_specs import SomeReward
from rlhf_game.training.kinds import MetricsTable, Task
from rlhf_game.training.recipes.reward_tables import tables_of
from rlhf_game.training.training_data import PreferenceFields


class MemberFields(PassesFields, ABC):
    """How one reward model is trained."""

    backbone: Name
    """The network: a folder, an installed model or a name on the hub."""
    method: Literal["embedding", "head", "lora", "full"]
    """embedding and head fit a head to a frozen network; lora and full train the network."""
    eta: Nonnegative = 0.01
    """The weight of the squared sum of a pair's scores, which makes rewards of other prompts and models comparable; 0:
    none."""
    smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """How much of every label counts for the other response."""
    seed: Seed = 0
    """Of everything that is random."""
    resample: bool = False
    """Train on as many pairs drawn with replacement: what makes members of a convex fit differ."""
    ridge: Positive = 1e-3
    """The weight of the head's squared norm, for embedding and head."""
    probe: bool = False
    """Start lora and full from a head that was fitted to the frozen backbone, as WARM does."""
    lora: LoraSpec = LoraSpec()
    """The adapter of method lora."""
    max_length: Count = 512
    """Tokens; lora and full leave out the training pairs that are longer."""
    truncate: Truncate | None = None
    """What is read of texts that are too long for the backbone, wherever the model scores; None refuses them."""
    has_dropout: bool = False
    """Whether the network's dropout is on while it is trained."""
    trl: dict[Name, Plain | dict[Name, Plain]] = {}
    """Further arguments of TRL's RewardConfig for lora and full; push_to_hub and hub_* for every method."""


@final
class MemberSpec(MemberFields):
    """One member of several."""

    def training_arguments(self) -> dict[str, Any]:
        """Return what TRL gets. Raises InputError that begins with the field."""
        check_arguments(self.trl, REWARD_ARGUMENTS | HUB)
        given = {name: value for name, value in self.trl.items() if name not in HUB}
        if given and self.method in ("embedding", "head"):
            name = min(given)
            raise InputError(
                f"trl.{name}: must be left out with method {self.method}, a convex fit, found {given[name]}"
            )
        if self.trl.get("push_to_hub") and not isinstance(self.trl.get("hub_model_id"), str):
            raise InputError("trl.hub_model_id: must name the repository to push to, found none")
        return given


class RewardModelFields(MemberFields, PreferenceFields, ABC):
    """One reward model or several, and the preferences they are trained on."""

    @abstractmethod
    def specs(self, name: str = "") -> tuple[MemberSpec, ...]:
        """Return how each member is trained. Raises InputError that begins with ``name``."""

    def check(self, name: str) -> None:
        """Raise InputError when a member cannot be one."""
        specs = self.specs(name)
        try:
            for spec in specs:
                spec.training_arguments()
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        pushed = [spec.trl.get("hub_model_id") for spec in specs if spec.trl.get("push_to_hub")]
        if len(set(pushed)) < len(pushed):
            raise InputError(f"{name}: trl.hub_model_id: must be another one for each member, found {pushed[0]} twice")

    def models(self) -> Mapping[str, str]:
        """Return the backbone."""
        return {"backbone": self.backbone}

    def train(self, task: Task) -> dict[str, Any]:
        """Train the members, then what they are together."""
        return recipe("reward_models")(self, task)

    def tables(self, metrics: dict[str, Any]) -> list[MetricsTable]:
        """Return what the rewards are worth on pairs, and how members agree."""
        return tables_of(metrics)

    def common(self) -> dict[str, Any]:
        """Return the fields that a member has, as they are here."""
        return {key: value for key, value in self.model_dump().items() if key in MemberSpec.model_fields}


@final
class RewardModelConfig(RewardModelFields):
    """One reward model."""

    kind: Literal["reward_model"]

    def specs(self, name: str = "") -> tuple[MemberSpec, ...]:
        """Return the one member."""
        return (parse_model(MemberSpec, self.common(), name),)


class SeveralFields(RewardModelFields, ABC):
    """Several reward models; each member says how it differs from the fields around it."""

    members: Annotated[list[dict[str, Any]], Field(min_length=2)]
    """Each says how it differs from the fields around it."""
    candidates: Name | None = None
    """A .jsonl file of {prompt, responses} on which members are compared."""
    gold: SomeReward | None = None
    """A reward that stands for the truth: what it becomes as the others are optimised on the candidates."""

    def check(self, name: str) -> None:
        """Raise InputError when a member cannot be one, or there is nothing to optimise on."""
        super().check(name)
        if self.gold is not None and self.candidates is None:
            raise InputError(f"{name}: gold: must come with candidates to optimise rewards on, found none")

    def files(self) -> Mapping[str, str]:
        """Return the files of the data, of the candidates and of the gold reward."""
        candidates = {} if self.candidates is None else {"candidates": self.candidates}
        gold = () if self.gold is None else self.gold.files()
        return {**super().files(), **candidates, **{f"gold ({file})": file for file in gold}}

    def models(self) -> Mapping[str, str]:
        """Return the backbones, and the models of the gold reward."""
        members = {f"members[{i}].backbone": member.backbone for i, member in enumerate(self.specs())}
        gold = () if self.gold is None else self.gold.models()
        return {**members, **{f"gold ({model})": model for model in gold}}

    def specs(self, name: str = "") -> tuple[MemberSpec, ...]:
        """Return the members, no two of them alike."""
        common = self.common()
        found: list[MemberSpec] = []
        for i, change in enumerate(self.members):
            place = f"{name}: members[{i}]"
            member = parse_model(MemberSpec, {**common, **change}, place)
            if member in found:
                raise InputError(f"{place}: must differ from the others (in its seed, say), found the same")
            is_convex = member.method in ("embedding", "head")
            if i > 0 and is_convex and not member.resample:
                _check_not_a_twin(member, found[0], place)
            found.append(member)
        return tuple(found)


def _check_not_a_twin(member: MemberSpec, first: MemberSpec, place: str) -> None:
    if member.model_copy(update={"seed": first.seed}) == first:
        raise InputError(
            f"{place}.resample: must be true to differ from members[0] by its seed alone (the fit of method "
            f"{member.method} has one solution), found false"
        )


@final
class EnsembleConfig(SeveralFields):
    """Several reward models and what their aggregates are worth."""

    kind: Literal["ensemble"]


@final
class WarmConfig(SeveralFields):
    """Several reward models from one linear-probed head, and the average of their weights."""

    kind: Literal["warm"]
    probe: bool = True
    curve: Annotated[int, Field(ge=2, le=101)] = 5
    """Points on the line between the first two members."""
