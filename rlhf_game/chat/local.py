"""A language model on this machine, asked in batches."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from rlhf_game.chat.requests import ChatModel, Reply, Request
from rlhf_game.errors import InputError
from rlhf_game.files.conversations import Conversation

if TYPE_CHECKING:
    from rlhf_game.training_backends.lm.models import LanguageModel
    from rlhf_game.training_backends.lm.sampling import Sampling

DEFAULT_TOKENS = 256
"""Of an answer, where the request does not say."""


@final
@dataclass(frozen=True)
class LocalModel(ChatModel):
    """A causal language model: an installed wheel, a folder, a .gguf file or a name on the hub; loaded when asked.

    A folder may also be that of a policy that was trained here. A model whose chat template takes no system turn is
    told its instructions at the beginning of the user's.

    The random numbers of an answer are fixed by its request and ``seed``, not by its place among others.
    """

    name: str
    revision: str | None = None
    device: str = "auto"
    dtype: str = "float32"
    base: Path | None = None
    batch_size: int = 16
    seed: int = 0

    @property
    def workers(self) -> int:
        """One batch after the other."""
        return 1

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """The model's name and the sha256 of its weights (of a hub name: the revision)."""
        from rlhf_game.training_backends import find_checkpoint

        name = self.name if self._policy is None else str(self._policy / "model")
        found = find_checkpoint(name, revision=self.revision, base=self.base)
        return {**found.provenance, "dtype": self.dtype, "seed": self.seed}

    @property
    def _policy(self) -> Path | None:
        """The folder of a policy that this package trained, where the name is of one."""
        folder = (self.base or Path()) / Path(self.name).expanduser()
        return folder if (folder / "policy.json").is_file() else None

    @cached_property
    def language_model(self) -> "LanguageModel":
        """The model, loaded."""
        from rlhf_game.training_backends import load_language_model
        from rlhf_game.training_backends.trainers.policies import load_policy

        if self._policy is not None:
            return load_policy(self._policy, device=self.device, folds_system=True)
        return load_language_model(
            self.name, revision=self.revision, device=self.device, dtype=self.dtype, base=self.base, folds_system=True
        )

    def groups(self, requests: Sequence[Request]) -> list[list[int]]:
        """Return batches of like temperature, like longest answer and like length."""
        alike: dict[tuple[float, int, tuple[int, ...]], list[int]] = {}
        for i, request in enumerate(requests):
            alike.setdefault((_temperature(request), _longest(request), _digits(request)), []).append(i)
        groups = []
        for places in alike.values():
            ordered = sorted(places, key=lambda i: (sum(len(turn.content) for turn in requests[i].messages), i))
            groups += [ordered[k : k + self.batch_size] for k in range(0, len(ordered), self.batch_size)]
        return groups

    def answer(self, requests: Sequence[Request], purpose: str) -> list[Reply]:
        """Return the answers to one batch. Raises InputError when a request leaves no room for its answer."""
        from rlhf_game.training_backends.lm.sampling import sample_batch

        model = self.language_model
        encoded = [model.encode_prompt(Conversation(request.messages)) for request in requests]
        if digits := _digits(requests[0]):
            return self._grade(encoded, digits)
        drawn = sample_batch(
            model,
            encoded,
            [(i, 0) for i in range(len(requests))],
            seed=self.seed,
            sampling=_sampling(requests[0]),
            streams=[_stream(request) for request in requests],
        )
        return [
            Reply(
                sample.text.strip(),
                len(ids),
                len(sample.token_ids),
                sample.is_finished,
                log_probability=sample.log_probability,
            )  # fmt: skip
            for ids, sample in zip(encoded, drawn, strict=True)
        ]

    def _grade(self, encoded: list[list[int]], digits: tuple[int, ...]) -> list[Reply]:
        """Return the mean digit of each request by the shares of the next token's probability."""
        from rlhf_game.training_backends.lm.sampling import next_token_shares

        model = self.language_model
        tokens = [list(model.tokenizer(str(digit), add_special_tokens=False).input_ids) for digit in digits]
        if any(len(ids) != 1 for ids in tokens) or len({ids[0] for ids in tokens}) != len(digits):
            raise InputError(f"model: {self.name} must have a token for each digit to grade with, found none for some")
        means = next_token_shares(model, encoded, [ids[0] for ids in tokens]) @ list(digits)
        return [Reply(f"{mean:.6f}", len(ids), 1) for ids, mean in zip(encoded, means.tolist(), strict=True)]


def _digits(request: Request) -> tuple[int, ...]:
    return () if request.scale is None else request.scale.digits


def _sampling(request: Request) -> "Sampling":
    from rlhf_game.training_backends.lm.sampling import Sampling

    temperature = _temperature(request)
    if temperature == 0.0:
        return Sampling(_longest(request), top_k=1)
    return Sampling(_longest(request), temperature)


def _temperature(request: Request) -> float:
    return 1.0 if request.temperature is None else request.temperature


def _longest(request: Request) -> int:
    return DEFAULT_TOKENS if request.max_tokens is None else request.max_tokens


def _stream(request: Request) -> tuple[int, ...]:
    digest = hashlib.sha256(json.dumps(request.document(), sort_keys=True).encode()).digest()
    return tuple(int.from_bytes(digest[k : k + 4], "big") for k in range(0, 16, 4))
