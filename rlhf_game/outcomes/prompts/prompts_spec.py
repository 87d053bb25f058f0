"""Outcomes of kind prompts: what a configuration may say, and the texts that it names."""

from abc import ABC
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, final

from pydantic import Discriminator, Field, Tag

from rlhf_game.chat.chat_specs import GradingFields, ModelSpec, SomeModel
from rlhf_game.errors import InputError
from rlhf_game.files.documents import lines_of, parse_json_lines, read_text, shown
from rlhf_game.files.schema import Name, Nonnegative, Strict, parse_model

Count: TypeAlias = Annotated[int, Field(ge=1, le=100_000)]


@final
class ExampleSpec(Strict):
    """A question with a human's answer, which the judge compares with and whose length is no penalty."""

    question: Name
    """What a user asks."""
    answer: Name
    """What a human answers."""


def _form(value: Any) -> str | None:
    if isinstance(value, str):
        return "<file>"
    return "<list>" if isinstance(value, list) else None


_FORM = Discriminator(_form, custom_error_type="texts", custom_error_message="must be a list, or the name of a file")
Texts: TypeAlias = Annotated[
    Annotated[Name, Tag("<file>")] | Annotated[list[Name], Field(min_length=1), Tag("<list>")], _FORM
]
"""Texts, or a .txt file with one a line."""
Examples: TypeAlias = Annotated[
    Annotated[Name, Tag("<file>")] | Annotated[list[ExampleSpec], Field(min_length=1), Tag("<list>")], _FORM
]
"""Questions and answers, or a .jsonl file of them."""


class JudgingFields(GradingFields, ABC):
    """How answers are graded; the constants are CourseGPT-zh's where it has them."""

    judge: SomeModel | None = None
    """Who grades; None: the model that answers grades itself."""
    alpha: Nonnegative = 0.5
    """Of the length penalty: what an answer twice as long as the human's loses."""
    explains: bool = True
    """Whether the judge writes a comment before each grade; then the writer learns from the comments."""
    judge_tokens: Count = 256
    """The most tokens that the judge writes."""


@final
class PromptsSpec(JudgingFields):
    """Outcomes are system prompts: seeds, improved by a writer and a judge before any report is read."""

    kind: Literal["prompts"]
    seeds: Texts
    """System prompts to begin with, or a .txt file with one a line."""
    examples: Examples
    """What candidates are judged on, or a .jsonl file of {question, answer}."""
    writer: SomeModel | None = None
    """Who writes new prompts; None: the model that answers."""
    iterations: Annotated[int, Field(ge=0, le=100)] = 3
    """Rounds of writing and judging."""
    keep: Count = 5
    """Prompts that a round keeps, and that are the outcomes in the end."""
    feedback: Count = 5
    """Judgements of a prompt that the writer sees when it improves it."""
    sample: Count = 50
    """Examples that are drawn, once, when there are more."""
    writer_tokens: Count = 256
    """The most tokens of a new prompt."""
    per_prompt: Count = 1
    """Responses to each of the run's prompts under each candidate, for the groups' rewards."""
    max_new_tokens: Count = 256
    """The most tokens of an answer."""
    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Of responses."""
    batch_size: Count = 16
    """Of models on this machine."""

    def files(self) -> tuple[str, ...]:
        """Return the files whose content is part of the configuration."""
        return tuple(file for file in (self.seeds, self.examples) if isinstance(file, str))


def read_texts(given: str | list[str], base: Path) -> list[str]:
    """Return the texts, each once. Raises InputError when the file is none, or there is nothing in them."""
    lines = lines_of(read_text(base / given)) if isinstance(given, str) else given
    found = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not found:
        raise InputError(f"must have a text with something in it, found {len(lines)} empty ones")
    return found


def read_examples(given: str | list[ExampleSpec], base: Path) -> list[ExampleSpec]:
    """Return questions and answers. Raises InputError that names file and line."""
    if not isinstance(given, str):
        return given
    path = base / given
    if path.suffix != ".jsonl":
        raise InputError(f"{shown(given, 200)}: must be a .jsonl file of {{question, answer}}, found another ending")
    rows = parse_json_lines(read_text(path), shown(str(path), 200))
    return [parse_model(ExampleSpec, row, where) for where, row in rows]


def answering(spec: PromptsSpec, model: ModelSpec) -> dict[str, ModelSpec]:
    """Return who does what: the responder, the writer and the judge."""
    return {"responder": model, "writer": spec.writer or model, "judge": spec.judge or model}
