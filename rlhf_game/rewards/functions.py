"""Rewards of the user's own: a function found by name, and numbers written down for texts."""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, final

from rlhf_game.callables import call
from rlhf_game.errors import InputError
from rlhf_game.registry import load, source_of
from rlhf_game.rewards.texts import Text, plain


@final
@dataclass(frozen=True)
class PythonFunction:
    """A reward function with TRL's signature, found by name when it is first called.

    target: ``package.module:function`` or ``path/to/file.py:function``; modules and files beside ``base`` come first.
    It may be a function, an async one, or an object that can be called, and gets what TRL hands to it as far as that is
    known: texts, the prompts' columns, ``completion_ids`` and ``trainer_state``. abstain: what None stands for, in the
    function's own unit; where it is None itself, the function must return a number for each completion.
    """

    target: str
    base: Path | None = None
    abstain: float | None = None

    @cached_property
    def _function(self) -> Callable[..., Any]:
        function = load(self.target, self.base)
        if not callable(function):
            raise InputError(f"must name a function, found {type(function).__name__} as {self.target!r}")
        return function  # type: ignore[no-any-return]

    @property
    def __name__(self) -> str:
        """The name as it was written."""
        return self.target

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any) -> Any:
        """Return what the function returns. Raises InputError when there is no such function."""
        given = {"prompts": prompts, "completions": completions, **columns}
        returned = call(self._function, given, name=self.target)
        if self.abstain is None or not isinstance(returned, list | tuple):
            return returned
        return [self.abstain if value is None else value for value in returned]

    @property
    def identity(self) -> dict[str, Any]:
        """The function, and the sha256 of its file and of the modules beside it that it imports."""
        files = source_of(self.target, self.base).document()
        return {"function": self.target, "abstain": self.abstain, "files": files}

    @property
    def provenance(self) -> dict[str, Any]:
        """The function, and the sha256 of the file that defines it."""
        function = self._function
        known = function if inspect.isroutine(function) or inspect.isclass(function) else type(function)
        source = inspect.getsourcefile(known)
        sha256 = None if source is None else hashlib.sha256(Path(source).read_bytes()).hexdigest()
        return {"function": self.target, "sha256": sha256}


@final
@dataclass(frozen=True, eq=False)
class TextTable:
    """Numbers written down for texts; a text that is not there gets ``default``, or is an error without one."""

    values: Mapping[str, float]
    default: float | None = None
    __name__: ClassVar[str] = "table"

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any) -> list[float]:
        """Return one number per completion. Raises InputError that names a text without a number."""
        found = []
        for text in map(plain, completions):
            value = self.values.get(text, self.default)
            if value is None:
                raise InputError(f"table: must have a number for each response (or a default), found none for {text!r}")
            found.append(float(value))
        return found


@final
@dataclass(frozen=True)
class Column:
    """The numbers in a column that comes with the prompts and completions."""

    column: str
    __name__: ClassVar[str] = "column"

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any) -> Any:
        """Return the column. Raises InputError without it."""
        if self.column not in columns:
            raise InputError(f"column: must be one beside the prompts, found none called {self.column!r}")
        return columns[self.column]
