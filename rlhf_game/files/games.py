"""Reading game files: .yaml, .yml, .json, and .jsonl with one game a line.

A wrong game raises InputError with one line: the file (and line), the field, what it must be, what was found.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import yaml

from rlhf_game.errors import InputError
from rlhf_game.files.atomic import write_json, write_text
from rlhf_game.files.documents import parse_json, parse_json_lines, parse_yaml, read_text, shown
from rlhf_game.files.fee_fields import check_fee
from rlhf_game.files.names import check_names
from rlhf_game.files.parts import sources
from rlhf_game.files.schema import AutomatonFields, Fields, MenuFields, OwnFields, TableFields, TableFile, parse_fields
from rlhf_game.files.settings import set_fields
from rlhf_game.files.tables import Shape, Table, describe, digest, from_lists, locate, read_table, shape_of
from rlhf_game.mechanism.reports import NORMALIZATION_TOLERANCE

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
        space = {"space": fields.space} if isinstance(fields, OwnFields) else {}
        said = {**space, "regularizer": fields.regularizer, "training": fields.training, "payment": fields.payment}
        code = sources(said, folder, trusted=trusted)
        rewards = tuple(_table(group.reward, folder, f"groups[{i}].reward") for i, group in enumerate(fields.groups))
        reference = _reference(fields, folder, rewards)
        _check_space(fields, reference)
        boost = None if fields.boosts is None else _table(fields.boosts, folder, "boosts")
        named = [(f"groups[{i}].reward", reward) for i, reward in enumerate(rewards)]
        for field, table in named if boost is None else [*named, ("boosts", boost)]:
            _check_shape(field, shape_of(table), shape_of(reference), "menu" if fields.space == "menu" else "reference")
        sha256 = hashlib.sha256(canonical(fields, folder, code).encode()).hexdigest()
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    files = tuple(locate(value.file, folder)[0] for _, value in _file_fields(fields))
    return Game(name, folder, fields, reference, rewards, boost, sha256, files)


def _file_fields(fields: Fields) -> Iterator[tuple[tuple[str | int, ...], TableFile]]:
    """Yield the place and the value of each table that is in a file of its own."""
    places: list[tuple[tuple[str | int, ...], Any]] = [(("boosts",), fields.boosts)]
    if isinstance(fields, TableFields | AutomatonFields):
        places.append((("reference",), fields.reference))
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


def _reference(fields: Fields, folder: Path, rewards: Sequence[Table]) -> Table:
    """Return q; of a menu the divergences, zeros where the game gives none; of a space of one's own zeros."""
    if isinstance(fields, OwnFields):
        return np.zeros(shape_of(rewards[0]))
    if not isinstance(fields, MenuFields):
        return _table(fields.reference, folder, "reference")
    if fields.divergence is not None:
        return np.array(fields.divergence)
    return np.zeros(len(rewards[0] if fields.outcomes is None else fields.outcomes))


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


def _check_shape(field: str, found: Shape, wanted: Shape, like: str) -> None:
    if found != wanted:
        raise InputError(f"{field}: must have {describe(wanted)}, like the {like}; found {describe(found)}")


def _check_space(fields: Fields, reference: Table) -> None:
    shape = shape_of(reference)
    if isinstance(fields, AutomatonFields):
        _check_automaton(fields, reference)
        return
    if isinstance(fields, OwnFields):
        return
    if fields.outcomes is not None:
        _check_labels(fields.outcomes, shape)
    if isinstance(fields, TableFields):
        prompts = 1 if len(shape) == 1 else len(reference)
        for field, numbers in (("prompt_weights", fields.prompt_weights), ("missing", fields.missing)):
            if numbers is not None and len(numbers) != prompts:
                raise InputError(f"{field}: must have one number per prompt ({prompts}), found {len(numbers)}")
        _check_missing(fields)


def _check_missing(fields: TableFields) -> None:
    if (fields.missing is None) != (fields.bounds is None):
        lacking, there = ("missing", "bounds") if fields.missing is None else ("bounds", "missing")
        raise InputError(f"{lacking}: must be given with {there}, found nothing")
    if fields.bounds is None:
        return
    if fields.bounds[0] > fields.bounds[1]:
        raise InputError(f"bounds: must be [lowest, highest], found {fields.bounds}")
    for field, value, wanted in (
        ("regularizer", fields.regularizer, ("kl",)),
        ("normalization", fields.normalization, ("none",)),
        ("payment", fields.payment, ("affine", "none")),
    ):
        if value not in wanted:
            raise InputError(f"{field}: must be {' or '.join(wanted)} with missing mass, found {value}")


def _check_labels(labels: Sequence[Any], shape: Shape) -> None:
    found = shape_of(labels) if labels else (0,)
    if found != shape:
        wanted, got = (describe(s, "label") for s in (shape, found))
        raise InputError(f"outcomes: must have {wanted}, one per outcome; found {got}")
    for i, row in enumerate(labels if isinstance(labels[0], list) else [labels]):
        label, times = Counter(row).most_common(1)[0]
        if times > 1:
            where = f"outcomes[{i}]" if isinstance(labels[0], list) else "outcomes"
            raise InputError(f"{where}: must name each outcome once, found {shown(label)!r} {times} times")


def _check_automaton(fields: AutomatonFields, reference: Table) -> None:
    states = len(fields.next_state)
    widths = {len(row) for row in fields.next_state}
    if len(widths) > 1:
        raise InputError(f"next_state: must have rows of one length, found lengths {sorted(widths)}")
    _check_shape("reference", shape_of(reference), (states, widths.pop()), "next_state")
    for state, row in enumerate(fields.next_state):
        for token, following in enumerate(row):
            if following >= states:
                field = f"next_state[{state}][{token}]"
                raise InputError(f"{field}: must be a state (0 to {states - 1}) or -1, found {following}")
    if fields.initial >= states:
        raise InputError(f"initial: must be a state (0 to {states - 1}), found {fields.initial}")
    q = np.asarray(reference)
    wrong = ~(
        np.isfinite(q).all(axis=1) & (q >= 0).all(axis=1) & (np.abs(q.sum(axis=1) - 1) <= NORMALIZATION_TOLERANCE)
    )
    if wrong.any():
        state = int(np.argmax(wrong))
        raise InputError(
            f"reference[{state}]: must be probabilities >= 0 with sum 1 (to 1e-6), found sum {q[state].sum()}"
        )
