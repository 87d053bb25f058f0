"""Conversations as a model's own chat template writes them, and the token with which it ends a turn."""

from collections.abc import Collection
from dataclasses import replace
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

from rlhf_game.errors import InputError, boundary
from rlhf_game.files.conversations import Conversation, Message, folded
from rlhf_game.files.documents import shown

_PROBE = "zq0zq"
"""Words that no template writes by itself."""


def render(
    tokenizer: PreTrainedTokenizerBase, conversation: Conversation, *, is_open: bool, folds_system: bool = False
) -> str:
    """Return a conversation as its model reads it.

    is_open: whether the model is to go on, with a turn of its own or with the assistant's turn that comes last.
    folds_system: whether a system turn that the template refuses goes to the beginning of the first user turn.
    A model without a template reads the turns as paragraphs, which it can only while the assistant has said nothing.
    Raises InputError when the template refuses the conversation or leaves one of its turns out.
    """
    if tokenizer.chat_template is None:
        if any(message.role in ("assistant", "tool") for message in conversation.messages):
            raise InputError("a conversation with earlier turns must have a model with a chat template, this has none")
        return "\n\n".join(message.content for message in conversation.messages)
    try:
        return _written(tokenizer, conversation, is_open)
    except InputError as error:
        merged = folded(conversation)
        if merged == conversation:
            raise
        text = _written(tokenizer, merged, is_open)
        if folds_system:
            return text
        raise InputError(
            f"{error}; say fold_system: true to put the system turn at the beginning of the first user turn"
        ) from error


def _written(tokenizer: PreTrainedTokenizerBase, conversation: Conversation, is_open: bool) -> str:
    text = _applied(tokenizer, conversation, is_open)
    for k, message in enumerate(conversation.messages):
        if message.role != "assistant" and message.content.strip() not in text:  # it may have been written otherwise
            turns = list(conversation.messages)
            turns[k] = replace(message, content=_PROBE)
            if _applied(tokenizer, Conversation(tuple(turns), conversation.tools), is_open) == text:
                raise InputError(
                    f"the model's chat template must write every turn, it leaves out a {message.role} turn"
                )
    return text


def _applied(tokenizer: PreTrainedTokenizerBase, conversation: Conversation, is_open: bool) -> str:
    goes_on = is_open and conversation.messages[-1].role == "assistant"
    roles = ", ".join(message.role for message in conversation.messages)
    with boundary(f"the model's chat template must take the turns {shown(roles, 80)}, found", InputError):
        text = tokenizer.apply_chat_template(
            conversation.document(),
            tools=list(conversation.tool_schemas() or []) or None,
            tokenize=False,
            add_generation_prompt=is_open and not goes_on,
            continue_final_message=goes_on,
        )
    return str(text)


def turn_end(tokenizer: PreTrainedTokenizerBase, end_ids: Collection[int]) -> int | None:
    """Return the token that the chat template writes after a response, or None where that is no single token.

    end_ids: tokens that are known to end a sequence. The first token after a response that is one of them, or a special
    token but for those of the beginning, of padding and of unknown words; else the only token that is there.
    """
    if tokenizer.chat_template is None:
        return None
    try:
        probe = Conversation((Message("user", "hello"), Message("assistant", _PROBE)))
        _, found, after = _applied(tokenizer, probe, is_open=False).rpartition(_PROBE)
    except InputError:
        return None
    ids = [int(i) for i in tokenizer(after.strip(), add_special_tokens=False).input_ids] if found else []
    others = {tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id} - set(end_ids)
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | {*tokenizer.all_special_ids}
    ends = [i for i in ids if i in end_ids or (i in special and i not in others)]
    if ends:
        return ends[0]
    return ids[0] if len(ids) == 1 and ids[0] not in others else None


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of a rendered prompt, to which the model is to go on.

    Special tokens are the chat template's business where there is one. A tokenizer without a template may put its start
    token before the text; an end token that it puts after the text is left out: nothing follows an end.
    """
    plain = list(tokenizer(text, add_special_tokens=False).input_ids)
    ids = plain
    if tokenizer.chat_template is None:
        ids = list(tokenizer(text, add_special_tokens=True).input_ids)
        appended = _ends(ids, tokenizer.eos_token_id) - _ends(plain, tokenizer.eos_token_id)
        ids = ids[: len(ids) - appended]
    if ids:
        return ids
    if tokenizer.bos_token_id is None:
        raise InputError("prompts must not be empty for a model without a start token")
    return [int(tokenizer.bos_token_id)]


def _ends(ids: list[int], end: int | None) -> int:
    """Return how many end tokens there are at the end."""
    return sum(1 for _ in takewhile(lambda token: token == end, reversed(ids)))
