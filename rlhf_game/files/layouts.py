"""The layouts in which TRL's datasets come, read row by row: what was asked, what was answered, what is held out.

A pair has an explicit prompt, or an implicit one that both responses begin with; either way its prompt and responses
are texts or lists of messages, and responses may repeat the whole conversation before them. HH's transcripts,
paragraphs that begin with Human: and Assistant:, are read as the conversations that they are.
"""

import re
from collections.abc import Hashable, Mapping, Sequence
from itertools import takewhile
from typing import Any, Literal, TypeAlias, cast

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.files.conversations import (
    Conversation,
    Message,
    Text,
    dialogue,
    filled,
    question_of,
    response_of,
    text_of,
)
from rlhf_game.files.documents import kind, shown

Split: TypeAlias = Literal["train", "test"]
SPLITS = ("train", "test")
_HH = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def pair_of(row: Mapping[str, Any], where: str, names: Mapping[str, str]) -> tuple[Text, Text, Text]:
    """Return the prompt of a pair and its two responses, chosen and rejected.

    names: how the row calls prompt, chosen and rejected, and its system turn where it has one in a field of its own.
    Raises InputError that names the field.
    """
    chosen, rejected = (_whole(row, where, names[side]) for side in ("chosen", "rejected"))
    prompt = _prompt(row, where, names["prompt"])
    if prompt is None:
        prompt, chosen, rejected = _implicit(chosen, rejected, where, names)
    prompt = _shared(prompt, chosen, rejected) or prompt
    sides = [
        _response(prompt, whole, f"{where}: {names[side]}")
        for side, whole in (("chosen", chosen), ("rejected", rejected))
    ]
    return _asked(prompt, row, where, names), sides[0], sides[1]


def exchange_of(row: Mapping[str, Any], where: str, names: Mapping[str, str]) -> tuple[Text, Text]:
    """Return a prompt and its completion; of a row of ``messages`` alone, the last turn is the completion.

    names: how the row calls prompt and completion, and its system turn. Raises InputError that names the field.
    """
    name = names["completion"]
    prompt = _prompt(row, where, names["prompt"])
    if prompt is None and name not in row and "messages" in row:
        whole = text_of(row["messages"], f"{where}: messages")
        if isinstance(whole, str) or len(whole.messages) < 2 or whole.messages[-1].role != "assistant":
            raise InputError(f"{where}: messages: must be two turns or more, the last an assistant's, found others")
        last = Conversation(whole.messages[-1:])
        asked = _asked(Conversation(whole.messages[:-1]), row, where, {**names, "prompt": "messages"})
        return asked, _response("", last, f"{where}: messages")
    if prompt is None:
        raise _missing(row, where, names["prompt"])
    return _asked(prompt, row, where, names), _response(prompt, _whole(row, where, name), f"{where}: {name}")


def _asked(prompt: Text, row: Mapping[str, Any], where: str, names: Mapping[str, str]) -> Text:
    """Return the prompt with what else the row says is asked: its system turn, and the tools."""
    if row.get("chat_template_kwargs"):
        raise InputError(f"{where}: chat_template_kwargs: must not be here, where one template serves all, found some")
    name = names.get("system")
    if name is not None and name not in row:
        raise _missing(row, where, name)
    system = None if name is None else row[name]
    if system is not None and not isinstance(system, str):
        raise InputError(f"{where}: {name}: must be the text of a system turn, found {kind(system)}")
    if system and dialogue(prompt).messages[0] != Message("system", system):
        try:
            prompt = dialogue(prompt, system)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    return question_of(prompt, f"{where}: {names['prompt']}", tools=row.get("tools"))


def _missing(row: Mapping[str, Any], where: str, name: str) -> InputError:
    keys = shown(", ".join(map(str, row)), 80) or "none"
    return InputError(f"{where}: {name}: must be given, found only the fields {keys}")


def _whole(row: Mapping[str, Any], where: str, name: str) -> Text:
    """Return a response as it stands in the row, whatever it repeats of the conversation before it."""
    if name not in row:
        raise _missing(row, where, name)
    return _read(row[name], f"{where}: {name}")


def _read(value: Any, where: str) -> Text:
    text = filled(text_of(value, where), where)
    if not isinstance(text, str) or not re.match(r"\s*Human:", text):
        return text
    _, *parts = _HH.split("\n\n" + text.strip())
    if "Assistant" not in parts[::2]:  # a response that begins with this word, and no transcript
        return text
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = [{"role": roles[who], "content": said.strip()} for who, said in zip(parts[::2], parts[1::2], strict=True)]
    return text_of(turns, where)


def _prompt(row: Mapping[str, Any], where: str, name: str) -> Text | None:
    """Return the explicit prompt after the row's history, or None where there is none."""
    given = row.get(name)
    if given is None and name in row:
        raise InputError(f"{where}: {name}: must be text or messages, found nothing (null)")
    if given is None and name != "prompt":  # the configuration says that it is there
        raise _missing(row, where, name)
    earlier = _history(row.get("history"), f"{where}: history")
    if given is None:
        if earlier:
            raise InputError(f"{where}: {name}: must be given beside a history, found neither text nor messages")
        return None
    prompt = _read(given, f"{where}: {name}")
    if isinstance(prompt, Conversation) and len(prompt.messages) > 1 and _is_cue(prompt.messages[-1]):
        prompt = Conversation(prompt.messages[:-1])
    return Conversation((*earlier, *dialogue(prompt).messages)) if earlier else prompt


def _is_cue(message: Message) -> bool:
    """Return whether a turn is the "Assistant:" at the end of a transcript, which asks for the response."""
    return message.role == "assistant" and not message.content and not message.more


def _history(value: Any, where: str) -> list[Message]:
    """Return earlier turns: pairs of what the user and the assistant said, or messages."""
    if value is None or value == []:
        return []
    if not isinstance(value, list):
        raise InputError(f"{where}: must be a list of [user, assistant] pairs or of messages, found {kind(value)}")
    if isinstance(value[0], Mapping | Message):
        return list(dialogue(text_of(value, where)).messages)
    turns: list[Message] = []
    for k, pair in enumerate(value):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(said, str) for said in pair):
            raise InputError(
                f"{where}[{k}]: must be a pair of texts, of the user and the assistant, found {kind(pair)}"
            )
        turns += [Message("user", pair[0]), Message("assistant", pair[1])]
    return turns


def _implicit(chosen: Text, rejected: Text, where: str, names: Mapping[str, str]) -> tuple[Text, Text, Text]:
    """Return the prompt that both responses begin with, and both without it (TRL's ``extract_prompt``).

    Of texts it ends at the end of a word, so that no response begins in the middle of one.
    """
    if isinstance(chosen, Conversation) and isinstance(rejected, Conversation):
        turns = _common(chosen, rejected)
        if turns:
            return Conversation(turns), chosen, rejected
    elif isinstance(chosen, str) and isinstance(rejected, str):
        length = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False)))
        while length > 0 and not (chosen[length : length + 1].isspace() or chosen[length - 1].isspace()):
            length -= 1
        prompt = chosen[:length].rstrip()
        if prompt:
            return prompt, chosen[len(prompt) :], rejected[len(prompt) :]
    raise InputError(
        f"{where}: {names['prompt']}: must be given, or {names['chosen']} and {names['rejected']} begin with it, found "
        "neither"
    )


def _common(chosen: Conversation, rejected: Conversation) -> tuple[Message, ...]:
    """Return the turns that both begin with, up to the last one that an assistant answers in both."""
    both = zip(chosen.messages, rejected.messages, strict=False)
    turns = [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], both)]
    longest = min(len(chosen.messages), len(rejected.messages)) - 1
    turns = turns[:longest]
    while turns and not (turns[-1].role != "assistant" and chosen.messages[len(turns)].role == "assistant"):
        turns.pop()
    return tuple(turns)


def _shared(prompt: Text, chosen: Text, rejected: Text) -> Conversation | None:
    """Return the conversation that both responses repeat, where the given prompt is one of its turns.

    So do datasets whose ``prompt`` is the first question of whole conversations in ``chosen`` and ``rejected``.
    """
    if not isinstance(chosen, Conversation) or not isinstance(rejected, Conversation):
        return None
    turns, asked = _common(chosen, rejected), dialogue(prompt)
    begins = turns[: len(asked.messages)] == asked.messages
    is_one = len(asked.messages) == 1 and asked.messages[0] in turns
    return Conversation(turns, asked.tools) if turns != asked.messages and (begins or is_one) else None


def _response(prompt: Text, whole: Text, where: str) -> Text:
    """Return what a response adds to its prompt."""
    asked = dialogue(prompt).messages
    if isinstance(whole, str) or whole.messages[0].role == "assistant":
        return filled(response_of(whole, where), where)
    if whole.messages[: len(asked)] == asked and len(whole.messages) > len(asked):
        return filled(response_of(Conversation(whole.messages[len(asked) :]), where), where)
    raise InputError(f"{where}: must be a response to the prompt, or repeat it and go on, found another conversation")


def split_of(row: Mapping[str, Any], where: str) -> Split | None:
    """Return which side of the split a row says it is on. Raises InputError when there is no such side."""
    split = row.get("split")
    if split not in (None, *SPLITS):
        raise InputError(f"{where}: split: must be train or test, found {kind(split)}")
    return cast(Split | None, split)


def divided(
    rows: Sequence[tuple[Hashable, Split | None]], share: float, rng: np.random.Generator, name: str
) -> list[bool]:
    """Return whether each row, by its prompt and split, is held out.

    Where any row names its split, those that name none are trained on. Without splits, a share of the prompts is drawn,
    at least one, and no prompt is on both sides. Raises InputError that begins with ``name`` when a side is empty.
    """
    if any(split is not None for _, split in rows):
        is_held = [split == "test" for _, split in rows]
    else:
        prompts = list(dict.fromkeys(prompt for prompt, _ in rows))
        count = max(1, round(share * len(prompts)))
        held = {prompts[k] for k in rng.permutation(len(prompts))[:count].tolist()}
        is_held = [prompt in held for prompt, _ in rows]
    for found, what in ((not all(is_held), "to train on"), (any(is_held), "to test on")):
        if not found:
            raise InputError(f"{name}: must hold rows {what} as well, found {len(rows)} rows and none of them {what}")
    return is_held
