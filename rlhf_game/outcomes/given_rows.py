"""Outcomes of kind given: rows that somebody has already, of prompts, responses and scores. No model is needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.files.conversations import Text, filled, response_of, text_of
from rlhf_game.files.documents import kind, shown
from rlhf_game.files.rows import is_number, number_of, read_rows
from rlhf_game.files.schema import Name, Strict
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.draws.importance import normalized_weights
from rlhf_game.outcomes.log_probabilities import check_total, log_probability_of


@final
class ColumnsSpec(Strict):
    """How the rows call what is read of them; the last three where they are there, or are named."""

    prompt: Name = "prompt"
    """A text or a list of messages."""
    response: Name = "response"
    """A text or a list of messages."""
    count: Name | None = "count"
    """How often the response was drawn; null: a column of this name means something else."""
    log_reference: Name | None = "log_reference"
    """The log probability of the response under the reference, in nats."""
    log_proposal: Name | None = "log_proposal"
    """The same under what the responses were drawn from."""


@final
class GivenSpec(Strict):
    """Outcomes are the responses of a file, .jsonl, .jsonl.gz or .parquet."""

    kind: Literal["given"]
    file: Name
    """One row for each response."""
    columns: ColumnsSpec = ColumnsSpec()
    """What the columns are called."""


@final
@dataclass(frozen=True, eq=False)
class Given:
    """The distinct responses of a file, prompt after prompt in the order of their first rows."""

    name: str
    sha256: str
    """Of the file's bytes."""
    prompts: tuple[Text, ...]
    """[B]."""
    places: tuple[int, ...]
    """The prompt of each response, [k]."""
    responses: tuple[Text, ...]
    counts: tuple[float, ...]
    weights: tuple[float, ...]
    """The reference: of each prompt's responses, with sum 1."""
    effective_sample_size: tuple[float, ...] | None
    """How many draws of the reference each prompt's draws from the proposal are worth, [B]; None without a proposal."""

    def origin(self) -> dict[str, Any]:
        """Return what is kept of where the rows come from."""
        return {"file": Path(self.name).name, "sha256": self.sha256, "prompts": len(self.prompts)}


@final
@dataclass(frozen=True, eq=False)
class GivenRows:
    """Responses with what their rows say besides: the reports' numbers, which the reference is not made of."""

    given: Given
    columns: Mapping[str, tuple[Any, ...]]
    """[k] each; None where a response's row does not say it."""

    def texts_and_columns(
        self, places: Sequence[int], texts: Sequence[str]
    ) -> tuple[list[Text], list[Text], dict[str, list[Any]]]:
        """Return prompts, responses and further columns of responses that are known by their words, for rewards."""
        rows = [self._rows[place, text] for place, text in zip(places, texts, strict=True)]
        columns = {name: [values[k] for k in rows] for name, values in self.columns.items()}
        return [self.given.prompts[place] for place in places], [self.given.responses[k] for k in rows], columns

    def check_numbers(self, column: str) -> None:
        """Raise InputError unless a column has a number for every response."""
        name = self.given.name
        if column not in self.columns:
            known = shown(", ".join(self.columns), 200) or "none"
            raise InputError(f"must be a column of {name} beside prompt and response ({known}), found none of it")
        for k, value in enumerate(self.columns[column]):
            if not is_number(value):
                raise InputError(
                    f"{shown(column)} must be a number for every response of {name}, found {kind(value)} for "
                    f"{shown(str(self.given.responses[k]))!r}"
                )

    @cached_property
    def _rows(self) -> dict[tuple[int, str], int]:
        return {(place, str(self.given.responses[k])): k for k, place in enumerate(self.given.places)}


@final
@dataclass(frozen=True)
class _Row:
    where: str
    prompt: Text
    response: Text
    count: float
    log_reference: float | None
    log_proposal: float | None
    more: Mapping[str, Any]


def read_given(spec: GivenSpec, base: Path) -> GivenRows:
    """Return the distinct responses of a file and their reference. Raises InputError that names the file and row.

    The reference of a prompt is proportional to count exp(log_reference - log_proposal) where both are given, a row
    without a count being one draw; to the counts where there are no logs; to exp(log_reference) of the distinct
    responses where only that is given; else every row counts once. Equal rows add, but for the last but one.
    """
    rows, sha256 = read_rows(base / spec.file, "rows of prompt and response")
    named = [(where, _mapping(row, where)) for where, row in rows]
    name = shown(str(base / spec.file), 200)
    if not named:
        raise InputError(f"{name}: must hold rows of prompt and response, found none")
    optional = _there(spec.columns, named, name)
    read = [_row(where, row, spec.columns, optional) for where, row in named]
    members: dict[Text, dict[Text, list[_Row]]] = {}
    for one in read:
        members.setdefault(one.prompt, {}).setdefault(one.response, []).append(one)
    weights: list[float] = []
    worth: list[float] = []
    for responses in members.values():
        weights += _reference(list(responses.values())).tolist()
        if "log_reference" in optional:
            logs = (equal[0].log_reference for equal in responses.values())
            check_total((one for one in logs if one is not None), f"{name}: {shown(optional['log_reference'])}")
        worth += [_worth(list(responses.values()))] if "log_proposal" in optional else []
        _check_words(responses, name)
    distinct = [equal for responses in members.values() for equal in responses.values()]
    keys = dict.fromkeys(key for one in read for key in one.more)
    given = Given(
        name,
        sha256,
        tuple(members),
        tuple(place for place, responses in enumerate(members.values()) for _ in responses),
        tuple(equal[0].response for equal in distinct),
        tuple(sum(one.count for one in equal) for equal in distinct),
        tuple(weights),
        tuple(worth) or None,
    )
    return GivenRows(given, {key: tuple(_agreed(equal, key) for equal in distinct) for key in keys})


def _mapping(row: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: must be a mapping with prompt and response, found {kind(row)}")
    return row


def _there(columns: ColumnsSpec, rows: Sequence[tuple[str, Mapping[str, Any]]], name: str) -> dict[str, str]:
    """Return the names of the optional columns that the rows have, by what they are."""
    found = {}
    for role in ("count", "log_reference", "log_proposal"):
        column = getattr(columns, role)
        if column is None:
            continue
        having = [row.get(column) is not None for _, row in rows]
        if all(having):
            found[role] = column
        elif any(having) or column != ColumnsSpec.model_fields[role].default:
            where = rows[having.index(False)][0]
            raise InputError(f"{where}: {shown(column)}: must be given in every row or in none, found nothing")
    logs = found.keys() - {"count"}
    if logs == {"log_proposal"} or (logs == {"log_reference"} and "count" in found):
        lacking = "log_reference" if logs == {"log_proposal"} else "log_proposal"
        raise InputError(
            f"{name}: must have {lacking} beside {' and '.join(found.values())}, found none (columns: {{NAME: null}} "
            "leaves a column out)"
        )
    return found


def _row(where: str, row: Mapping[str, Any], columns: ColumnsSpec, optional: Mapping[str, str]) -> _Row:
    for column in (columns.prompt, columns.response):
        if row.get(column) is None:
            keys = shown(", ".join(row), 80) or "none"
            raise InputError(f"{where}: {shown(column)}: must be given, found only the fields {keys}")
    asked, said = f"{where}: {shown(columns.prompt)}", f"{where}: {shown(columns.response)}"
    readers = {"count": number_of}
    numbers = {
        role: readers.get(role, log_probability_of)(row[column], f"{where}: {shown(column)}")
        for role, column in optional.items()
    }
    if numbers.get("count", 1) <= 0:
        raise InputError(f"{where}: {shown(optional['count'])}: must be greater than 0, found {numbers['count']:g}")
    taken = {columns.prompt, columns.response, *optional.values(), "tools"}
    return _Row(
        where,
        filled(text_of(row[columns.prompt], asked, tools=row.get("tools")), asked),
        response_of(row[columns.response], said),
        numbers.get("count", 1.0),
        numbers.get("log_reference"),
        numbers.get("log_proposal"),
        {key: value for key, value in row.items() if key not in taken},
    )


def _reference(distinct: Sequence[Sequence[_Row]]) -> Array:
    """Return the probabilities of a prompt's distinct responses, each with its equal rows: [k]."""
    if distinct[0][0].log_reference is None:
        weights = np.array([sum(one.count for one in equal) for equal in distinct])
        return np.asarray(weights / weights.sum())
    if distinct[0][0].log_proposal is None:
        for equal in distinct:
            other = next((one for one in equal if one.log_reference != equal[0].log_reference), None)
            if other is not None:
                raise InputError(
                    f"{other.where}: must have the log_reference of the same response before it "
                    f"({equal[0].log_reference}), found {other.log_reference}"
                )
        logs = np.array([equal[0].log_reference for equal in distinct])
    else:
        logs = np.array([np.logaddexp.reduce([_log_weight(one) for one in equal]) for equal in distinct])
    return normalized_weights(logs)


def _worth(distinct: Sequence[Sequence[_Row]]) -> float:
    """Return how many draws of the reference a prompt's draws are worth (Kish 1965), a row being ``count`` draws."""
    draws = [one for equal in distinct for one in equal]
    counts, logs = np.array([one.count for one in draws]), np.array([_log_weight(one) for one in draws])
    ratios = normalized_weights(logs - np.log(counts))
    return float((counts @ ratios) ** 2 / (counts @ ratios**2))


def _log_weight(row: _Row) -> float:
    assert row.log_reference is not None
    assert row.log_proposal is not None
    return float(np.log(row.count)) + row.log_reference - row.log_proposal


def _check_words(responses: Mapping[Text, Sequence[_Row]], name: str) -> None:
    """Refuse two responses of the same words: nobody could tell them apart in a receipt."""
    seen: dict[str, _Row] = {}
    for equal in responses.values():
        words = str(equal[0].response)
        if words in seen:
            raise InputError(
                f"{equal[0].where}: must differ in words from {seen[words].where.removeprefix(f'{name}: ')}, found a "
                "text and messages that say the same"
            )
        seen[words] = equal[0]


def _agreed(equal: Sequence[_Row], key: str) -> Any:
    """Return what equal rows say; raise InputError when they do not say the same."""
    said = equal[0].more.get(key)
    for one in equal:
        if one.more.get(key) != said:
            raise InputError(
                f"{one.where}: {shown(key)}: must be the same as for the same response before it ({kind(said)}), found "
                f"{kind(one.more.get(key))}"
            )
    return said
