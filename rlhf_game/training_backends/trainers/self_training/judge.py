"""A language model that says which of two responses is better, by the probabilities of two answers, in both orders."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.files.conversations import Text
from rlhf_game.mechanism.arrays import Array
from rlhf_game.training_backends.lm.models import LanguageModel
from rlhf_game.training_backends.lm.sampling import next_log_probabilities
from rlhf_game.training_backends.trainers.reward_training import Pair
from rlhf_game.training_backends.trainers.self_training.supervised import Example

INSTRUCTION = """\
Below are a message and two responses to it. Decide which response is more helpful and more honest.

Message:
{prompt}

RESPONSE A:
{first}

RESPONSE B:
{second}

Name the better one: RESPONSE A or RESPONSE B.
"""


@final
@dataclass(frozen=True)
class JudgePrompt:
    """What a judge is asked. ``lead`` begins its answer, and one of the ``answers`` is what it then says."""

    instruction: str = INSTRUCTION
    """With {prompt}, {first} and {second} in it."""
    lead: str = "RESPONSE "
    answers: tuple[str, str] = ("A", "B")
    """What stands for the response that is shown first, and for the other."""

    def __post_init__(self) -> None:
        for field in ("{prompt}", "{first}", "{second}"):
            if field not in self.instruction:
                raise InputError(f"judge.instruction must hold {field}, it does not")

    def filled(self, prompt: Text, first: Text, second: Text) -> str:
        """Return the question."""
        values = {"prompt": str(prompt), "first": str(first), "second": str(second)}
        return re.sub(r"\{(prompt|first|second)\}", lambda found: values[found[1]], self.instruction)


@final
@dataclass(frozen=True, eq=False)
class Verdicts:
    """How probable a judge finds it that the first of two responses is the better one, [n] each."""

    shown_first: Array
    """Asked with the first response in the first place,"""
    shown_second: Array
    """and with it in the second."""

    @property
    def strengths(self) -> Array:
        """The mean of both orders, [n]: a judge who only looks at the place says 1/2."""
        return (self.shown_first + self.shown_second) / 2.0

    @property
    def position_bias(self) -> float:
        """By how much the first place is preferred: its mean probability over both orders, less 1/2."""
        return float(np.mean(self.shown_first - self.shown_second) / 2.0)

    @property
    def consistency(self) -> float:
        """The share of questions on which both orders prefer the same response."""
        return float(np.mean((self.shown_first > 0.5) == (self.shown_second > 0.5)))


@final
@dataclass(frozen=True, eq=False)
class PairJudge:
    """A language model as the judge. Raises InputError when its tokenizer does not tell the answers apart."""

    model: LanguageModel
    prompt: JudgePrompt = JudgePrompt()

    def __post_init__(self) -> None:
        self._answers()

    def compare(self, pairs: Sequence[Pair], *, batch_size: int = 16) -> Verdicts:
        """Return the verdicts on (prompt, first response, second response), [n], by a softmax over the two answers."""
        asked = [self.prompt.filled(prompt, first, second) for prompt, first, second in pairs]
        asked += [self.prompt.filled(prompt, second, first) for prompt, first, second in pairs]
        lead, answers = self._answers()
        encoded = [[*self.model.encode_prompt(text), *lead] for text in asked]
        said = next_log_probabilities(self.model, encoded, answers, batch_size=batch_size)
        first_place = 0.5 * (1.0 + np.tanh((said[:, 0] - said[:, 1]) / 2.0))
        return Verdicts(first_place[: len(pairs)], 1.0 - first_place[len(pairs) :])

    def _answers(self) -> tuple[list[int], tuple[int, int]]:
        """Return the tokens before the answer, and the one token of each answer."""
        first, second = (
            list(self.model.tokenizer(self.prompt.lead + answer, add_special_tokens=False).input_ids)
            for answer in self.prompt.answers
        )
        if len(first) != len(second) or first[:-1] != second[:-1] or first[-1:] == second[-1:]:
            raise InputError(
                f"judge.answers: must differ in their last token alone after the lead {self.prompt.lead!r}, found "
                f"{' and '.join(self.prompt.answers)}"
            )
        return first[:-1], (first[-1], second[-1])


def judge_examples(pairs: Sequence[Pair], prompt: JudgePrompt, rng: np.random.Generator) -> list[Example]:
    """Return instructions to judge by, of (prompt, chosen, rejected), [n]: in half of them the chosen one is second.

    Which half is drawn; of an odd number one more keeps its order.
    """
    swapped = set(rng.permutation(len(pairs))[: len(pairs) // 2].tolist())
    found = []
    for k, (asked, chosen, rejected) in enumerate(pairs):
        first, second = (rejected, chosen) if k in swapped else (chosen, rejected)
        answer = prompt.answers[1 if k in swapped else 0]
        found.append(Example(prompt.filled(asked, first, second), prompt.lead + answer))
    return found
