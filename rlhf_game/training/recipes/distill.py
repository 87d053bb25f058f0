"""Kind ``distill``: what a teacher answers under a system prompt becomes a student without one (CourseGPT-zh)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np

from rlhf_game.chat import Chat, Ledger, ask_once
from rlhf_game.chat.chat_specs import ModelSpec, SomeModel, dry_chat, open_chat
from rlhf_game.errors import InputError, RunError
from rlhf_game.files.documents import parse_json, read_text, shown
from rlhf_game.files.run_folder import CALLS
from rlhf_game.files.schema import Name, Positive
from rlhf_game.files.training_fields import Count, LoraSpec, PassesFields, Seed
from rlhf_game.optimization import DISTILLATION, Pretrained
from rlhf_game.outcomes.prompts.prompts_judge import check_readable, judge_answers
from rlhf_game.outcomes.prompts.prompts_spec import (
    Examples,
    ExampleSpec,
    JudgingFields,
    Texts,
    read_examples,
    read_texts,
)
from rlhf_game.training.kinds import MetricsTable, Task, TrainingFields
from rlhf_game.training.outputs import changed_outputs
from rlhf_game.training.recipes.distill_questions import (
    Question,
    QuestionsSpec,
    ask_questions,
    deduplicate,
    paragraphs_of,
)
from rlhf_game.training.recipes.distill_scores import check_installed, score_answers

if TYPE_CHECKING:
    from rlhf_game.training_backends.trainers.self_training import SupervisedTraining

DATA = "data.jsonl"
"""The questions and answers that the student learns, in the training's folder."""
STUDENT = "student"
"""The trained student, in the training's folder."""


@final
class DistillConfig(TrainingFields, JudgingFields, PassesFields):
    """A text, a teacher under a system prompt, and a student; the constants are the paper's where it has them."""

    kind: Literal["distill"]
    text: Name
    """A .txt file; empty lines divide its paragraphs."""
    seeds: Texts
    """Questions to begin with."""
    test: Examples
    """Questions and a human's answers, never trained on: what scores before and after are of."""
    prompt_from: Name | None = None
    """The folder of a run over prompts: its most probable system prompt is the teacher's."""
    system: Name | None = None
    """The teacher's system prompt, where there is no run."""
    teacher: SomeModel
    """The model that answers under the system prompt."""
    student: Name
    """The model that learns from it, without the system prompt."""
    questions: QuestionsSpec = QuestionsSpec()
    """How questions are made."""
    answer_tokens: Count = 512
    """The most tokens of the teacher's answers."""
    max_new_tokens: Count = 256
    """Of the student's answers to the test."""
    tokenizer: Literal["auto", "13a", "intl", "zh", "char"] = "auto"
    """How BLEU divides texts into words: as sacrebleu's 13a, and auto also scripts without spaces."""
    lora: LoraSpec = LoraSpec(rank=64, alpha=128)
    """The student's adapter."""
    learning_rate: Positive = DISTILLATION.learning_rate
    batch_size: Count = DISTILLATION.batch_size
    max_length: Count = 2048
    """Tokens of question and answer; longer rows are left out, and counted."""
    generation_batch_size: Count = 16
    """Texts at a time on this machine."""
    seed: Seed = 0
    """Of everything that is random."""

    def files(self) -> Mapping[str, str]:
        """Return the texts, and the receipt that names the system prompt."""
        named: dict[str, Any] = {"text": self.text, "seeds": self.seeds, "test": self.test}
        if self.prompt_from is not None:
            named["prompt_from"] = f"{self.prompt_from}/receipt.json"
        return {field: file for field, file in named.items() if isinstance(file, str)}

    def models(self) -> Mapping[str, str]:
        """Return the student, and whoever else is on this machine."""
        others = {"teacher": self.teacher, "judge": self.judge}
        return {"student": self.student} | {
            field: model.name for field, model in others.items() if model is not None and model.endpoint is None
        }

    def check(self, name: str) -> None:
        """Raise InputError unless the system prompt comes from one place."""
        if (self.prompt_from is None) == (self.system is None):
            raise InputError(f"{name}: prompt_from: must be given where system is not, and only there")

    def train(self, task: Task) -> dict[str, Any]:
        """Ask and answer questions, train the student on them, and score it before and after."""
        from rlhf_game.training_backends import find_checkpoint
        from rlhf_game.training_backends.trainers.self_training import Example, train_supervised

        check_installed()  # this and the student, before anybody is paid
        find_checkpoint(self.student, base=task.base)
        system = self._system(task.base)
        teacher = self._chat(self.teacher, task)
        judge = teacher if self.judge is None else self._chat(self.judge, task)
        test, before = read_examples(self.test, task.base), ModelSpec(name=self.student)
        asked = self._ask(teacher, task)
        task.watch("deduplicate", 0, 1)
        kept, way = deduplicate(asked, [one.question for one in test], self.questions, task.base)
        rows = self._answer(teacher, kept, system, task)
        if not rows:
            raise RunError(f"the teacher must answer questions, found no answer among {len(asked)} lines of it")
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        task.workspace.write(task.path / DATA, lines.encode())
        examples = [Example(row["question"], row["answer"]) for row in rows]
        trained = train_supervised(self._training(), examples, task.path / STUDENT, base=task.base, watch=task.watch)
        after = ModelSpec(name=str((task.path / STUDENT).resolve()))
        answers = {
            "teacher": self._test(teacher, test, system, task),
            "student before": self._test(
                teacher if self.teacher == before else self._chat(before, task), test, None, task
            ),
            "student after": self._test(self._chat(after, task), test, None, task),
        }
        judged = {
            who: judge_answers(judge, list(zip(test, said, strict=True)), self, task.watch)
            for who, said in answers.items()
        }
        check_readable(judge, judged["teacher"])
        origins = sorted({question.origin for question in asked})
        return {
            "kind": self.kind,
            "system": system,
            "questions": {
                "asked": len(asked),
                "kept": len(kept),
                "deduplicated_by": way,
                "by_origin": {origin: sum(question.origin == origin for question in kept) for origin in origins},
            },
            "training": {
                "examples": len(examples),
                "dropped_examples": trained.dropped,
                "steps": trained.steps,
                "first_loss": trained.losses[0],
                "last_loss": trained.losses[-1],
            },
            "scores": {who: score_answers(found, self.tokenizer) for who, found in judged.items()},
            "outputs": changed_outputs(
                [one.question for one in test], answers["student before"], answers["student after"]
            ),
        }

    def count_calls(self, task: Task) -> dict[str, Any]:
        """Return the account of what would still be asked, were no question to be dropped."""
        ledger = Ledger(None)

        def dry(model: ModelSpec) -> Chat:
            return dry_chat(model, task.base, task.path / CALLS, ledger, seed=self.seed)

        teacher, test = dry(self.teacher), read_examples(self.test, task.base)
        system = self._system(task.base)
        self._answer(teacher, self._ask(teacher, task), system, task)
        self._test(teacher, test, system, task)
        for when in ("before", "after"):
            self._test(dry(ModelSpec(name=self.student)), test, None, task, pretend=when)
        for who in ("teacher", "student before", "student after"):
            pairs = [(one, f"{who} " + "word" * self.max_new_tokens) for one in test]
            judge_answers(dry(self.judge or self.teacher), pairs, self)
        return ledger.report()

    def tables(self, metrics: dict[str, Any]) -> list[MetricsTable]:
        """Return what answers to the test are worth, before and after."""
        keys = ("bleu", "rouge1", "rouge2", "rougeL", "judge", "length_penalty", "score")
        rows = tuple((who, *(f"{scores[key]:.3f}" for key in keys)) for who, scores in metrics["scores"].items())
        header = ("answers of", "BLEU", "ROUGE-1", "ROUGE-2", "ROUGE-L", "judge", "length penalty", "score")
        counts = metrics["questions"]
        made = ((str(counts["asked"]), str(counts["kept"]), counts["deduplicated_by"]),)
        return [
            MetricsTable("Questions", ("asked", "kept", "deduplicated by"), made),
            MetricsTable("Answers to the test's questions", header, rows),
        ]

    def _chat(self, model: ModelSpec, task: Task) -> Chat:
        return open_chat(model, task.base, task.path / CALLS, seed=self.seed, batch_size=self.generation_batch_size)

    def _system(self, base: Path) -> str:
        return self.system or winning_prompt(base / str(self.prompt_from))

    def _ask(self, teacher: Chat, task: Task) -> list[Question]:
        rng = np.random.default_rng(self.seed)
        paragraphs = paragraphs_of(read_text(task.base / self.text))
        return ask_questions(teacher, paragraphs, read_texts(self.seeds, task.base), self.questions, rng, task.watch)

    def _answer(self, teacher: Chat, questions: Sequence[Question], system: str, task: Task) -> list[dict[str, str]]:
        """Return the rows of data.jsonl: the questions that got an answer, and the answers."""
        requests = [
            ask_once(_with_text(question), system, max_tokens=self.answer_tokens, pretend="word")
            for question in questions
        ]
        replies = teacher.ask(requests, "teacher", task.watch)
        return [
            {"question": question.text, "answer": reply.text, "origin": question.origin}
            for question, reply in zip(questions, replies, strict=True)
            if reply.text.strip()
        ]

    def _test(
        self, model: Chat, test: Sequence[ExampleSpec], system: str | None, task: Task, *, pretend: str = ""
    ) -> list[str]:
        """Return the answers to the test's questions: of the teacher under its system prompt, or of a student."""
        most = self.max_new_tokens if system is None else self.answer_tokens
        requests = [ask_once(one.question, system, max_tokens=most, pretend=pretend) for one in test]
        replies = model.ask(requests, "student" if system is None else "teacher", task.watch)
        return [reply.text for reply in replies]

    def _training(self) -> "SupervisedTraining":
        from rlhf_game.training_backends.trainers.self_training import SupervisedTraining

        how = self.optimization(self.lora, self.seed)
        return SupervisedTraining(Pretrained(self.student), how, max_length=self.max_length)


def winning_prompt(folder: Path) -> str:
    """Return the most probable system prompt of a run over prompts; ties go to the first.

    Raises InputError when the folder holds no such run.
    """
    path = folder / "receipt.json"
    receipt = parse_json(read_text(path), shown(str(path), 200))
    found = receipt.get("provenance", {}).get("system_prompts") if isinstance(receipt, dict) else None
    if not found:
        raise InputError(
            f"prompt_from: must be the folder of a finished run with outcomes prompts, found another at {folder}"
        )
    return str(max(found, key=lambda one: one["probability"])["text"])


def _with_text(question: Question) -> str:
    """Return what the teacher is asked: with the paragraph, where the question is about one."""
    return question.text if question.paragraph is None else f"Text:\n{question.paragraph}\n\nQuestion: {question.text}"
