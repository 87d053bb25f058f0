"""Every error that this package raises on purpose.

RlhfGameError
 +-- InputError            what the user gave is wrong: exit code 2 (also a ValueError)
 +-- CombinationError      two parts that do not fit together (also a TypeError)
 +-- MissingExtra          an optional dependency is not installed: exit code 2 (also an ImportError)
 +-- RunError              the run failed for another reason: exit code 1 (also a RuntimeError)

What files, models, templates, functions and endpoints of others raise passes ``boundary``, which makes one of these.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class RlhfGameError(Exception):
    """Base of every error that this package raises on purpose.

    field: what the message is about (``reward[2]``), where it is said apart, so that whoever read the value from a file
    can say where it stands there. rest: the message without it (``must be ..., got ...``).
    """

    def __init__(self, message: str = "", *, field: str = "") -> None:
        super().__init__(f"{field} {message}" if field else message)
        self.field, self.rest = field, message


class InputError(RlhfGameError, ValueError):
    """What the user gave is wrong; the message names the field, what it must be and what it is."""


class CombinationError(RlhfGameError, TypeError):
    """Two parts that do not fit together; the message names both and the way out."""


class MissingExtra(RlhfGameError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    def __init__(self, extra: str, package: str) -> None:
        super().__init__(f"{package} is not installed; it comes with: pip install 'rlhf-game[{extra}]'")
        self.extra = extra


class RunError(RlhfGameError, RuntimeError):
    """A run failed although its input was right."""


@contextmanager
def boundary(what: str, kind: type[InputError] | type[RunError] = RunError) -> Iterator[None]:
    """Turn whatever happens inside into one line of ``kind``, ``what: what happened``; errors of this package pass.

    For code and files of others, of which anything may be expected: sys.exit is a failure there too. Ctrl-C passes.
    """
    try:
        yield
    except (RlhfGameError, KeyboardInterrupt, GeneratorExit):
        raise
    except StopIteration as error:  # as the cause of a RuntimeError, contextlib would let it pass
        raise kind(f"{what}: {happened(error)}") from None
    except BaseException as error:
        raise kind(f"{what}: {happened(error)}") from error


def happened(error: BaseException) -> str:
    """Return what an error of others says, on one line of at most 300 characters."""
    said = "it called sys.exit" if isinstance(error, SystemExit) else type(error).__name__
    words = " ".join(str(error).split())
    return f"{said}: {words}"[:300] if words else said
