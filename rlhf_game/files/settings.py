"""Single fields of a document, named by their path: ``strength``, ``groups[1].size``, ``weights.'sales team'``."""

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rlhf_game.errors import InputError
from rlhf_game.files.documents import parse_yaml, shown

_STEP: Final = re.compile(r"\.?(?:([A-Za-z_][A-Za-z_0-9]*)|'([^']+)'|\[([0-9]{1,9})\])")


def steps(field: str) -> list[str | int]:
    """Return the keys and positions that a field's path goes through, none of what is no path.

    ``strategies[0].temperature`` has three.
    """
    found: list[str | int] = []
    at = 0
    while at < len(field):
        step = _STEP.match(field, at)
        if step is None or (at == 0 and field[0] == ".") or (step[3] is not None and field[at] == "."):
            return []
        if at > 0 and step[3] is None and field[at] != ".":
            return []
        found.append(int(step[3]) if step[3] is not None else step[1] or step[2])
        at = step.end()
    return found


def changed(document: Mapping[str, Any], chosen: Mapping[str, Any], example: str) -> dict[str, Any]:
    """Return a copy of a document in which the chosen fields have their values; the last key may be a new one.

    Raises InputError that names the field when there is no such place. example: of fields, for the message.
    """
    out: dict[str, Any] = copy.deepcopy(dict(document))
    for field, value in chosen.items():
        *path, last = steps(field) or [""]
        place: Any = out
        for step in path:
            place = _inside(place, step)
        is_key = isinstance(last, str) and last != "" and isinstance(place, dict)
        if not is_key and not (isinstance(last, int) and isinstance(place, list) and last < len(place)):
            raise InputError(f"{shown(field)}: must be a field such as {example}, found no such place")
        place[last] = copy.deepcopy(value)
    return out


def set_fields(document: Mapping[str, Any], settings: Sequence[str], name: str) -> dict[str, Any]:
    """Return a document with fields set as ``path=value`` says, one after the other; values are YAML.

    Raises InputError that begins with ``name`` and the setting.
    """
    out = dict(document)
    for setting in settings:
        field, equals, text = setting.partition("=")
        where = f"{name}: --set {shown(field)}"
        if not equals or not steps(field):
            raise InputError(f"{where}: must be PATH=VALUE such as strength=0.2 or groups[0].size=3, found no path")
        value = parse_yaml(text, where) if text.strip() else None
        try:
            out = changed(out, {field: value}, "strength or groups[0].size")
        except InputError as error:
            raise InputError(f"{name}: --set {error}") from None
    return out


def _inside(place: Any, step: str | int) -> Any:
    if isinstance(step, str) and isinstance(place, dict):
        return place.get(step)
    if isinstance(step, int) and isinstance(place, list) and step < len(place):
        return place[step]
    return None
