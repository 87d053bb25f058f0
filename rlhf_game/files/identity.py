"""What decides how a function or an object of somebody's own behaves, as JSON: two that differ are told apart."""

import dataclasses
import functools
import hashlib
import inspect
import json
import site
import sys
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.registry import digests_of, package_of

LIBRARIES: Final = tuple(
    Path(place).resolve()
    for place in (
        sysconfig.get_paths()["stdlib"],
        sysconfig.get_paths()["purelib"],
        sysconfig.get_paths()["platlib"],
        *site.getsitepackages(),
        str(Path(__file__).parents[1]),  # this package: its version is said elsewhere
    )
)
"""Where code is that is known by its name: it is installed, and nobody's own."""

PLAIN: Final = (bool, int, float, str, bytes, tuple, list, dict, frozenset, type(None))
"""The types of values that say what they are."""


def identity_of(value: Any) -> Any:
    """Return what a function, or any value, is made of.

    Of a function: its code, its defaults, what it closes over, and the SHA-256 of its file and of the modules of its
    folder that it imports; without a file also the globals that it reads. Of a class without a file: its bases, its
    functions and what it says of plain values. Of an object: its class and all that it
    holds. Where it has an attribute ``identity``, that alone, with the class: what keeps something between calls needs
    one. Raises InputError when something has no identity of itself (a lock, an open file).
    """
    try:
        return _identity(value, ())
    except RecursionError:
        raise InputError(f"{value!r} must hold less inside each other, or have an attribute identity") from None


def _identity(value: Any, above: tuple[int, ...]) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, bytes):
        return {"bytes": hashlib.sha256(value).hexdigest()}
    if id(value) in above:
        return {"above": above[::-1].index(id(value))}
    return _structure(value, lambda inner: _identity(inner, (*above, id(value))))


def _structure(value: Any, of: Callable[[Any], Any]) -> Any:
    if isinstance(value, np.ndarray) and value.dtype != object:
        content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return {"array": [str(value.dtype), list(value.shape), content]}
    if isinstance(value, list | tuple):
        return [of(one) for one in value]
    if isinstance(value, set | frozenset):
        return {"set": sorted(json.dumps(of(one)) for one in value)}
    if isinstance(value, Mapping):
        return {"mapping": [[of(key), of(one)] for key, one in value.items()]}
    if isinstance(value, Path):
        return {"path": str(value)}
    known = None if isinstance(value, type | ModuleType) else getattr(value, "identity", None)
    if known is not None and not callable(known):
        return {"class": of(type(value)), "identity": of(known)}
    return _code_of(value, of) or _object(value, of)


def _code_of(value: Any, of: Callable[[Any], Any]) -> Any:
    """Return what a function, a class or a module is made of; None of anything else."""
    if isinstance(value, type) and not _is_named(value):
        return {"name": _name(value), "bases": of(value.__bases__), "members": of(_members(value))}
    if isinstance(value, type | ModuleType | BuiltinFunctionType):
        return {"name": _name(value), "files": _files(value)}
    if isinstance(value, FunctionType):
        return _function(value, of)
    if isinstance(value, MethodType):
        return {"method": value.__name__, "of": of(value.__self__), "function": of(value.__func__)}
    if isinstance(value, functools.partial):
        return {"partial": of(value.func), "arguments": of(value.args), "named": of(value.keywords)}
    return None


def _object(value: Any, of: Callable[[Any], Any]) -> Any:
    if dataclasses.is_dataclass(value):
        held = {field.name: of(getattr(value, field.name)) for field in dataclasses.fields(value) if field.compare}
        return {"class": of(type(value)), "fields": held}
    if hasattr(value, "detach") and hasattr(value, "numpy"):  # a tensor of torch
        return of(value.detach().cpu().float().numpy())
    try:
        reduced = value.__reduce_ex__(4)
    except (TypeError, ValueError, AttributeError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{value!r} must be known by what it holds, or have an attribute identity: {error}") from None
    if isinstance(reduced, str):
        return {"class": of(type(value)), "name": reduced}
    items = [list(more) for more in reduced[3:5] if more is not None]
    return {"class": of(type(value)), "made_by": of(reduced[:3]), "items": of(items)}


def _members(value: type) -> dict[str, Any]:
    """Return what a class says of itself: its functions, and what is written as a plain value."""
    found = {}
    for name, one in vars(value).items():
        plain = getattr(one, "__func__", getattr(one, "fget", getattr(one, "func", one)))  # what decorators hold
        if isinstance(plain, FunctionType) or (isinstance(plain, PLAIN) and not name.startswith("__")):
            found[name] = plain
    return found


def _function(value: FunctionType, of: Callable[[Any], Any]) -> Any:
    cells = [cell for cell in value.__closure__ or () if cell != CellType()]
    found = {
        "name": _name(value),
        "code": _code(value.__code__),
        "files": _files(value),
        "defaults": of([value.__defaults__, value.__kwdefaults__]),
        "closure": of([cell.cell_contents for cell in cells]),
    }
    if _is_named(value):
        return found
    read = [name for name in value.__code__.co_names if name in value.__globals__]
    return {**found, "globals": of({name: value.__globals__[name] for name in read})}


def _code(code: CodeType) -> str:
    inner = [_constant(one) for one in code.co_consts]
    return hashlib.sha256(repr([code.co_code.hex(), inner, code.co_names, code.co_varnames]).encode()).hexdigest()


def _constant(value: Any) -> str:
    if isinstance(value, CodeType):
        return _code(value)
    return repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', getattr(value, '__name__', ''))}"


def _file(value: Any) -> Path | None:
    """Return the file that defines a value; None of what was typed in, or has no source."""
    try:
        file = Path(inspect.getsourcefile(value) or "").resolve()
    except (TypeError, OSError):  # built in; a class of a console or a notebook
        return None
    return file if file.is_file() else None


def _is_library(file: Path) -> bool:
    return any(file.is_relative_to(place) for place in LIBRARIES)


def _is_named(value: Any) -> bool:
    """Return whether a function is known by its name or its file."""
    return _file(value) is not None or getattr(value, "__module__", None) in sys.stdlib_module_names


def _files(value: Any) -> Any:
    """Return the SHA-256 of the file of somebody's own that defines a value, and of the modules it imports there."""
    file = _file(value)
    return {} if file is None or _is_library(file) else dict(sorted(digests_of(file, package_of(value)).items()))


def digest_of(value: Any) -> str:
    """Return the SHA-256 of what a value is made of (see identity_of)."""
    return hashlib.sha256(json.dumps(identity_of(value), sort_keys=True).encode()).hexdigest()
