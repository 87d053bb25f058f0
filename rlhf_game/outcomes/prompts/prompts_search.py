"""Better system prompts, by reflection and resampling (CourseGPT-zh, section 4.2); reports are not among its inputs."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, final

import numpy as np

from rlhf_game.chat import Chat, Request, ask_once
from rlhf_game.files.conversations import Text
from rlhf_game.files.run_folder import Progress
from rlhf_game.outcomes.prompts.prompts_judge import JudgedAnswer, check_readable, judge_answers
from rlhf_game.outcomes.prompts.prompts_spec import ExampleSpec, PromptsSpec

LONGEST = 4000
"""Characters of a system prompt; what a writer says beyond is cut."""
Origin: TypeAlias = Literal["seed", "reflection", "resampling"]

TASK = "You write system prompts for an assistant that answers users' questions."
RULE = "Write the new system prompt between <prompt> and </prompt>, and nothing else. Keep it short."


@final
@dataclass(frozen=True)
class SystemPromptCandidate:
    """A system prompt with its judged answers."""

    text: str
    origin: Origin
    iteration: int
    judged: tuple[JudgedAnswer, ...]

    @property
    def score(self) -> float:
        """The mean over the examples of grade less penalty."""
        return float(np.mean([one.score for one in self.judged]))

    def document(self) -> dict[str, Any]:
        """Return what is kept of it."""
        return {
            "text": self.text,
            "origin": self.origin,
            "iteration": self.iteration,
            "score": self.score,
            "judge": float(np.mean([one.judge for one in self.judged])),
            "length_penalty": float(np.mean([one.penalty for one in self.judged])),
            "grades": {
                name: float(np.mean([one.grades[name] for one in self.judged])) for name in self.judged[0].grades
            },
            "ungraded": sum(one.ungraded for one in self.judged),
        }


@final
@dataclass(frozen=True)
class Search:
    """Who answers, writes and judges, on which examples."""

    spec: PromptsSpec
    chats: Mapping[str, Chat]
    """The responder, the writer and the judge."""
    examples: Sequence[ExampleSpec]
    watch: Progress

    def run(self, seeds: Sequence[str], rng: np.random.Generator) -> list[SystemPromptCandidate]:
        """Return all candidates that were judged, the best first; ties go to the one that came first.

        Raises RunError when no grade of the seeds can be read.

        Each iteration takes the best ``keep`` of all so far; each is improved once from ``feedback`` of its own
        judgements, and as many new ones are asked for from the list of prompts and scores.
        """
        found = self._judge([(text, "seed") for text in seeds], 0)
        check_readable(self.chats["judge"], [one for candidate in found for one in candidate.judged])
        for iteration in range(1, self.spec.iterations + 1):
            best = ranked(found)[: self.spec.keep]
            requests = [self._reflection(candidate, iteration, rng) for candidate in best]
            requests += [_resampling(best, (iteration, k), self.spec) for k in range(len(best))]
            said = [reply.text for reply in self.chats["writer"].ask(requests, "writer", self.watch)]
            origins: list[Origin] = ["reflection" if k < len(best) else "resampling" for k in range(len(said))]
            known = {candidate.text for candidate in found}
            fresh: dict[str, Origin] = {}
            for text, origin in zip(map(read_prompt, said), origins, strict=True):
                if text is not None and text not in known:
                    fresh.setdefault(text, origin)
            found += self._judge(list(fresh.items()), iteration)
        return ranked(found)

    def _judge(self, prompts: Sequence[tuple[str, Origin]], iteration: int) -> list[SystemPromptCandidate]:
        asked = [(text, example) for text, _ in prompts for example in self.examples]
        requests = [response_request(self.spec, text, example.question, 0) for text, example in asked]
        answers = [reply.text for reply in self.chats["responder"].ask(requests, "responder", self.watch)]
        pairs = [(example, answer) for (_, example), answer in zip(asked, answers, strict=True)]
        judged = judge_answers(self.chats["judge"], pairs, self.spec, self.watch)
        n = len(self.examples)
        return [
            SystemPromptCandidate(text, origin, iteration, tuple(judged[k * n : (k + 1) * n]))
            for k, (text, origin) in enumerate(prompts)
        ]

    def _reflection(self, candidate: SystemPromptCandidate, iteration: int, rng: np.random.Generator) -> Request:
        """Ask to improve a prompt from some of its judgements."""
        count = min(self.spec.feedback, len(candidate.judged))
        chosen = sorted(rng.choice(len(candidate.judged), count, replace=False).tolist())
        feedback = "\n\n".join(_feedback(candidate.judged[k], self.spec.explains) for k in chosen)
        return ask_once(
            f"The system prompt:\n<prompt>{candidate.text}</prompt>\n\nHow answers under it were judged:\n\n{feedback}"
            f"\n\nImprove the system prompt so that such answers get better grades. {RULE}",
            TASK,
            temperature=1.0,
            max_tokens=self.spec.writer_tokens,
            draw=iteration,
            pretend=f"<prompt>improved {iteration}: {candidate.text}</prompt>",
        )


def ranked(candidates: Sequence[SystemPromptCandidate]) -> list[SystemPromptCandidate]:
    """Return the candidates by score, the best first; ties keep their order."""
    return sorted(candidates, key=lambda candidate: -candidate.score)


def response_request(spec: PromptsSpec, system: str, user: Text, draw: int) -> Request:
    """Return the question that elicits a response under a system prompt."""
    return ask_once(
        user,
        system,
        temperature=spec.temperature,
        max_tokens=spec.max_new_tokens,
        draw=draw,
        pretend=hashlib.sha256(system.encode()).hexdigest()[:8] + f" {draw}" + " word" * (spec.max_new_tokens // 2),
    )


def read_prompt(said: str) -> str | None:
    """Return the system prompt in what a writer said, or None when there is none.

    >>> read_prompt("Sure! <prompt> Be brief. </prompt> Done."), read_prompt('"Be kind."'), read_prompt("<prompt> ")
    ('Be brief.', 'Be kind.', None)
    """
    marked = re.search(r"<prompt>(.*?)(?:</prompt>|$)", said, re.DOTALL)
    text = (marked[1] if marked else said).replace("</prompt>", "").strip().strip("`\"'").strip()
    return text[:LONGEST] or None


def _resampling(best: Sequence[SystemPromptCandidate], turn: tuple[int, int], spec: PromptsSpec) -> Request:
    """Ask for a new prompt from prompts and their scores, the best first. turn: the iteration, and which of its."""
    draw = turn[0] * spec.keep + turn[1]
    pairs = "\n\n".join(f"Score {one.score:.2f}:\n<prompt>{one.text}</prompt>" for one in best)
    return ask_once(
        f"System prompts and their scores, the best first:\n\n{pairs}\n\nFind out what makes the score high, and write "
        f"a new and different system prompt that would score higher. {RULE}",
        TASK,
        temperature=1.0,
        max_tokens=spec.writer_tokens,
        draw=draw,
        pretend=f"<prompt>resampled {draw}: {best[0].text}</prompt>",
    )


def _feedback(judged: JudgedAnswer, explains: bool) -> str:
    grades = ", ".join(f"{name} {grade:g}" for name, grade in judged.grades.items())
    comments = "\n".join(judged.said) if explains else ""
    penalty = f", less {judged.penalty:.2f} for its length" if judged.penalty else ""
    return "\n".join(
        part
        for part in (
            f"Question: {judged.example.question}", f"Answer: {judged.answer}", comments, f"Grades: {grades}{penalty}",
        )
        if part
    )  # fmt: skip
