"""Where proposals come from: a language model on this machine, an endpoint, or anything that writes texts."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from rlhf_game.chat import Chat
from rlhf_game.chat.chat_specs import ModelSpec, open_chat
from rlhf_game.chat.requests import ask_once
from rlhf_game.files.conversations import Text
from rlhf_game.files.run_folder import CALLS
from rlhf_game.outcomes.generation import open_model
from rlhf_game.outcomes.served_draws import ServerSpec, drawn_batch

if TYPE_CHECKING:
    from rlhf_game.training_backends.lm.models import LanguageModel
    from rlhf_game.training_backends.lm.sampling import Sampling

Draw = tuple[int, int]
"""Prompt b, and j for the prompt's j-th proposal."""
Counts: TypeAlias = Callable[[Sequence[int], Sequence[str]], NDArray[np.bool_]]
"""From places among the draws that are wanted, and how these texts begin, to which of them may still count."""


@final
@dataclass(frozen=True)
class TextSampling:
    """How texts are drawn; what outcomes draws and candidates say of it alike."""

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    batch_size: int
    server: ServerSpec | None = None


@final
@dataclass(frozen=True)
class Proposal:
    """One text, and what it took."""

    text: str
    tokens: int
    is_finished: bool
    is_whole: bool = True
    """Whether it was not given up because it could not count any more."""
    log_probability: float | None = None
    """Under what it was drawn from, in nats: of one given up, of how it begins; None where an endpoint says none."""


class Proposer(ABC):
    """Independent draws of the reference: the same text for the same seed, part, prompt and number."""

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """What writes the texts."""

    @abstractmethod
    def propose(self, wanted: Sequence[Draw], seed: int, part: int, counts: Counts | None = None) -> list[Proposal]:
        """Return a text for each draw. part: which tape it is for, so that a pilot's texts are others.

        counts: asked now and then which texts may still count; those that do not may be given up.
        """


@final
@dataclass(frozen=True, eq=False)
class ModelProposer(Proposer):
    """Draws of a language model on this machine."""

    model: "LanguageModel"
    prompts: tuple[Text, ...]
    sampling: "Sampling"
    system: str | None
    batch_size: int
    server: ServerSpec | None = None
    """What generates in place of the model, whose own probabilities are known all the same."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """The model's weights and where it runs."""
        return {**self.model.provenance, "device": str(self.model.model.device)}

    def propose(self, wanted: Sequence[Draw], seed: int, part: int, counts: Counts | None = None) -> list[Proposal]:
        """Return a text for each draw, in batches."""
        encoded = self.model.encode_prompts(self.prompts, self.system)
        found = []
        for start in range(0, len(wanted), self.batch_size):
            batch = wanted[start : start + self.batch_size]
            streams = [(part, b, j) for b, j in batch]
            left = set[int]()

            def goes_on(
                places: Sequence[int], texts: Sequence[str], start: int = start, left: set[int] = left
            ) -> NDArray[np.bool_]:
                assert counts is not None
                kept = counts([start + place for place in places], texts)
                left.update(place for place, keep in zip(places, kept, strict=True) if not keep)
                return kept

            drawn = drawn_batch(
                self.server,
                self.model,
                encoded,
                batch,
                seed=seed,
                sampling=self.sampling,
                streams=streams,
                goes_on=None if counts is None else goes_on,
            )
            found += [
                Proposal(one.text, len(one.token_ids), one.is_finished, k not in left, one.log_probability)
                for k, one in enumerate(drawn)
            ]
        return found


@final
@dataclass(frozen=True, eq=False)
class EndpointProposer(Proposer):
    """Answers of an OpenAI-compatible endpoint, kept in the folder of the run, with the probabilities it says."""

    chat: Chat
    prompts: tuple[Text, ...]
    max_new_tokens: int
    temperature: float
    system: str | None

    @property
    def identity(self) -> Mapping[str, Any]:
        """The address and the model's name."""
        return dict(self.chat.model.identity)

    def propose(self, wanted: Sequence[Draw], seed: int, part: int, counts: Counts | None = None) -> list[Proposal]:
        """Return an answer for each draw, whole."""
        requests = [
            ask_once(
                self.prompts[b],
                self.system,
                temperature=self.temperature,
                max_tokens=self.max_new_tokens,
                draw=_number(seed, part, b, j),
                wants_log_probability=True,
            )
            for b, j in wanted
        ]
        replies = self.chat.ask(requests, "proposer")
        return [
            Proposal(one.text, one.completion_tokens, one.is_finished, log_probability=one.log_probability)
            for one in replies
        ]


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
    from rlhf_game.training_backends import Sampling

    sampling = Sampling(how.max_new_tokens, how.temperature, how.top_k, how.top_p)
    return ModelProposer(open_model(model, base), prompts, sampling, system, how.batch_size, how.server)
