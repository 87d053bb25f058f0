"""A judge of answers: four criteria, and a penalty for being longer than a human's answer (CourseGPT-zh, section 4)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from rlhf_game.chat import Chat, GradeScale, Request, ask_once
from rlhf_game.errors import RunError
from rlhf_game.files.documents import shown
from rlhf_game.files.run_folder import Progress
from rlhf_game.outcomes.prompts.prompts_spec import ExampleSpec, JudgingFields

CRITERIA: Mapping[str, str] = {
    "factual accuracy": "Is everything in the answer true, and does it agree with the facts of the reference answer?",
    "user satisfaction": "Does the answer give the user all that the question asks for, as well as the reference does?",
    "clarity": "Is the answer clear and easy to read, compared with the reference answer?",
    "condensability": "Is the answer succinct, or could words be left out without losing anything?",
}
"""What is graded, each by a question of its own."""


@final
@dataclass(frozen=True)
class JudgedAnswer:
    """An answer with its grades."""

    example: ExampleSpec
    answer: str
    grades: Mapping[str, float]
    said: tuple[str, ...]
    """What the judge wrote, criterion by criterion."""
    ungraded: int
    """Grades that the judge did not give: each counts as declared."""
    penalty: float

    @property
    def judge(self) -> float:
        """The mean grade."""
        return sum(self.grades.values()) / len(self.grades)

    @property
    def score(self) -> float:
        """s = mean grade - alpha max(0, length / reference length - 1) (CourseGPT-zh, equation 1)."""
        return self.judge - self.penalty


def length_penalty(answer: str, reference: str, alpha: float) -> float:
    """Return alpha max(0, len(answer) / len(reference) - 1); lengths in characters.

    >>> length_penalty("abcd", "ab", 0.5), length_penalty("a", "ab", 0.5)
    (0.5, 0.0)
    """
    return alpha * max(0.0, len(answer) / len(reference) - 1.0)


def judge_answers(
    judge: Chat, pairs: Sequence[tuple[ExampleSpec, str]], how: JudgingFields, watch: Progress | None = None
) -> list[JudgedAnswer]:
    """Return the grades of each answer to each example's question.

    Raises RunError where the judge gives no grade and none is declared for that.
    """
    requests = [_request(example, answer, name, how) for example, answer in pairs for name in CRITERIA]
    graded = judge.grade(requests, "judge", how.declared, watch)
    found = []
    for k, (example, answer) in enumerate(pairs):
        own = graded[k * len(CRITERIA) : (k + 1) * len(CRITERIA)]
        grades = {name: one.grade for name, one in zip(CRITERIA, own, strict=True)}
        said, ungraded = tuple(one.said for one in own), sum(one.is_declared for one in own)
        found.append(
            JudgedAnswer(example, answer, grades, said, ungraded, length_penalty(answer, example.answer, how.alpha))
        )
    return found


def check_readable(judge: Chat, judged: Sequence[JudgedAnswer]) -> None:
    """Raise RunError when there are grades and none of them could be read: such a judge knows nothing."""
    if judged and all(one.ungraded == len(one.grades) for one in judged):
        raise RunError(
            f"the judge {judge.model.identity.get('model')} must answer with grades, none of "
            f"{len(judged) * len(CRITERIA)} can be read; the last: {shown(judged[-1].said[-1])!r}"
        )


def _request(example: ExampleSpec, answer: str, criterion: str, how: JudgingFields) -> Request:
    scale = GradeScale(how.low, how.high, how.explains)
    return ask_once(
        f"Question:\n{example.question}\n\nReference answer:\n{example.answer}\n\nAnswer to grade:\n{answer}",
        f"You grade an answer to a question by one criterion, {criterion}: {CRITERIA[criterion]}\n{scale.rule}",
        max_tokens=how.judge_tokens,
        scale=scale,
    )
