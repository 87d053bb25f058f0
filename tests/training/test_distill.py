"""Distillation: questions from a text, answers under the winning prompt, a student, and scores before and after."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_game import InputError
from rlhf_game.rewards.overlap import rouge
from rlhf_game.training import read_training, train
from rlhf_game.training.recipes.distill import winning_prompt
from rlhf_game.training.recipes.distill_questions import Question, QuestionsSpec, deduplicate
from rlhf_game.training.recipes.distill_scores import bleu
from tests import tiny
from tests.cli.runner import run as command
from tests.servers import chatting, serving

Write = Callable[..., Path]
SYSTEM = "You are brief."
TEST = ("Is good so?", "Was tea so?", "Why is tea not so?")
TEXT = "Good is good.\n\nBad is bad,\nand no is no.\n"


def answer_text(document: dict[str, Any]) -> str:
    """A teacher and a judge: it asks two questions about a text, and answers in the student's words."""
    system = next((turn["content"] for turn in document["messages"] if turn["role"] == "system"), "")
    user = document["messages"][-1]["content"]
    if system.startswith("You grade"):
        return "Grade: 7"
    if "Questions of the kind" in user:
        first = user.split()[1]
        return f"1. Is {first} so?\n2. Why is {first} not otherwise?\n3. Is {first} so?"
    if "new questions about related parts" in user:
        asked = [line.removeprefix("- ") for line in user.splitlines() if line.startswith("- ")]
        further = "Further" if asked[0].startswith("Beyond") else "Beyond"
        return "\n".join(f"{further} that, {text}" for text in asked)
    return "good yes thanks" if system == SYSTEM else "no"


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_language_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def write(tmp_path: Path, student: Path) -> Write:
    (tmp_path / "text.txt").write_text(TEXT)

    def write(url: str, **changes: Any) -> Path:
        document = {
            "kind": "distill", "text": "text.txt", "seeds": ["What is yes?", "Why no?", "Is it now?"],
            "test": [{"question": one, "answer": "good yes"} for one in TEST], "system": SYSTEM,
            "teacher": {"name": "t", "endpoint": {"url": f"{url}/v1", "key_env": "DISTILL_KEY"}},
            "student": str(student),
            "questions": {"per_paragraph": 3, "rounds": 2, "deduplicate": "jaccard", "threshold": 0.99},
            "max_new_tokens": 4, "max_length": 64, "epochs": 8.0, "batch_size": 4, "learning_rate": 0.02,
            "lora": {"rank": 4, "alpha": 8, "targets": ["q_proj", "v_proj"]},
        }  # fmt: skip
        content = {key: value for key, value in {**document, **changes}.items() if value is not None}
        (tmp_path / "distill.json").write_text(json.dumps(content))
        return tmp_path / "distill.json"

    return write


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILL_KEY", "sk-distilled-secret")


def answering(document: dict[str, Any], number: int) -> tuple[int, Any]:
    return chatting(lambda asked: answer_text(document))(document, number)


def test_a_student_learns_what_the_teacher_answers_under_the_prompt(write: Write, tmp_path: Path) -> None:
    with serving(answering) as (url, seen):
        dry = command("train", write(url), "-o", tmp_path / "out", "--json", "--dry-run")
        assert (dry.code, dry.err, seen, (tmp_path / "out").exists()) == (0, "", [], False)
        result = command("train", write(url), "-o", tmp_path / "out", "--json")
        assert (result.code, result.err) == (0, "")
        report = json.loads((tmp_path / "out/calls/report.json").read_text())
        dry_rows, made_rows = json.loads(dry.out)["by"], report["by"]
        counted, made = (
            {
                kind: sum(row["calls"] for row in rows if row["purpose"] == kind)
                for kind in ("teacher", "student", "judge")
            }
            for rows in (dry_rows, made_rows)
        )
        assert counted["teacher"] >= made["teacher"]  # no question is dropped in a dry run
        assert (counted["judge"], counted["student"]) == (made["judge"], made["student"]) == (36, 6)
        asked = len(seen)
        metrics = json.loads(result.out)
        (tmp_path / "out/metrics.json").unlink()
        again = command("train", tmp_path / "distill.json", "-o", tmp_path / "out", "--json")
        assert again.out == result.out
        assert len(seen) == asked  # everything was kept
    rows = [json.loads(line) for line in (tmp_path / "out/data.jsonl").read_text().splitlines()]
    questions = [row["question"] for row in rows]
    assert len(set(questions)) == len(questions)
    assert "Is good so?" not in questions  # of the test
    assert {"Why is Good not otherwise?", "Is Bad so?", "Beyond that, Is Bad so?"} <= set(questions)
    assert {row["origin"] for row in rows} == {"text", "expansion 1", "expansion 2"}
    assert {row["answer"] for row in rows} == {"good yes thanks"}
    answers = [one for one in seen if one["messages"][0]["content"] == SYSTEM]
    with_text = [one for one in answers if one["messages"][1]["content"].startswith("Text:\n")]
    assert len(with_text) == metrics["questions"]["by_origin"]["text"] == 3
    assert metrics["questions"]["deduplicated_by"] == "jaccard"
    assert metrics["training"]["last_loss"] < metrics["training"]["first_loss"] / 2
    scores = metrics["scores"]
    assert scores["student after"]["rouge1"] > scores["student before"]["rouge1"]
    changed = metrics["outputs"]
    for when in ("before", "after"):
        overlap = rouge([row[when] for row in changed], ["good yes"] * len(changed))["rouge1"]
        assert scores[f"student {when}"]["rouge1"] == pytest.approx(overlap.mean())
    assert scores["teacher"]["rouge1"] == pytest.approx(2 * (2 / 3) * 1 / (2 / 3 + 1))
    for one in scores.values():
        assert one["judge"] == 7.0
        assert one["score"] == pytest.approx(one["judge"] - one["length_penalty"])
    assert scores["teacher"]["length_penalty"] == pytest.approx(0.5 * (len("good yes thanks") / len("good yes") - 1))
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_file() or b"sk-distilled-secret" not in path.read_bytes()


def test_the_papers_examples_and_rounds(write: Write, tmp_path: Path) -> None:
    fields = read_training(write("http://x")).fields
    assert (fields.learning_rate, fields.batch_size) == (0.02, 4)
    plain = write("http://x", learning_rate=None, batch_size=None, lora=None, max_length=None, questions=None)
    known: Any = read_training(plain).fields
    assert (known.lora.rank, known.lora.alpha, known.learning_rate, known.batch_size) == (64, 128, 1e-4, 32)
    assert (known.max_length, known.alpha) == (2048, 0.5)
    assert (known.questions.seed_examples, known.questions.own_examples) == (6, 2)
    assert (known.questions.style_examples, known.questions.rounds) == (3, 2)


def test_the_prompt_may_come_from_a_run(write: Write, tmp_path: Path) -> None:
    (tmp_path / "game").mkdir()
    found = [{"text": "worse", "probability": 0.4}, {"text": SYSTEM, "probability": 0.6}]
    (tmp_path / "game/receipt.json").write_text(json.dumps({"provenance": {"system_prompts": found}}))
    assert winning_prompt(tmp_path / "game") == SYSTEM
    with serving(answering) as (url, _):
        path = write(url, system=None, prompt_from="game", steps=1, questions={"rounds": 0, "deduplicate": "jaccard"})
        done = train(read_training(path), tmp_path / "out")
        assert done.metrics["system"] == SYSTEM
        assert "game/receipt.json" in json.loads((tmp_path / "out/config.json").read_text())["files"]
        assert [table.title for table in done.tables] == ["Questions", "Answers to the test's questions"]
    (tmp_path / "game/receipt.json").write_text(json.dumps({"provenance": {}}))
    with pytest.raises(InputError, match="prompt_from: must be the folder of a finished run with outcomes prompts"):
        winning_prompt(tmp_path / "game")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_from": "game"}, "prompt_from: must be given where system is not"),
        ({"system": None}, "prompt_from: must be given where system is not"),
        ({"text": "none.txt"}, "text: must name a file"),
        ({"student": "./nowhere"}, "./nowhere must be an existing folder"),
        ({"seeds": []}, "seeds"),
        ({"questions": {"threshold": 0.0}}, "questions.threshold"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], message: str, write: Write, tmp_path: Path) -> None:
    result = command("train", write("http://127.0.0.1:9", **changes), "-o", tmp_path / "out")
    assert result.code == 2
    assert message in result.err


def test_words_say_which_questions_are_alike() -> None:
    asked = [Question(text, "text") for text in ("What is tea?", "what IS tea", "What is good tea?", "Why?", "Who?")]
    spec = QuestionsSpec(deduplicate="jaccard", threshold=0.75)
    kept, way = deduplicate(asked, ["Who?"], spec, Path())
    assert ([one.text for one in kept], way) == (["What is tea?", "Why?"], "jaccard")  # 3 of 4 words are shared
    kept, _ = deduplicate(asked, [], QuestionsSpec(deduplicate="jaccard", threshold=0.76), Path())
    assert [one.text for one in kept] == ["What is tea?", "What is good tea?", "Why?", "Who?"]


def test_without_the_embedder_words_are_compared_unless_embeddings_are_wanted() -> None:
    asked = [Question("What is tea?", "text"), Question("What is tea?", "text")]
    kept, way = deduplicate(asked, [], QuestionsSpec(embedder="./nowhere"), Path())
    assert (len(kept), way) == (1, "jaccard")
    with pytest.raises(InputError, match="nowhere"):
        deduplicate(asked, [], QuestionsSpec(embedder="./nowhere", deduplicate="embeddings"), Path())


@pytest.mark.weights
def test_embeddings_see_a_paraphrase_that_words_do_not() -> None:
    texts = ("How long do I steep green tea?", "For how many minutes should green tea be steeped?", "What is a modem?")
    asked = [Question(text, "text") for text in texts]
    kept, way = deduplicate(asked, [], QuestionsSpec(threshold=0.8), Path())
    assert ([one.text for one in kept], way) == ([texts[0], texts[2]], "embeddings")
    assert len(deduplicate(asked, [], QuestionsSpec(deduplicate="jaccard"), Path())[0]) == 3


def test_overlap_scores_are_those_by_hand() -> None:
    found = rouge(["the cat sat", "a b"], ["the cat ran away", "a b"])
    assert found["rouge1"].tolist() == pytest.approx([2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4), 1])
    assert found["rouge2"].tolist() == pytest.approx([2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3), 1])
    assert found["rougeL"].tolist() == found["rouge1"].tolist()
    precisions = [5 / 6, 3 / 5, 1 / 4, 1 / 6]  # of n-grams; no four agree: sacrebleu counts half of one in 3
    by_hand = 100 * float(np.prod(precisions)) ** 0.25
    assert bleu(["the cat sat on the mat"], ["the cat sat by the mat"]) == pytest.approx(by_hand)
    assert bleu(["a b c d"], ["a b c d"]) == pytest.approx(100)


def test_bleu_reads_scripts_without_spaces_and_is_sacrebleus_zh_in_chinese() -> None:
    chinese = ["今天天气很好,我们去公园散步。", "水在一百度沸腾。"]
    thai = ["วันนี้อากาศดีมาก"]
    assert bleu(chinese, chinese) == bleu(thai, thai) == pytest.approx(100)
    assert bleu(chinese, chinese, "13a") < 1  # what it was: one long word each
    others = ["今天天气不好,我们不去公园。", "水在九十度不沸腾。"]
    assert bleu(chinese, others) == pytest.approx(bleu(chinese, others, "zh"))
    assert 5 < bleu(chinese, others) < 60
    english = (["The cat sat on the mat, twice."], ["The cat sat by the mat, twice!"])
    assert bleu(*english) == bleu(*english, "13a")
