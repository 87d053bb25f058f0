"""Rewards that another machine computes: a scoring endpoint over HTTP, and a language model as the judge.

Both reach it through ``chat.transport`` and say which endpoint failed. Nothing is sent before a reward is called.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, final

from rlhf_game.chat import REPLIES, Chat, ChatModel, Endpoint, GradeScale, Ledger, LocalModel, Request, ask_once
from rlhf_game.chat.keys import check_url
from rlhf_game.chat.transport import Address, in_parallel
from rlhf_game.errors import InputError, RunError
from rlhf_game.files.conversations import as_called
from rlhf_game.rewards.texts import Text, plain


@final
@dataclass(frozen=True)
class ScoreEndpoint:
    """POST {"prompts": [..], "completions": [..]} to ``url``; the answer is {"scores": [..]}, one number each.

    timeout, retries, pause, key_env: see ``chat.transport.Address``. workers: batches asked at the same time.
    is_identified: say so when its scores of different prompts compare.
    """

    url: str
    timeout: float = 30.0
    retries: int = 4
    pause: float = 0.5
    batch_size: int = 64
    workers: int = 4
    key_env: str | None = None
    is_identified: bool = False
    __name__: ClassVar[str] = "endpoint"

    def __post_init__(self) -> None:
        check_url(self.url)

    @property
    def _address(self) -> Address:
        return Address(self.url, self.key_env, self.timeout, self.retries, self.pause)

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any) -> list[float]:
        """Return one score per completion. Raises RunError that names the endpoint; no batch is begun after it."""
        asked, texts = as_called(prompts, completions)
        parts = [slice(start, start + self.batch_size) for start in range(0, len(texts), self.batch_size)]
        batches = [{"prompts": asked[part], "completions": texts[part]} for part in parts]
        scores: dict[int, list[float]] = dict(in_parallel(self._scores, batches, self.workers))
        return [score for k in range(len(batches)) for score in scores[k]]

    def _scores(self, batch: dict[str, list[Any]]) -> list[float]:
        """Return the scores of one batch."""
        who = f"the endpoint {self.url}"
        document, _ = self._address.post(batch, who)
        scores = document.get("scores") if isinstance(document, dict) else None
        if not isinstance(scores, list) or not all(_is_number(score) for score in scores):
            raise RunError(f'{who} must answer {{"scores": [..]}} with numbers, got {str(document)[:80]!r}')
        if len(scores) != len(batch["completions"]):
            raise RunError(f"{who} must answer {len(batch['completions'])} scores, got {len(scores)}")
        return [float(score) for score in scores]

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the scores come from."""
        return {"endpoint": self.url}


def _is_number(value: Any) -> bool:
    """Return whether a value of a JSON document is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


@final
@dataclass(frozen=True)
class Judge:
    """A language model that grades each response from ``low`` to ``high``.

    url: the base URL of an OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1; None when ``model`` is on this
    machine. instruction: what to grade. ungraded: the grade that counts where an answer has none, also when it is asked
    for again ``retries`` times (a model on this machine would say the same again); None: such an answer is an error.
    key_env: the environment variable with the key; None for servers that want none. workers: questions asked at the
    same time. max_tokens, temperature: None leaves them to the server. options: further fields of every request, such
    as max_completion_tokens. calls: the folder that keeps answers and their account.
    """

    model: str
    url: str | None
    instruction: str
    low: float = 1.0
    high: float = 10.0
    ungraded: float | None = None
    timeout: float = 60.0
    retries: int = 4
    workers: int = 4
    key_env: str | None = None
    max_tokens: int | None = None
    temperature: float | None = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)
    calls: Path | None = None
    base: Path | None = None
    __name__: ClassVar[str] = "judge"

    def __post_init__(self) -> None:
        if self.url is not None:
            check_url(self.url)
        if not self.low < self.high:
            raise InputError(f"low must be below high, got low {self.low} and high {self.high}")
        if self.ungraded is not None and not self.low <= self.ungraded <= self.high:
            raise InputError(f"ungraded must be a grade from {self.low:g} to {self.high:g}, got {self.ungraded}")

    @cached_property
    def _model(self) -> ChatModel:
        if self.url is None:
            return LocalModel(self.model, base=self.base)
        return Endpoint(
            self.model, self.url, self.key_env, self.timeout, self.retries, workers=self.workers, options=self.options
        )

    @cached_property
    def _declared(self) -> Counter[str]:
        """How many grades were counted as ``ungraded`` says."""
        return Counter()

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any) -> list[float]:
        """Return one grade per completion. Raises RunError that names the judge."""
        retries = 0 if self.url is None else self.retries
        chat = (
            Chat(self._model, Ledger(None), retries=retries)
            if self.calls is None
            else Chat.kept_in(self.calls, self._model, retries=retries)
        )
        graded = chat.grade(self._requests(prompts, completions), "judge", self.ungraded)
        self._declared["grades"] += sum(one.is_declared for one in graded)
        return [one.grade for one in graded]

    def count(self, prompts: Sequence[Text], completions: Sequence[Text], ledger: Ledger) -> None:
        """Count in ``ledger`` what grading the completions would ask; nothing is asked."""
        kept = None if self.calls is None else self.calls / REPLIES
        Chat.dry(self._model, ledger, cache=kept).ask(self._requests(prompts, completions), "judge")

    def _requests(self, prompts: Sequence[Text], completions: Sequence[Text]) -> list[Request]:
        scale = GradeScale(self.low, self.high)
        return [
            ask_once(
                f"Prompt:\n{plain(prompt)}\n\nResponse:\n{plain(completion)}",
                f"{self.instruction}\n{scale.rule}",
                temperature=self.temperature,
                max_tokens=self.max_tokens,
                scale=scale,
            )
            for prompt, completion in zip(prompts, completions, strict=True)
        ]

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the grades come from, and how many are not the judge's but the one that was declared."""
        known = {"endpoint": self.url, "model": self.model, "instruction": self.instruction}
        return {**known, "ungraded": self._declared["grades"]} if self._declared["grades"] else known
