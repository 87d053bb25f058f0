"""How files name a part that may vary: as a text, or as a mapping with the name and the part's own fields."""

import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, TypeAlias

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from rlhf_game.errors import InputError
from rlhf_game.files.hints import RegisteredPart
from rlhf_game.files.identity import digest_of
from rlhf_game.registry import is_built_in, is_code, names, registered, source_file, source_of_part

PLACES: Final = "path/to/file.py:Name or package.module:Name"
"""How code is named that is not registered."""
NAMED_BY: Final[Mapping[str, str]] = MappingProxyType({"training": "rule"})
"""Under which key a mapping names a part, where it is not ``kind``."""


def alpha_order(name: str) -> float | None:
    """Return A of ``alpha:A``, or None if the name is not of that form."""
    prefix, _, order = name.partition(":")
    try:
        return float(order) if prefix == "alpha" else None
    except ValueError:
        return None


def split(role: str, said: Any) -> tuple[str, dict[str, Any]]:
    """Return the name of a part and its own fields, from a text or a mapping."""
    if isinstance(said, str):
        order = alpha_order(said) if role == "regularizer" else None
        return (said, {}) if order is None else ("alpha", {"order": order})
    key = NAMED_BY.get(role, "kind")
    return said[key], {name: value for name, value in said.items() if name != key}


def label(role: str, said: Any) -> str:
    """Return how a part is called in receipts: its text, or its name and fields."""
    if isinstance(said, str):
        return said
    name, fields = split(role, said)
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in fields.items())})" if fields else name


def sources(said: Mapping[str, Any], base: Path, *, trusted: bool) -> dict[str, dict[str, str]]:
    """Return the digests of parts that did not come with this package, by role. said: what a file says of each role.

    Raises InputError, without running anything, where code is named and not trusted, or is not there.
    """
    found: dict[str, dict[str, str]] = {}
    for role, one in said.items():
        if one is None:
            continue
        name = split(role, one)[0]
        if not trusted and is_code(role, name):
            known = _known(role)
            raise InputError(
                f"{role}: must be {f'one of {known}' if known else 'no code'}, for a game that is not trusted to run "
                f"code; found {name!r} (--trust-code lets it run)"
            )
        try:
            digests = _digests(role, name, base, None)
        except InputError as error:
            raise InputError(f"{role}: {error}") from None
        found |= {role: digests} if digests else {}
    return found


def hashes_of_parts(said: Iterable[tuple[str, Any]], base: Path) -> dict[str, str]:
    """Return the digests of what parts are that did not come with this package. said: role and part.

    Files are called as they are from ``base``. Raises InputError where code is named that is not there.
    """
    found = dict[str, str]()
    for role, one in said:
        found |= _digests(role, split(role, one)[0], base, base)
    return dict(sorted(found.items()))


def _digests(role: str, name: str, base: Path, start: Path | None) -> dict[str, str]:
    """Return what decides what a part does, {} of one of this package. start: what paths of files start from."""
    own = registered(role, name)
    if own is not None:
        return {name: digest_of(own)}
    source = source_of_part(role, name, base)
    return {} if source is None else source.document(start)


def moved(role: str, said: Any, base: Path, folder: Path) -> Any:
    """Return what a file in ``folder`` must say for the part that one in ``base`` names."""
    if said is None:
        return None
    name, _ = split(role, said)
    file = source_file(name, base) if is_code(role, name) else None
    if file is None:
        return said
    there = f"{os.path.relpath(file.resolve(), folder.resolve())}:{name.rpartition(':')[2]}"
    return there if isinstance(said, str) else {**said, NAMED_BY.get(role, "kind"): there}


def _known(role: str) -> str:
    return ", ".join("alpha:A" if name == "alpha" else name for name in names(role))


def _check(role: str, said: Any) -> Any:
    key = NAMED_BY.get(role, "kind")
    if not isinstance(said, str) and not (isinstance(said, dict) and isinstance(said.get(key), str)):
        raise PydanticCustomError("part", "must be a name, or a mapping with the name as {key}", {"key": key})
    name, fields = split(role, said)
    order = fields.get("order") if name == "alpha" else 2.0
    is_order = isinstance(order, int | float) and isfinite(order) and order not in (0, 1)
    if is_order and (":" in name or name in names(role)):
        return said
    known = _known(role).replace("alpha:A", "alpha:A with a number A other than 0 and 1")
    known = f"{known}, " if known else ""
    raise PydanticCustomError("part", "must be {known}{places}", {"known": known, "places": PLACES})


SomeRegularizer: TypeAlias = Annotated[
    Any, AfterValidator(partial(_check, "regularizer")), RegisteredPart("kind", partial(names, "regularizer"))
]
SomePayment: TypeAlias = Annotated[
    Any, AfterValidator(partial(_check, "payment")), RegisteredPart("kind", partial(names, "payment"))
]
SomeSpace: TypeAlias = Annotated[
    Any, AfterValidator(partial(_check, "space")), RegisteredPart("kind", partial(names, "space"))
]


def whose(role: str) -> Callable[[Any], str]:
    """Return what tags a part: ``<own>`` if it is code or registered by someone else, ``<known>`` otherwise."""

    def tag(said: Any) -> str:
        name = said.get("kind") if isinstance(said, dict) else getattr(said, "kind", None)
        is_own = isinstance(name, str) and (":" in name or (name in names(role) and not is_built_in(role, name)))
        return "<own>" if is_own else "<known>"

    return tag


SomeTraining: TypeAlias = Annotated[
    Any, AfterValidator(partial(_check, "training")), RegisteredPart("rule", partial(names, "training"))
]
