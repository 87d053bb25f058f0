"""Prompts that are conversations: in files, in Python, as TRL's reward functions get them, to the end of a run."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from rlhf_game import KL, InputError
from rlhf_game.files.conversations import Conversation, Message, dialogue
from rlhf_game.files.prompt_rows import prompts_of
from rlhf_game.outcomes import read_config, run
from rlhf_game.outcomes.candidates import Candidates
from rlhf_game.outcomes.prompts.prompts_spec import read_texts
from rlhf_game.rewards.calibration import Unit
from rlhf_game.rewards.mix import Mix, MixPart
from rlhf_game.training_backends import load_language_model
from tests import tiny
from tests.cli.runner import run as command
from tests.training_backends.test_templates import CHATML, GEMMA, WORDS

Write = Callable[..., Path]
SYSTEM = {"role": "system", "content": "please"}
ASKED = [SYSTEM, {"role": "user", "content": "good yes"}]
LONGER = [*ASKED, {"role": "assistant", "content": "maybe"}, {"role": "user", "content": "no"}]
SEEN = """
import json

def seen(prompts, completions, **columns):
    with open({place!r}, "w") as file:
        json.dump([prompts, completions], file)
    return [len(c[0]["content"].split()) / 10 for c in completions]
"""


def assistant_turn(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def test_a_run_over_conversations_gives_rewards_what_trl_gives_them(write: Write, tmp_path: Path) -> None:
    """The model reads every turn as its template writes it, and a reward function gets messages."""
    model = tiny.save_language_model(tmp_path / "chatml", chat=CHATML, more=WORDS)
    (tmp_path / "seen.py").write_text(SEEN.format(place=str(tmp_path / "seen.json")))
    groups = [
        {"name": "own", "reward": {"python": "seen.py:seen"}},
        {"name": "mixed", "reward": {"mix": [{"reward": {"python": "seen.py:seen"}}, {"reward": {"brevity": 5}}]}},
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": turns}) + "\n" for turns in (ASKED, LONGER)))
    config = write(model=str(model), prompts="prompts.jsonl", groups=groups)
    configuration = read_config(config)
    assert configuration.source.prompts[1].messages[0] == Message("system", "please")  # type: ignore[union-attr]
    done = run(configuration, tmp_path / "out")
    prompts, completions = json.loads((tmp_path / "seen.json").read_text())
    assert prompts[0] == ASKED
    assert prompts[-1] == LONGER
    assert all(set(one[0]) == {"role", "content"} and len(one) == 1 for one in completions)
    table = parquet.read_table(tmp_path / "out" / "candidates.parquet")
    assert table["prompt"].to_pylist()[-1] == "System: please\n\nUser: good yes\n\nAssistant: maybe\n\nUser: no"
    loaded = load_language_model(str(model), device="cpu")
    encoded = [loaded.encode_prompt(prompt) for prompt in configuration.source.prompts]
    assert loaded.tokenizer.convert_ids_to_tokens(encoded[0])[:3] == ["<start>", "system", "please"]
    assert done.receipt.groups[0].name == "own"
    assert command("report", tmp_path / "out", "-o", tmp_path / "page").code == 0


@pytest.mark.parametrize("prompts", [[ASKED, LONGER], [{"prompt": ASKED}, {"prompt": LONGER}]])
def test_lists_of_messages_may_stand_in_a_configuration(prompts: Any, tmp_path: Path) -> None:
    found, _ = prompts_of(prompts, tmp_path)
    assert [len(prompt.messages) for prompt in found] == [2, 4]  # type: ignore[union-attr]
    (tmp_path / "p.json").write_text(json.dumps(prompts))
    assert prompts_of("p.json", tmp_path)[0] == found


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ([ASKED, "good"], "prompts[1]: must be text or messages as prompts[0] is, found the other"),
        ([[{"role": "user"}]], "prompts[0][0].content: must be text (it may be null beside tool_calls only)"),
        ([[SYSTEM]], "prompts[0]: must end with a turn to be answered, found a system turn"),
        ([[{"role": "user", "content": " "}]], "prompts[0]: must be text with something in it"),
        ([[{"role": "user", "content": [{"type": "image"}]}]], "prompts[0][0].content[0]: must be a part of type text"),
    ],
)
def test_what_is_no_conversation_is_one_line(write: Write, tmp_path: Path, prompts: Any, said: str) -> None:
    result = command("run", write(prompts=prompts), "-o", tmp_path / "out")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert said in result.err


def test_a_system_turn_that_the_model_refuses_is_one_line_and_folded_where_that_is_declared(
    write: Write, tmp_path: Path
) -> None:
    model = str(tiny.save_language_model(tmp_path / "gemma", chat=GEMMA, more=WORDS))
    groups = [{"name": "a", "reward": {"brevity": 5}}]
    for changes in ({"prompts": [ASKED]}, {"prompts": ["good"], "system": "please"}):
        result = command(
            "run", write(model=model, groups=groups, **changes), "-o", tmp_path / f"refused-{len(changes)}"
        )
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert "prompts[0]: the model's chat template must take" in result.err
        assert "say fold_system: true" in result.err
        declared = write(model={"name": model, "fold_system": True}, groups=groups, **changes)
        assert command("run", declared, "-o", tmp_path / f"folded-{len(changes)}").code == 0


def test_a_judge_on_this_machine_works_with_a_model_that_refuses_system_turns(write: Write, tmp_path: Path) -> None:
    words = (*WORDS, *map(str, range(10)))
    model = str(tiny.save_language_model(tmp_path / "gemma", chat=GEMMA, more=words))
    judge = {"judge": {"model": model, "instruction": "yes", "low": 0, "high": 9}}
    config = write(
        model={"name": model, "fold_system": True}, prompts=[ASKED], groups=[{"name": "a", "reward": judge}],
        outcomes={"kind": "candidates", "per_prompt": 2, "max_new_tokens": 2},
    )  # fmt: skip
    result = command("run", config, "-o", tmp_path / "out")
    assert result.code == 0, result.err


def test_candidates_in_python_may_be_messages() -> None:
    calls: list[Any] = []

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        calls.append((prompts, completions))
        return [float(len(completion[0]["content"])) for completion in completions]

    responses = [[assistant_turn("a"), assistant_turn("bb"), "bb"], ["c"]]
    space = Candidates([ASKED, LONGER], responses, KL(0.1))
    assert [[draft.text for draft in row] for row in space.drafts] == [["a", "bb"], ["c"]]
    sheets = space.read(reward)
    assert calls == [([ASKED, ASKED, LONGER], [assistant_turn("a"), assistant_turn("bb"), assistant_turn("c")])]
    assert np.concatenate([sheet.ravel() for sheet in sheets]).tolist() == [1.0, 2.0, 1.0]
    plain = Candidates(["q"], [["a"]], KL(0.1))
    plain.read(lambda prompts, completions, **columns: calls.append((prompts, completions)) or [0.0])
    assert calls[-1] == (["q"], ["a"])  # texts stay texts


def test_a_mix_hands_conversations_on() -> None:
    calls: list[Any] = []

    def part(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        calls.append((prompts, completions))
        return [0.5] * len(completions)

    Mix((MixPart(part, Unit()),))(prompts=[ASKED], completions=[assistant_turn("a")])
    assert calls == [([ASKED], [assistant_turn("a")])]


def test_a_line_ends_at_a_newline_only(tmp_path: Path) -> None:
    """Line and paragraph separators, next line and form feed stand inside of prompts."""
    lines = ["one\u2028two", "three\u0085four", "five\x0csix", "seven\u2029eight\x0b\x1cnine"]
    for end in ("\n", "\r\n"):
        (tmp_path / "p.txt").write_bytes(end.join([*lines, "", "last"]).encode())
        assert prompts_of("p.txt", tmp_path)[0] == (*lines, "last")
        assert read_texts("p.txt", tmp_path) == [*lines, "last"]


def test_a_conversation_is_told_as_a_transcript() -> None:
    turns = Conversation((Message("system", "please"), Message("user", "good")))
    assert str(turns) == "System: please\n\nUser: good"
    assert str(Conversation(turns.messages[1:])) == "good"
    with pytest.raises(InputError, match="must not be given where a prompt has a system turn of its own"):
        dialogue(turns, "please")
