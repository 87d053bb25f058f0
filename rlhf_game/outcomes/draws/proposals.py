"""Where proposals come from: a language model on this machine, an endpoint, or anything that writes texts."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from rlhf_game.chat import Chat
from rlhf_game.chat.chat_specs import ModelSpec, open_chat
from rlhf_game.chat.requests import ask_once
from rlhf_game.files.conversations import Text
from rlhf_game.files.run_folder import CALLS

if TYPE_CHECKING:
    from rlhf_game.training_backends.lm.models import LanguageModel
    from rlhf_game.training_backends.lm.sampling import Sampling

Draw = tuple[int, int]
"""Prompt b, and j for the prompt's j-th proposal."""


@final
@dataclass(frozen=True)
class TextSampling:
    """How texts are drawn; what outcomes draws and candidates say of it alike."""

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    batch_size: int


@final
@dataclass(frozen=True)
class Proposal:
    """One text, and what it took."""

    text: str
    tokens: int
    is_finished: bool


class Proposer(ABC):
    """Independent draws of the reference: the same text for the same seed, part, prompt and number."""

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """What writes the texts."""

    @abstractmethod
    def propose(self, wanted: Sequence[Draw], seed: int, part: int) -> list[Proposal]:
        """Return a text for each draw. part: which tape it is for, so that a pilot's texts are others."""


@final
@dataclass(frozen=True, eq=False)
class ModelProposer(Proposer):
    """Draws of a language model on this machine."""

    model: "LanguageModel"
    prompts: tuple[Text, ...]
    sampling: "Sampling"
    system: str | None
    batch_size: int

    @property
    def identity(self) -> Mapping[str, Any]:
        """The model's weights and where it runs."""
        return {**self.model.provenance, "device": str(self.model.model.device)}

    def propose(self, wanted: Sequence[Draw], seed: int, part: int) -> list[Proposal]:
        """Return a text for each draw, in batches."""
        from rlhf_game.training_backends.lm.sampling import sample_batch

        encoded = self.model.encode_prompts(self.prompts, self.system)
        found = []
        for start in range(0, len(wanted), self.batch_size):
            batch = wanted[start : start + self.batch_size]
            streams = [(part, b, j) for b, j in batch]
            drawn = sample_batch(self.model, encoded, batch, seed=seed, sampling=self.sampling, streams=streams)
            found += [Proposal(one.text, len(one.token_ids), one.is_finished) for one in drawn]
        return found


@final
@dataclass(frozen=True, eq=False)
class EndpointProposer(Proposer):
    """Answers of an OpenAI-compatible endpoint, kept in the folder of the run; no probabilities are needed."""

    chat: Chat
    prompts: tuple[Text, ...]
    max_new_tokens: int
    temperature: float
    system: str | None

    @property
    def identity(self) -> Mapping[str, Any]:
        """The address and the model's name."""
        return dict(self.chat.model.identity)

    def propose(self, wanted: Sequence[Draw], seed: int, part: int) -> list[Proposal]:
        """Return an answer for each draw."""
        requests = [
            ask_once(
                self.prompts[b],
                self.system,
                temperature=self.temperature,
                max_tokens=self.max_new_tokens,
                draw=_number(seed, part, b, j),
            )
            for b, j in wanted
        ]
        replies = self.chat.ask(requests, "proposer")
        return [Proposal(reply.text, reply.completion_tokens, reply.is_finished) for reply in replies]


def _number(seed: int, part: int, b: int, j: int) -> int:
    """Return a number by which no other draw's answer is taken for this one's, nor that of another settlement."""
    return int.from_bytes(hashlib.sha256(f"{seed} {part} {b} {j}".encode()).digest()[:6], "big")


def open_proposer(
    model: ModelSpec, prompts: tuple[Text, ...], how: TextSampling, system: str | None, base: Path, folder: Path
) -> Proposer:
    """Return the proposer of a configuration. folder: where the answers of an endpoint are kept."""
    if model.endpoint is not None:
        chat = open_chat(model, base, folder / CALLS)
        return EndpointProposer(chat, prompts, how.max_new_tokens, how.temperature, system)
    from rlhf_game.training_backends import Sampling, load_language_model

    loaded = load_language_model(
        model.name,
        revision=model.revision,
        device=model.device,
        dtype=model.dtype,
        base=base,
        folds_system=model.fold_system,
    )
    sampling = Sampling(how.max_new_tokens, how.temperature, how.top_k, how.top_p)
    return ModelProposer(loaded, prompts, sampling, system, how.batch_size)
