"""Every layout of TRL's datasets, and what else is about, gives the one prompt and the two responses that it means."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_game import InputError
from rlhf_game.files.conversations import Conversation, Message, Text, dialogue
from rlhf_game.files.layouts import exchange_of, pair_of
from rlhf_game.files.preferences import preferences_of, read_preferences
from rlhf_game.training.demonstrations import DemonstrationSpec, read_demonstrations

NAMES = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
ASKED, GOOD, BAD = "What is 1?", "It is 1.", "It is 2."


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


SYSTEM = {"role": "system", "content": "Be brief."}
EARLIER = [user("What is 0?"), assistant("It is 0.")]
ONE = Conversation((Message("user", ASKED),))
WHOLE = Conversation(
    (Message("system", "Be brief."), Message("user", "What is 0?"), Message("assistant", "It is 0."), *ONE.messages)
)
HISTORY = Conversation(WHOLE.messages[1:])

LAYOUTS: dict[str, tuple[dict[str, Any], Text]] = {
    "texts": ({"prompt": ASKED, "chosen": GOOD, "rejected": BAD}, ASKED),
    "texts, implicit prompt": (
        {"chosen": "The number after 0 is 1.", "rejected": "The number after 0 is 2."}, "The number after 0 is"
    ),
    "messages": ({"prompt": [user(ASKED)], "chosen": [assistant(GOOD)], "rejected": [assistant(BAD)]}, ONE),
    "messages, implicit prompt": (
        {"chosen": [user(ASKED), assistant(GOOD)], "rejected": [user(ASKED), assistant(BAD)]}, ONE
    ),
    "a prompt and whole conversations (ultrafeedback_binarized)": (
        {"prompt": ASKED, "chosen": [user(ASKED), assistant(GOOD)], "rejected": [user(ASKED), assistant(BAD)]}, ASKED
    ),
    "a prompt and whole conversations of many turns": (
        {
            "prompt": "What is 0?",
            "chosen": [SYSTEM, *EARLIER, user(ASKED), assistant(GOOD)],
            "rejected": [SYSTEM, *EARLIER, user(ASKED), assistant(BAD)],
        },
        WHOLE,
    ),
    "messages and whole conversations": (
        {
            "prompt": [SYSTEM, *EARLIER, user(ASKED)],
            "chosen": [SYSTEM, *EARLIER, user(ASKED), assistant(GOOD)],
            "rejected": [SYSTEM, *EARLIER, user(ASKED), assistant(BAD)],
        },
        WHOLE,
    ),
    "messages and texts": ({"prompt": [SYSTEM, *EARLIER, user(ASKED)], "chosen": GOOD, "rejected": BAD}, WHOLE),
    "one whole, one not": (
        {"prompt": ASKED, "chosen": [user(ASKED), assistant(GOOD)], "rejected": [assistant(BAD)]}, ASKED
    ),
    "history of pairs": (
        {"history": [["What is 0?", "It is 0."]], "prompt": ASKED, "chosen": GOOD, "rejected": BAD}, HISTORY
    ),
    "history of messages": (
        {"history": [SYSTEM, *EARLIER], "prompt": ASKED, "chosen": GOOD, "rejected": BAD}, WHOLE
    ),
    "no history": ({"history": [], "prompt": ASKED, "chosen": GOOD, "rejected": BAD}, ASKED),
    "parts of text": (
        {
            "prompt": [{"role": "user", "content": [part("What is "), part("1?")]}],
            "chosen": [{"role": "assistant", "content": [part(GOOD)]}],
            "rejected": [{"role": "assistant", "content": [part(BAD)]}],
        },
        ONE,
    ),
    "HH": (
        {
            "chosen": "\n\nHuman: What is 0?\n\nAssistant: It is 0.\n\nHuman: What is 1?\n\nAssistant: It is 1.",
            "rejected": "\n\nHuman: What is 0?\n\nAssistant: It is 0.\n\nHuman: What is 1?\n\nAssistant: It is 2.",
        },
        HISTORY,
    ),
    "HH with an explicit prompt": (
        {
            "prompt": "\n\nHuman: What is 0?\n\nAssistant: It is 0.\n\nHuman: What is 1?\n\nAssistant:",
            "chosen": " It is 1.",
            "rejected": " It is 2.",
        },
        HISTORY,
    ),
    "nulls of parquet": (
        {
            "prompt": [{**user(ASKED), "tool_calls": None}], "history": None, "split": None, "tools": None,
            "chosen": [{**assistant(GOOD), "tool_calls": None}], "rejected": [{**assistant(BAD), "tool_calls": None}],
        },
        ONE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_prompt_and_both_responses(name: str) -> None:
    row, prompt = LAYOUTS[name]
    found, chosen, rejected = pair_of(row, "row 1", NAMES)
    assert found == prompt
    wanted = ("1.", "2.") if "The number" in str(row["chosen"]) else (GOOD, BAD)
    assert (str(chosen).strip(), str(rejected).strip()) == wanted
    assert isinstance(chosen, str)
    assert isinstance(rejected, str)


@pytest.mark.parametrize(
    "name",
    [
        "texts",
        "texts, implicit prompt",
        "messages",
        "messages, implicit prompt",
        "a prompt and whole conversations (ultrafeedback_binarized)",
        "a prompt and whole conversations of many turns",
    ],
)
def test_trl_reads_the_same_where_it_reads_the_layout(name: str) -> None:
    """An independent reading: TRL's own functions, on what they are made for."""
    from trl.data_utils import maybe_extract_prompt

    row, _ = LAYOUTS[name]
    theirs = maybe_extract_prompt(row)
    ours = pair_of(row, "row 1", NAMES)
    for side, text in zip(("prompt", "chosen", "rejected"), ours, strict=True):
        if isinstance(theirs[side], str):
            assert str(text) == theirs[side]
        elif side == "prompt":
            assert dialogue(text).document() == theirs[side]
        else:
            assert [assistant(str(text))] == theirs[side]


def test_a_response_that_calls_tools_stays_a_message_and_null_content_is_no_text() -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"b": 1, "a": 0}}}
    row = {
        "prompt": [user(ASKED)],
        "chosen": [{"role": "assistant", "content": None, "tool_calls": [call]}],
        "rejected": [assistant(BAD)],
        "tools": [{"type": "function", "function": {"name": "add"}}],
    }
    prompt, chosen, rejected = pair_of(row, "row 1", NAMES)
    assert isinstance(prompt, Conversation)
    assert prompt.tool_schemas() == row["tools"]
    assert pair_of({**row, "tools": json.dumps(row["tools"])}, "row 1", NAMES)[0] == prompt
    assert isinstance(chosen, Conversation)
    assert chosen.document() == [{"role": "assistant", "content": "", "tool_calls": [call]}]
    assert rejected == BAD


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"question": ASKED, "chosen": GOOD, "rejected": BAD}, Conversation((*WHOLE.messages[:1], *ONE.messages))),
        ({"question": [SYSTEM, *EARLIER, user(ASKED)], "chosen": GOOD, "rejected": BAD}, WHOLE),
        (
            {"question": ASKED, "chosen": [user(ASKED), assistant(GOOD)], "rejected": [user(ASKED), assistant(BAD)]},
            Conversation((*WHOLE.messages[:1], *ONE.messages)),
        ),
        (
            {
                "question": ASKED,
                "chosen": [SYSTEM, user(ASKED), assistant(GOOD)],
                "rejected": [SYSTEM, user(ASKED), assistant(BAD)],
            },
            Conversation((*WHOLE.messages[:1], *ONE.messages)),
        ),
    ],
)
def test_a_system_turn_in_a_field_of_its_own_is_read_where_it_is_named(row: dict[str, Any], prompt: Text) -> None:
    """As in Orca's pairs: {system, question, chosen, rejected}."""
    names = {**NAMES, "prompt": "question", "system": "system"}
    assert pair_of({**row, "system": SYSTEM["content"]}, "row 1", names) == (prompt, GOOD, BAD)
    assert pair_of({"question": ASKED, "chosen": GOOD, "rejected": BAD, "system": ""}, "row 1", names)[0] == ASKED
    with pytest.raises(InputError, match="row 1: system: must be given, found only the fields"):
        pair_of(row, "row 1", names)
    other = [{"role": "system", "content": "Be long."}, user(ASKED)]
    with pytest.raises(InputError, match="row 1: system: must not be given where a prompt has a system turn of"):
        pair_of({**row, "question": other, "chosen": GOOD, "rejected": BAD, "system": "Be brief."}, "row 1", names)


def test_responses_of_several_turns_keep_them() -> None:
    row = {
        "chosen": [user("a"), assistant("b"), user("c"), assistant("d")],
        "rejected": [user("a"), assistant("e"), user("c"), assistant("f")],
    }
    prompt, chosen, _ = pair_of(row, "row 1", NAMES)
    assert prompt == Conversation((Message("user", "a"),))
    assert isinstance(chosen, Conversation)
    assert [turn.role for turn in chosen.messages] == ["assistant", "user", "assistant"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"chosen": [{"role": "assistant", "content": None}]},
            "chosen[0].content: must be text (it may be null beside",
        ),
        ({"chosen": [{"role": "bot", "content": "a"}]}, "chosen[0].role: must be one of system, developer, user"),
        ({"chosen": [{"content": "a"}]}, "chosen[0].role: must be one of"),
        ({"chosen": []}, "chosen: must be text or messages, found a list of 0"),
        ({"chosen": ["a"]}, "chosen[0]: must be a message with role and content, found the text"),
        (
            {"chosen": [{"role": "assistant", "content": [{"type": "image"}]}]},
            "chosen[0].content[0]: must be a part of",
        ),
        ({"chosen": [assistant("")]}, "chosen: must be text with something in it"),
        ({"chosen": [user("Who?"), assistant("I.")]}, "chosen: must be a response to the prompt, or repeat it"),
        ({"history": [["a"]]}, "history[0]: must be a pair of texts"),
        ({"history": "a"}, "history: must be a list of [user, assistant] pairs or of messages"),
        ({"prompt": None}, "prompt: must be text or messages, found nothing"),
        ({"prompt": [SYSTEM]}, "prompt: must end with a turn to be answered, found a system turn"),
        ({"tools": "hello"}, "prompt: tools: must be a list of JSON schemas, or its JSON text, found the text"),
        ({"tools": [1]}, "prompt: tools: must be a list of JSON schemas"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs: must not be here"),
        ({"chosen": [{**assistant("a"), "tool_calls": [float("nan")]}]}, "chosen[0]: must hold plain JSON values"),
    ],
)
def test_what_is_no_conversation_is_one_line_that_names_the_field(change: dict[str, Any], said: str) -> None:
    row = {"prompt": ASKED, "chosen": GOOD, "rejected": BAD, **change}
    with pytest.raises(InputError) as caught:
        pair_of(row, "p.jsonl: line 3", NAMES)
    assert str(caught.value).startswith(f"p.jsonl: line 3: {said}")
    assert "\n" not in str(caught.value)


def test_without_a_prompt_responses_must_share_one() -> None:
    with pytest.raises(InputError, match="row 1: prompt: must be given, or chosen and rejected begin with it"):
        pair_of({"chosen": "blue", "rejected": "black"}, "row 1", NAMES)
    with pytest.raises(InputError, match="row 1: question: must be given, found only the fields chosen"):
        pair_of({"chosen": "The sky", "rejected": "The sea"}, "row 1", {**NAMES, "prompt": "question"})


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": ASKED, "completion": GOOD}, ASKED),
        ({"prompt": [SYSTEM, *EARLIER, user(ASKED)], "completion": [assistant(GOOD)]}, WHOLE),
        ({"prompt": [SYSTEM, *EARLIER, user(ASKED)], "completion": GOOD}, WHOLE),
        ({"messages": [SYSTEM, *EARLIER, user(ASKED), assistant(GOOD)]}, WHOLE),
        ({"prompt": ASKED, "completion": [user(ASKED), assistant(GOOD)]}, ASKED),
        (
            {"messages": [user(ASKED), assistant(GOOD)], "tools": [{"type": "function"}]},
            Conversation(ONE.messages, '[{"type": "function"}]'),
        ),
    ],
)
def test_demonstrations_come_in_trls_layouts_too(row: dict[str, Any], prompt: Text) -> None:
    assert exchange_of(row, "row 1", {"prompt": "prompt", "completion": "completion"}) == (prompt, GOOD)


def test_rows_without_a_split_among_rows_with_one_are_trained_on_and_not_dropped(tmp_path: Path) -> None:
    """Of 24 rows one was trained on."""
    pairs: list[dict[str, Any]] = [{"prompt": f"{k}?", "chosen": "a", "rejected": "b"} for k in range(24)]
    pairs[0]["split"], pairs[1]["split"] = "train", "test"
    found = preferences_of(((f"row {k}", row) for k, row in enumerate(pairs)), "here", "")
    train, test = found.held_out(0.5, np.random.default_rng(0))
    assert (len(train), len(test)) == (23, 1)
    rows = [{"prompt": row["prompt"], "completion": "a", "split": row.get("split")} for row in pairs]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    read = read_demonstrations(DemonstrationSpec(file="d.jsonl"), tmp_path, 0)
    assert (len(read.training), len(read.test)) == (23, 1)


@pytest.mark.skipif("RLHF_GAME_DATA" not in os.environ, reason="needs RLHF_GAME_DATA, the folder of real data")
def test_real_transcripts_are_the_conversations_that_they_were_made_of() -> None:
    """HH's own layout, put together again from rows that keep their turns apart, is read as the same pairs."""
    with gzip.open(Path(os.environ["RLHF_GAME_DATA"]) / "helpful.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    checked = 0
    for row in rows:
        turns = [said.strip() for pair in row["history"] for said in pair] + [row["prompt"].strip()]
        if any("Human:" in said or "Assistant:" in said for said in [*turns, row["chosen"], row["rejected"]]):
            continue  # a transcript cannot hold its own marks
        told = "".join(f"\n\n{('Human', 'Assistant')[k % 2]}: {said}" for k, said in enumerate(turns))
        sides = {side: f"{told}\n\nAssistant: {row[side]}" for side in ("chosen", "rejected")}
        prompt, chosen, rejected = pair_of(sides, "row", NAMES)
        assert [turn.content for turn in dialogue(prompt).messages] == turns
        assert (chosen, rejected) == (row["chosen"].strip(), row["rejected"].strip())
        checked += 1
    assert checked > 1700


def test_a_response_that_begins_with_human_is_no_transcript() -> None:
    """HH has such rows: what a crowdworker's model said, without any turn of an assistant."""
    row = {"prompt": ASKED, "chosen": GOOD, "rejected": "Human:  Let us see what I know."}
    assert pair_of(row, "row", NAMES) == (ASKED, GOOD, "Human:  Let us see what I know.")


@pytest.mark.skipif("RLHF_GAME_DATA" not in os.environ, reason="needs RLHF_GAME_DATA, the folder of real data")
@pytest.mark.parametrize(("name", "least"), [("helpful", 1800), ("harmless", 1800), ("gpt4_judge", 3900)])
def test_every_row_of_real_preferences_is_read(name: str, least: int) -> None:
    assert len(read_preferences(Path(os.environ["RLHF_GAME_DATA"]) / f"{name}.jsonl.gz").rows) >= least
