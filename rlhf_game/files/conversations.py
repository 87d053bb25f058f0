"""What is said to a language model and what it says: a text, or a conversation of messages.

The one noun for prompts and responses wherever they are read, drawn, scored or trained on. A ``Text`` that is a plain
``str`` is short for one turn: the user's where it is a prompt, the assistant's where it is a response. Nothing here
renders a conversation for a model: its own chat template does (``LanguageModel.encode_prompt``).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, final

from rlhf_game.errors import InputError
from rlhf_game.files.documents import kind, shown

Role: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]
ROLES = ("system", "developer", "user", "assistant", "tool")


@final
@dataclass(frozen=True)
class Message:
    """One turn."""

    role: Role
    content: str
    more: str = ""
    """Its further fields, such as tool_calls, as JSON in their order; empty where there are none."""

    def document(self) -> dict[str, Any]:
        """Return the mapping that chat templates and endpoints read."""
        return {"role": self.role, "content": self.content, **(json.loads(self.more) if self.more else {})}


@final
@dataclass(frozen=True)
class Conversation:
    """Messages in their order, and the tools that the model may call (a list of JSON schemas, as JSON)."""

    messages: tuple[Message, ...]
    tools: str = ""

    def document(self) -> list[dict[str, Any]]:
        """Return the messages as mappings, which is how TRL's reward functions and endpoints get them."""
        return [message.document() for message in self.messages]

    def tool_schemas(self) -> list[dict[str, Any]] | None:
        """Return the tools as chat templates read them, or None where there are none."""
        return json.loads(self.tools) if self.tools else None

    def __str__(self) -> str:
        """Return the words, for what reads no messages: of one turn its content, of several a transcript."""
        if len(self.messages) == 1:
            return _words(self.messages[0])
        return "\n\n".join(f"{message.role.capitalize()}: {_words(message)}" for message in self.messages)


Text: TypeAlias = str | Conversation
"""A prompt or a response; ``str(text)`` is its words."""


def _words(message: Message) -> str:
    called = json.loads(message.more).get("tool_calls") if message.more else None
    return message.content if called is None else f"{message.content}{json.dumps(called)}"


def text_of(value: Any, where: str, *, tools: Any = None) -> Text:
    """Return what a user gave as a text or as a list of messages; ``where`` begins every message of an error.

    A message is ``{role, content}``, with further fields such as ``tool_calls`` and ``tool_call_id`` handed on but for
    nulls in them. Content may be a list of parts of type text; it may be null beside tool_calls only. tools: what the
    model may call, a list of JSON schemas or its JSON text. Raises InputError on anything else.
    """
    schemas = _tools(tools, f"{where}: tools") if tools else ""
    if isinstance(value, Conversation):
        return Conversation(value.messages, schemas) if schemas else value
    if isinstance(value, str):
        return Conversation((Message("user", value),), schemas) if schemas else value
    if not isinstance(value, Sequence) or isinstance(value, bytes) or not value:
        raise InputError(f"{where}: must be text or messages, found {kind(value)}")
    messages = tuple(_message(one, f"{where}[{k}]") for k, one in enumerate(value))
    return Conversation(messages, schemas)


def _tools(value: Any, where: str) -> str:
    try:
        schemas = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        schemas = None
    if not isinstance(schemas, Sequence) or not all(isinstance(schema, Mapping) for schema in schemas):
        raise InputError(f"{where}: must be a list of JSON schemas, or its JSON text, found {kind(value)}")
    return _json([_given(schema) for schema in schemas], where) if schemas else ""


def _message(value: Any, where: str) -> Message:
    if isinstance(value, Message):
        return value
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: must be a message with role and content, found {kind(value)}")
    role = value.get("role")
    if role not in ROLES:
        raise InputError(f"{where}.role: must be one of {', '.join(ROLES)}, found {kind(role)}")
    more = _given({key: field for key, field in value.items() if key not in ("role", "content")})
    content = _content(value.get("content"), f"{where}.content", is_optional="tool_calls" in more)
    return Message(cast(Role, role), content, _json(more, where) if more else "")


def _content(value: Any, where: str, *, is_optional: bool) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        if is_optional:
            return ""
        raise InputError(f"{where}: must be text (it may be null beside tool_calls only), found nothing (null)")
    if not isinstance(value, Sequence):
        raise InputError(f"{where}: must be text or a list of parts, found {kind(value)}")
    for k, part in enumerate(value):
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            found = f"type {shown(str(part['type']))}" if isinstance(part, Mapping) and "type" in part else kind(part)
            raise InputError(f"{where}[{k}]: must be a part of type text with its text, found {found}")
    return "".join(part["text"] for part in value)


def _given(value: Any) -> Any:
    """Return a value without the nulls that parquet puts where a field of another row is."""
    if isinstance(value, Mapping):
        return {str(key): _given(field) for key, field in value.items() if field is not None}
    return [_given(item) for item in value] if isinstance(value, list | tuple) else value


def _json(value: Any, where: str) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: must hold plain JSON values alone, found: {shown(str(error))}") from None


def dialogue(prompt: Text, system: str | None = None) -> Conversation:
    """Return the turns that a model answers: the prompt's, after a system turn where there is one.

    Raises InputError when there would be two system turns.
    """
    if isinstance(prompt, str):
        prompt = Conversation((Message("user", prompt),))
    if system is None:
        return prompt
    if prompt.messages[0].role == "system":
        raise InputError("system: must not be given where a prompt has a system turn of its own, found both")
    return Conversation((Message("system", system), *prompt.messages), prompt.tools)


def answered(prompt: Text, response: Text, system: str | None = None) -> Conversation:
    """Return the whole conversation. A text goes on with the assistant's turn where the prompt ends with one."""
    asked = dialogue(prompt, system)
    if isinstance(response, Conversation):
        return Conversation((*asked.messages, *response.messages), asked.tools)
    *before, last = asked.messages
    if last.role == "assistant":
        return Conversation((*before, Message("assistant", last.content + response, last.more)), asked.tools)
    return Conversation((*asked.messages, Message("assistant", response)), asked.tools)


def folded(conversation: Conversation) -> Conversation:
    """Return the conversation with its system turn at the beginning of the first user turn, an empty line between.

    For templates that refuse a system turn. Raises InputError when there is no user turn to put it into.
    """
    system = [message.content for message in conversation.messages if message.role in ("system", "developer")]
    others = [message for message in conversation.messages if message.role not in ("system", "developer")]
    if not system:
        return conversation
    for k, message in enumerate(others):
        if message.role == "user":
            others[k] = Message("user", "\n\n".join([*system, message.content]), message.more)
            return Conversation(tuple(others), conversation.tools)
    raise InputError("a conversation with a system turn must have a user turn to put it into, found none")


def response_of(value: Any, where: str) -> Text:
    """Return a response as ``text_of`` does, but an assistant's turn that is nothing but text as that text.

    Raises InputError when messages do not begin with an assistant's.
    """
    text = text_of(value, where)
    if isinstance(text, str):
        return text
    first, *more = text.messages
    if first.role != "assistant":
        raise InputError(f"{where}: must begin with an assistant's turn, found one of the {first.role}")
    if more or first.more:
        return text
    return first.content


def question_of(value: Any, where: str, *, tools: Any = None) -> Text:
    """Return a prompt as ``text_of`` does. Raises InputError when it is empty or ends with a system turn."""
    prompt = filled(text_of(value, where, tools=tools), where)
    if isinstance(prompt, Conversation) and prompt.messages[-1].role in ("system", "developer"):
        raise InputError(f"{where}: must end with a turn to be answered, found a {prompt.messages[-1].role} turn")
    return prompt


def filled(text: Text, where: str) -> Text:
    """Return the text; raise InputError when there are no words in it."""
    if not str(text).strip():
        raise InputError(f"{where}: must be text with something in it, found an empty one")
    return text


def as_called(prompts: Sequence[Any], completions: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return prompts and completions as TRL calls a reward function: a completion is messages where its prompt is."""
    asked = [prompt.document() if isinstance(prompt, Conversation) else prompt for prompt in prompts]
    said = [
        completion.document()
        if isinstance(completion, Conversation)
        else [Message("assistant", completion).document()]
        if isinstance(prompt, Conversation)
        else completion
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    return asked, said


def document_of(value: Any) -> Any:
    """Return a conversation as messages, for JSON: ``json.dumps(prompts, default=document_of)``."""
    if isinstance(value, Conversation):
        messages = value.document()
        return {"messages": messages, "tools": value.tool_schemas()} if value.tools else messages
    raise TypeError(f"{type(value).__name__} is no conversation")
