"""The names of groups: each means one group, to the eye as well as to the computer."""

import unicodedata
from collections.abc import Iterable, Sequence

from rlhf_game.errors import InputError
from rlhf_game.files.documents import shown


def check_names(names: Sequence[str], weights: Iterable[str] = ()) -> None:
    """Raise InputError that names the field when two groups have one name, or a weight is of no group.

    Names that differ only in how an accent is encoded (Unicode NFC and NFD) look the same and count as one.
    """
    seen: dict[str, str] = {}
    for i, name in enumerate(names):
        other = seen.get(unicodedata.normalize("NFC", name))
        if other is not None:
            how = "twice" if other == name else "twice: the two differ only in how an accent is encoded"
            raise InputError(f"groups[{i}].name: must differ from the other names, found {shown(name)!r} {how}")
        seen[unicodedata.normalize("NFC", name)] = name
    for name in weights:
        if name not in names:
            raise InputError(f"weights.{shown(name)}: must be the name of a group, found none of that name")
