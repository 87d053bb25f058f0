"""Questions from a text (CourseGPT-zh, section 3.1): asked of every paragraph, expanded in rounds, deduplicated."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, final

import numpy as np
from pydantic import Field

from rlhf_game.chat import Chat, Request, ask_once
from rlhf_game.errors import InputError
from rlhf_game.files.documents import lines_of
from rlhf_game.files.run_folder import Progress
from rlhf_game.files.schema import Name, Strict
from rlhf_game.files.training_fields import Count
from rlhf_game.mechanism.arrays import Array
from rlhf_game.rewards.neural import EMBEDDER

AT_ONCE = 16
"""Paragraphs that are asked about together: generated questions become examples from one such lot to the next."""
Share: TypeAlias = Annotated[float, Field(gt=0, le=1)]
Way: TypeAlias = Literal["embeddings", "jaccard"]
THRESHOLDS: dict[Way, float] = {"embeddings": 0.9, "jaccard": 0.7}


@final
class QuestionsSpec(Strict):
    """How questions are made; six seeds, two generated ones, three of style and two rounds are the paper's."""

    per_paragraph: Count = 5
    """Questions that are asked for about each paragraph."""
    seed_examples: Count = 6
    """Seeds that are shown for each request."""
    own_examples: Annotated[int, Field(ge=0, le=1000)] = 2
    """Questions made before that are shown for each request."""
    rounds: Annotated[int, Field(ge=0, le=100)] = 2
    """How often the questions are expanded beyond the text."""
    content_examples: Count = 5
    """Questions that are expanded together."""
    style_examples: Count = 3
    """Seeds that are shown when questions are expanded."""
    max_tokens: Count = 512
    """The most tokens of one answer of the teacher with questions."""
    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Of the teacher when it asks."""
    deduplicate: Way | None = None
    """By cosines of embeddings or by shared words; None: by embeddings where the embedder is installed."""
    embedder: Name = EMBEDDER
    """The sentence-embedding model that tells questions that are alike."""
    threshold: Share | None = None
    """Likeness from which a question counts as said already; 0.9 for embeddings and 0.7 for words where not given."""


@final
@dataclass(frozen=True)
class Question:
    """A question, where it comes from, and the paragraph that it was asked about."""

    text: str
    origin: str
    paragraph: str | None = None


def paragraphs_of(text: str) -> list[str]:
    r"""Return what empty lines divide.

    >>> paragraphs_of("One\nline.\n\n \nTwo.")
    ['One line.', 'Two.']
    """
    parts = re.split(r"\n\s*\n", text)
    return [" ".join(part.split()) for part in parts if part.strip()]


def ask_questions(
    teacher: Chat,
    paragraphs: Sequence[str],
    seeds: Sequence[str],
    spec: QuestionsSpec,
    rng: np.random.Generator,
    watch: Progress,
) -> list[Question]:
    """Return the questions about all paragraphs, then those of each round of expansion."""
    found: list[Question] = []
    for start in range(0, len(paragraphs), AT_ONCE):
        lot = paragraphs[start : start + AT_ONCE]
        own = [question.text for question in found]
        requests = []
        for paragraph in lot:
            examples = [*_some(seeds, spec.seed_examples, rng), *_some(own, spec.own_examples, rng)]
            requests.append(_about(paragraph, examples, spec))
        for paragraph, reply in zip(lot, teacher.ask(requests, "teacher", watch), strict=True):
            found += [Question(text, "text", paragraph) for text in read_questions(reply.text, spec.per_paragraph)]
    latest = [question.text for question in found]
    for turn in range(1, spec.rounds + 1):
        groups = [latest[k : k + spec.content_examples] for k in range(0, len(latest), spec.content_examples)]
        requests = [_beyond(group, _some(seeds, spec.style_examples, rng), turn, spec) for group in groups]
        replies = teacher.ask(requests, "teacher", watch)
        latest = [
            text
            for group, reply in zip(groups, replies, strict=True)
            for text in read_questions(reply.text, len(group))
        ]
        found += [Question(text, f"expansion {turn}") for text in latest]
    return found


def read_questions(said: str, most: int) -> list[str]:
    r"""Return the questions of an answer, one a line, without numbers and bullets.

    >>> read_questions("1. What is it?\n\n- Why?\n* How?", 2)
    ['What is it?', 'Why?']
    """
    lines = (re.sub(r"^\s*(?:\d+\s*[.):]|[-*•])\s*", "", line).strip() for line in lines_of(said))
    return [line for line in lines if line][:most]


def deduplicate(
    questions: Sequence[Question], taken: Sequence[str], spec: QuestionsSpec, base: Path
) -> tuple[list[Question], Way]:
    """Return the questions that say something new, in order, and how that was found out.

    taken: questions that must not come back, such as those of a test. Greedy: a question is dropped when it is at least
    as like one that was kept, or taken, as the threshold. Raises InputError when embeddings are wanted and cannot be.
    """
    texts = [*taken, *(question.text for question in questions)]
    way, alike = _likeness(texts, spec, base)
    threshold = THRESHOLDS[way] if spec.threshold is None else spec.threshold
    kept = list(range(len(taken)))
    for k in range(len(taken), len(texts)):
        if not kept or alike[k, kept].max() < threshold:
            kept.append(k)
    return [questions[k - len(taken)] for k in kept if k >= len(taken)], way


def _likeness(texts: Sequence[str], spec: QuestionsSpec, base: Path) -> tuple[Way, Array]:
    """Return how each text is like each other, [n, n], at most 1, and what that is."""
    if spec.deduplicate != "jaccard" and texts:
        from rlhf_game.training_backends import load_embedder

        try:
            unit = load_embedder(spec.embedder, base=base, truncate="head").embed(texts)
        except InputError:
            if spec.deduplicate == "embeddings":
                raise
        else:
            return "embeddings", unit @ unit.T
    words = [set(re.findall(r"\w+", text.lower())) for text in texts]
    shares = [[len(a & b) / max(1, len(a | b)) for b in words] for a in words]
    return "jaccard", np.array(shares).reshape(len(texts), len(texts))


def _some(pool: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    chosen = rng.choice(len(pool), min(count, len(pool)), replace=False) if pool else ()
    return [pool[int(k)] for k in chosen]


def _about(paragraph: str, examples: Sequence[str], spec: QuestionsSpec) -> Request:
    shown = "\n".join(f"- {example}" for example in examples)
    return ask_once(
        f"Text:\n{paragraph}\n\nQuestions of the kind that is wanted:\n{shown}\n\nWrite {spec.per_paragraph} "
        "different questions that a learner could ask about what the text teaches. One a line, nothing else. Each must "
        "make sense without the text.",
        temperature=spec.temperature,
        max_tokens=spec.max_tokens,
        pretend="\n".join(f"{k} {paragraph[:40]}?" for k in range(spec.per_paragraph)),
    )


def _beyond(content: Sequence[str], style: Sequence[str], turn: int, spec: QuestionsSpec) -> Request:
    about, kind = ("\n".join(f"- {text}" for text in texts) for texts in (content, style))
    return ask_once(
        f"Questions about a subject:\n{about}\n\nQuestions whose form may be an example:\n{kind}\n\nWrite "
        f"{len(content)} new questions about related parts of the subject. One a line, nothing else.",
        temperature=spec.temperature,
        max_tokens=spec.max_tokens,
        draw=turn,
        pretend="\n".join(f"{turn}.{k} {text}" for k, text in enumerate(content)),
    )
