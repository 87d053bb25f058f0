"""Every error that this package raises on purpose.

RlhfGameError
 +-- InputError            what the user gave is wrong: exit code 2 (also a ValueError)
 +-- CombinationError      two parts that do not fit together (also a TypeError)
 +-- MissingExtra          an optional dependency is not installed: exit code 2 (also an ImportError)
 +-- RunError              the run failed for another reason: exit code 1 (also a RuntimeError)
"""


class RlhfGameError(Exception):
    """Base of every error that this package raises on purpose."""


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
