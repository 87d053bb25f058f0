"""Kind ``distill``: what a teacher answers under a system prompt becomes a student without one (CourseGPT-zh)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np

from rlhf_game.chat import Chat, ask_once
from rlhf_game.errors import InputError
from rlhf_game.files.atomic import write_text
from rlhf_game.files.documents import parse_json, read_text, shown
from rlhf_game.files.schema import Name, Positive
from rlhf_game.runs.chats import CALLS, ModelSpec, SomeModel, open_chat
from rlhf_game.runs.prompts import Examples, ExampleSpec, JudgingFields, Texts, read_examples, read_texts
from rlhf_game.runs.prompts_judge import check_readable, judge_answers
from rlhf_game.training.data import Count, Seed
from rlhf_game.training.distill_questions import Question, QuestionsSpec, ask_questions, deduplicate, paragraphs_of
from rlhf_game.training.distill_scores import check_installed, score_answers
from rlhf_game.training.kinds import Table, Task, TrainingFields
from rlhf_game.training.reward_models import LoraSpec

if TYPE_CHECKING:
    from rlhf_game.training_backends.self_training import SupervisedTraining

DATA = "data.jsonl"
"""The questions and answers that the student learns, in the training's folder."""
STUDENT = "student"
"""The trained student, in the training's folder."""


@final
class DistillConfig(TrainingFields, JudgingFields):
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
    student: Name
    questions: QuestionsSpec = QuestionsSpec()
    answer_tokens: Count = 512
    max_new_tokens: Count = 256
    """Of the student's answers to the test."""
    tokenizer: Literal["13a", "intl", "zh", "char"] = "13a"
    """How sacrebleu divides texts into words."""
    lora: LoraSpec = LoraSpec(rank=64, alpha=128)
    epochs: Positive = 1.0
    max_steps: Count | None = None
    learning_rate: Positive = 1e-4
    batch_size: Count = 32
    max_length: Count = 2048
    save_steps: Count = 100
    generation_batch_size: Count = 16
    seed: Seed = 0

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
        from rlhf_game.training_backends.self_training import Example, train_supervised

        check_installed()  # this and the student, before anybody is paid
        find_checkpoint(self.student, base=task.base)
        system = self.system or winning_prompt(task.base / str(self.prompt_from))
        calls = task.path / CALLS
        teacher = self._chat(self.teacher, task)
        judge = teacher if self.judge is None else self._chat(self.judge, task)
        test, before = read_examples(self.test, task.base), ModelSpec(name=self.student)
        rows, counts = self._data(teacher, system, test, task)
        examples = [Example(row["question"], row["answer"]) for row in rows]
        trained = train_supervised(self._training(), examples, task.path / STUDENT, base=task.base, watch=task.watch)
        answers = {
            "teacher": self._answers(teacher, test, system, task),
            "student before": self._answers(
                teacher if self.teacher == before else self._chat(before, task), test, None, task
            ),
            "student after": self._answers(
                open_chat(ModelSpec(name=str((task.path / STUDENT).resolve())), task.base, calls, seed=self.seed),
                test, None, task,
            ),
        }  # fmt: skip
        check_readable(
            judge, judge_answers(judge, [(e, a) for e, a in zip(test, answers["teacher"], strict=True)], self)
        )
        return {
            "kind": self.kind,
            "system": system,
            "questions": counts,
            "training": {"examples": len(examples), "dropped_examples": trained.dropped, "steps": trained.steps,
                         "first_loss": trained.losses[0], "last_loss": trained.losses[-1]},
            "scores": {
                who: score_answers(said, test, judge, self, self.tokenizer, task.watch) for who, said in answers.items()
            },
        }  # fmt: skip

    def tables(self, metrics: dict[str, Any]) -> list[Table]:
        """Return what answers to the test are worth, before and after."""
        keys = ("bleu", "rouge1", "rouge2", "rougeL", "judge", "length_penalty", "score")
        rows = tuple((who, *(f"{scores[key]:.3f}" for key in keys)) for who, scores in metrics["scores"].items())
        header = ("answers of", "BLEU", "ROUGE-1", "ROUGE-2", "ROUGE-L", "judge", "length penalty", "score")
        counts = metrics["questions"]
        made = ((str(counts["asked"]), str(counts["kept"]), counts["deduplicated_by"]),)
        return [
            Table("Questions", ("asked", "kept", "deduplicated by"), made),
            Table("Answers to the test's questions", header, rows),
        ]

    def _chat(self, model: ModelSpec, task: Task) -> Chat:
        return open_chat(model, task.base, task.path / CALLS, seed=self.seed, batch_size=self.generation_batch_size)

    def _data(
        self, teacher: Chat, system: str, test: Sequence[ExampleSpec], task: Task
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return the rows of data.jsonl, which are written, and how many questions there were."""
        rng = np.random.default_rng(self.seed)
        paragraphs = paragraphs_of(read_text(task.base / self.text))
        seeds = read_texts(self.seeds, task.base)
        asked = ask_questions(teacher, paragraphs, seeds, self.questions, rng, task.watch)
        task.watch("deduplicate", 0, 1)
        kept, way = deduplicate(asked, [one.question for one in test], self.questions, task.base)
        if not kept:
            raise InputError(f"text: must lead to questions, found none among {len(asked)} lines of the teacher")
        requests = [
            ask_once(_with_text(question), system, max_tokens=self.answer_tokens, pretend="word") for question in kept
        ]
        replies = teacher.ask(requests, "teacher", task.watch)
        rows = [
            {"question": question.text, "answer": reply.text, "origin": question.origin}
            for question, reply in zip(kept, replies, strict=True)
            if reply.text.strip()
        ]
        if not rows:
            raise InputError(f"teacher: must answer, found {len(kept)} empty answers")
        write_text(task.path / DATA, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        origins = sorted({question.origin for question in asked})
        return rows, {
            "asked": len(asked),
            "kept": len(kept),
            "deduplicated_by": way,
            "by_origin": {origin: sum(question.origin == origin for question in kept) for origin in origins},
        }

    def _answers(self, model: Chat, test: Sequence[ExampleSpec], system: str | None, task: Task) -> list[str]:
        most = self.answer_tokens if system is not None else self.max_new_tokens
        requests = [ask_once(one.question, system, max_tokens=most) for one in test]
        return [reply.text for reply in model.ask(requests, "teacher" if system is not None else "student", task.watch)]

    def _training(self) -> "SupervisedTraining":
        from rlhf_game.training_backends import Lora
        from rlhf_game.training_backends.self_training import SupervisedTraining

        targets = None if self.lora.targets is None else tuple(self.lora.targets)
        return SupervisedTraining(
            model=self.student,
            lora=Lora(self.lora.rank, self.lora.alpha, targets, self.lora.dropout),
            epochs=self.epochs,
            max_steps=self.max_steps,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            max_length=self.max_length,
            save_steps=self.save_steps,
            seed=self.seed,
        )


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
