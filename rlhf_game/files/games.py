"""Reading game files: .yaml, .yml, .json, and .jsonl with one game a line.

A wrong game raises InputError with one line: the file (and line), the field, what it must be, what was found.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from rlhf_game.errors import InputError
from rlhf_game.files.atomic import write_json, write_text
from rlhf_game.files.documents import parse_json, parse_json_lines, parse_yaml, read_text, shown
from rlhf_game.files.fee_fields import check_fee
from rlhf_game.files.game_checks import check_shape
from rlhf_game.files.names import check_names
from rlhf_game.files.parts import sources
from rlhf_game.files.schema import Fields, TableFile, parse_fields
from rlhf_game.files.settings import set_fields
from rlhf_game.files.tables import Table, digest, from_lists, locate, read_table, shape_of

SUFFIXES = (".yaml", ".yml", ".json", ".jsonl")


@final
@dataclass(frozen=True, eq=False)
class Game:
    """One game as its file says it, checked except for what only a policy space can check."""

    name: str
    """Where it was read, for messages: ``game.yaml`` or ``games.jsonl: line 3``."""
    folder: Path
    """What relative paths start from."""
    fields: Fields
    reference: Table
    """q as given (menu: the divergence of each entry): [m], [B, m], or a list of B arrays."""
    rewards: tuple[Table, ...]
    """One per group, each shaped like the reference."""
    boost: Table | None
    sha256: str
    """Of the canonical content (see canonical)."""
    files: tuple[Path, ...] = ()
    """Those that hold its tables."""


def read_games(path: str | os.PathLike[str], *, trusted: bool = False, settings: Sequence[str] = ()) -> list[Game]:
    """Return the games of a file, in order: one, or one a line of a .jsonl file. Raises InputError.

    trusted: whether the games may name code of their own, which runs when they are settled. settings: fields to set in
    every game, each ``path=value``.
    """
    folder = Path(path).parent
    documents = ((name, _set(document, settings, name)) for name, document in _documents(path))
    return [parse_game(document, name, folder, trusted) for name, document in documents]


def read_game(path: str | os.PathLike[str], *, trusted: bool = False, settings: Sequence[str] = ()) -> Game:
    """Return the one game of a file (see read_games). Raises InputError, also when the file is a list of games."""
    if is_list(path):
        raise InputError(f"{_name(path)}: must hold one game (.yaml, .yml or .json), found a list of games (.jsonl)")
    return read_games(path, trusted=trusted, settings=settings)[0]


def write_game(path: str | os.PathLike[str], document: Mapping[str, Any]) -> None:
    """Write a game's document as .yaml, .yml or .json, whole or not at all; numbers are full float64.

    Raises InputError for another ending.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".json":
        write_json(path, document)
    elif suffix in (".yaml", ".yml"):
        import yaml

        write_text(path, yaml.safe_dump(dict(document), sort_keys=False, default_flow_style=None, width=120))
    else:
        raise InputError(f"{_name(path)}: must be a game file ending in .yaml, .yml or .json, found {suffix!r}")


def is_list(path: str | os.PathLike[str]) -> bool:
    """Return whether a game file has one game a line."""
    return Path(path).suffix.lower() == ".jsonl"


def canonical(fields: Fields, folder: Path, code: Mapping[str, Mapping[str, str]]) -> str:
    """Return the content of a game as one text that no formatting changes; its SHA-256 is ``game_sha256``.

    JSON with sorted keys, no spaces and ASCII only; keys that say the default are left out; reals are written as
    Python writes a float, sizes as integers; a table in a file is ``{"file_sha256": of its bytes, "key": or null}``.
    code: the SHA-256 of every file of the code that the game names, by field.
    """
    content: dict[str, Any] = fields.model_dump(exclude_defaults=True, exclude={"provenance"})
    content |= {"code": code} if code else {}
    for group, said in zip(content["groups"], fields.groups, strict=True):
        group["size"] = said.size  # as a reader expects it, also where it is the default
        group.pop("salt", None)  # of its seal, not of the game
    located = [(name, *locate(value.file, folder)) for name, value in _file_fields(fields)]
    digests = {path: digest(path) for path in {path for _, path, _ in located}}  # each file once, however many columns
    for name, path, key in located:
        place: Any = content
        *parents, last = name
        for parent in parents:
            place = place[parent]
        place[last] = {"file_sha256": digests[path], "key": key}
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _documents(path: str | os.PathLike[str]) -> Iterator[tuple[str, Any]]:
    name, suffix = _name(path), Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(
            f"{name}: must be a game file ending in {', '.join(SUFFIXES)}, found {suffix or 'no ending'!r}"
        )
    text = read_text(path)
    if suffix == ".jsonl":
        yield from parse_json_lines(text, name)
    else:
        yield name, parse_json(text, name) if suffix == ".json" else parse_yaml(text, name)


def _set(document: Any, settings: Sequence[str], name: str) -> Any:
    """Return a document with its settings; what is no mapping is refused where games are parsed."""
    return set_fields(document, settings, name) if settings and isinstance(document, dict) else document


def _name(path: str | os.PathLike[str]) -> str:
    return shown(os.fspath(path), 200)


def parse_game(document: Any, name: str, folder: Path, trusted: bool) -> Game:
    """Return the game of a parsed document; raise InputError that starts with ``name`` and names the field.

    folder: what relative paths start from. trusted: see read_games.
    """
    fields = parse_fields(document, name)
    try:
        _check_names(fields)
        said = {
            **fields.own_code(),
            "regularizer": fields.regularizer,
            "training": fields.training,
            "payment": fields.payment,
        }
        code = sources(said, folder, trusted=trusted)
        rewards = tuple(_table(group.reward, folder, f"groups[{i}].reward") for i, group in enumerate(fields.groups))
        reference = fields.read_reference(lambda value, field: _table(value, folder, field), rewards)
        fields.check_tables(reference)
        boost = None if fields.boosts is None else _table(fields.boosts, folder, "boosts")
        named = [(f"groups[{i}].reward", reward) for i, reward in enumerate(rewards)]
        for field, table in named if boost is None else [*named, ("boosts", boost)]:
            check_shape(field, shape_of(table), shape_of(reference), "menu" if fields.space == "menu" else "reference")
        sha256 = hashlib.sha256(canonical(fields, folder, code).encode()).hexdigest()
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    files = tuple(locate(value.file, folder)[0] for _, value in _file_fields(fields))
    return Game(name, folder, fields, reference, rewards, boost, sha256, files)


def _file_fields(fields: Fields) -> Iterator[tuple[tuple[str | int, ...], TableFile]]:
    """Yield the place and the value of each table that is in a file of its own."""
    places: list[tuple[tuple[str | int, ...], Any]] = [(("boosts",), fields.boosts)]
    places += [((name,), value) for name, value in fields.tables().items()]
    places += [(("groups", i, "reward"), group.reward) for i, group in enumerate(fields.groups)]
    for place, value in places:
        if isinstance(value, TableFile):
            yield place, value


def _table(value: Any, folder: Path, field: str) -> Table:
    if not isinstance(value, TableFile):
        return from_lists(value)
    try:
        return read_table(value.file, folder)
    except InputError as error:
        raise InputError(f"{field}.file: {error}") from None


def _check_names(fields: Fields) -> None:
    check_names([group.name for group in fields.groups], fields.weights or ())
    largest = max(group.size for group in fields.groups)
    if fields.size_limit is not None and fields.size_limit < largest:
        raise InputError(f"size_limit: must be at least the largest size ({largest}), found {fields.size_limit}")
    check_fee(fields)
    if (fields.payment == "participation") != (fields.participation_cost is not None):
        raise InputError("participation_cost: must be given with payment participation, and only there")
    if fields.payment == "revenue" and fields.normalization == "none":
        raise InputError("payment: revenue must come with normalization sum or max, found normalization none")
