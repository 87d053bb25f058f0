"""The prompts of a configuration: texts or conversations, listed or in a file, with further columns for rewards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import Field

from rlhf_game.errors import InputError
from rlhf_game.files.conversations import Text, question_of
from rlhf_game.files.documents import kind, lines_of, parse_json, parse_json_lines, read_text, shown
from rlhf_game.files.schema import Name

Fields: TypeAlias = dict[str, Any]
PromptRow: TypeAlias = Name | Fields | list[Fields]
"""A text, a list of messages, or either as ``prompt`` beside further columns (as TRL has it)."""
Prompts: TypeAlias = Name | Annotated[list[PromptRow], Field(min_length=1)]
"""Prompts, or the name of a file of them."""


def prompts_of(given: str | Sequence[PromptRow], base: Path) -> tuple[tuple[Text, ...], dict[str, tuple[Any, ...]]]:
    """Return the prompts, [B], and their further columns.

    Raises InputError that names the prompt when it is none, ends with a system turn, or is of another form than the
    first one.
    """
    rows = _read(base / given) if isinstance(given, str) else list(given)
    keys = sorted(rows[0]) if isinstance(rows[0], dict) else []
    texts: list[Text] = []
    for i, row in enumerate(rows):
        if isinstance(row, dict) != bool(keys) or (isinstance(row, dict) and sorted(row) != keys):
            raise InputError(f"prompts[{i}]: must have the same form and columns as prompts[0]")
        texts.append(_prompt(row, f"prompts[{i}]"))
        if isinstance(texts[i], str) != isinstance(texts[0], str):
            raise InputError(f"prompts[{i}]: must be text or messages as prompts[0] is, found the other")
    taken = {"prompt", "prompts", "completions", "completion_ids"}
    return tuple(texts), {key: tuple(row[key] for row in rows) for key in keys if key not in taken}


def _prompt(row: Any, where: str) -> Text:
    text = row.get("prompt") if isinstance(row, dict) else row
    if not isinstance(text, str | list):
        raise InputError(f"{where}: must be text or messages, or have them as prompt, found {kind(row)}")
    if isinstance(row, dict) and row.get("chat_template_kwargs"):
        raise InputError(f"{where}: chat_template_kwargs: must not be here, where one template serves all, found some")
    return question_of(text, where, tools=row.get("tools") if isinstance(row, dict) else None)


def _read(path: Path) -> list[Any]:
    name, suffix = shown(str(path), 200), path.suffix.lower()
    text = read_text(path)
    if suffix == ".txt":
        return [line for line in lines_of(text) if line.strip()]
    if suffix == ".jsonl":
        return [value for _, value in parse_json_lines(text, name)]
    if suffix == ".json":
        document = parse_json(text, name)
        if isinstance(document, list) and document:
            return document
        raise InputError(f"{name}: must be a list of prompts, found {kind(document)}")
    raise InputError(f"prompts: must be a .txt (one a line), .jsonl or .json file, found {shown(path.name)!r}")
