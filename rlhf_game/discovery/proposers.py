"""Who proposes losses: an interface, and a language model that is shown the archive."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from rlhf_game.chat import Chat, ask_once
from rlhf_game.discovery.archive import Entry, ExpressionProposal, ranked
from rlhf_game.discovery.expressions import Limits

SYSTEM = (
    "You design loss functions for training language models on pairs of a chosen and a rejected response. You answer "
    'with one JSON object: {"thought": "...", "expression": "..."}.'
)
LANGUAGE = """A loss is one expression, evaluated for each pair; the batch's mean is minimised.
z is the margin beta * ((log pi(chosen) - log ref(chosen)) - (log pi(rejected) - log ref(rejected))). Training starts at
the reference, where z = 0, so a useful loss falls there as z grows.
Names: z; chosen and rejected (the two log-ratios, in nats); beta; tau = 0.05; decimal numbers.
Operators: + - * / and one comparison < <= > >= (1 where it holds, else 0); no power.
Functions of one argument: log_sigmoid, sigmoid, exp, relu, tanh, abs, square; of the batch: mean, std, var; and
where(condition, a, b). At most {size} numbers, names and operations, {depth} levels deep."""
SHOWN = 12
"""Of the best candidates, and of the latest failures, how many a model sees."""


class ExpressionProposer(ABC):
    """Whoever proposes candidates; it sees the generations before and nothing else."""

    @abstractmethod
    def propose(self, archive: Sequence[Entry], generation: int, count: int) -> list[ExpressionProposal]:
        """Return ``count`` proposals; the same archive gives the same ones."""


@final
@dataclass(frozen=True)
class LanguageModelProposer(ExpressionProposer):
    """A language model that sees the best candidates with their scores, and why others failed."""

    chat: Chat
    baselines: tuple[tuple[str, str, float], ...]
    """Known losses: name, formula, score."""
    limits: Limits = Limits()
    temperature: float = 1.0
    max_tokens: int = 512

    def propose(self, archive: Sequence[Entry], generation: int, count: int) -> list[ExpressionProposal]:
        """Return one proposal per answer; an answer without an expression is proposed as it is, and fails with it."""
        asked = self.prompt(archive)
        first = generation * count
        requests = [
            ask_once(asked, SYSTEM, temperature=self.temperature, max_tokens=self.max_tokens, draw=first + k)
            for k in range(count)
        ]
        replies = self.chat.ask(requests, "proposer")
        return [ExpressionProposal(_expression_in(reply.text), "language model") for reply in replies]

    def prompt(self, archive: Sequence[Entry]) -> str:
        """Return what the model is asked, the archive included."""
        lines = [LANGUAGE.format(size=self.limits.size, depth=self.limits.depth), "", "Known losses and their scores:"]
        lines += [f"{score:.4f}  {name}: {formula}" for name, formula, score in self.baselines]
        best, failed = ranked(archive)[:SHOWN], [entry for entry in archive if entry.reason is not None][-SHOWN:]
        if best:
            lines += ["", "Tried so far, the best first (0 is the reference policy, 1 the best policy that there is):"]
            lines += [f"{entry.score:.4f}  {entry.text}" for entry in best]
        if failed:
            lines += ["", "Failed:"]
            lines += [f"{entry.text}  ->  {entry.reason}" for entry in failed]
        return "\n".join([*lines, "", "Propose one new expression with a higher score than all of these."])


def _expression_in(answer: str) -> str:
    """Return the expression of an answer: of its JSON object, of a line that names it, or the answer itself."""
    for found in re.findall(r"\{.*\}", answer, re.DOTALL):
        try:
            document = json.loads(found)
        except ValueError:
            continue
        if isinstance(document, dict) and isinstance(document.get("expression"), str):
            return str(document["expression"])
    named = re.search(r'"?expression"?\s*[:=]\s*"?([^"\n]+)', answer)
    return (named[1] if named else answer).strip().strip("`")[:2000]
