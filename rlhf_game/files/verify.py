"""Verifying: a receipt against the settlement of the same game made again."""

import re
from typing import Any

from rlhf_game import __version__
from rlhf_game.files.documents import shown
from rlhf_game.files.games import Game
from rlhf_game.files.policies import PolicyFile, row_difference
from rlhf_game.files.receipts import Interval, Number, Receipt
from rlhf_game.files.tables import largest

RELATIVE = 1e-9
"""Two numbers that differ by this share of the larger one agree."""
ABSOLUTE = 1e-12
"""Numbers that differ by this share of the game's own scale agree."""
ABSOLUTE_PAYMENT = 1e-28
"""The same for payments, which are exact however small they are."""


def differences(receipt: Receipt, game: Game, again: Receipt) -> list[str]:
    """Return one line for each field of a receipt that disagrees with the same game settled again.

    Texts and sizes must be equal. Numbers agree within RELATIVE of the larger, or within ABSOLUTE (payments:
    ABSOLUTE_PAYMENT) of the game's scale: max|r_i| for a value, size_i max|r_i| for a utility, 1 for a probability or
    divergence, sum_i size_i max|r_i| + strength * divergence + max|boost| for the rest. An interval agrees with an
    exact number inside it. The version must not be newer than the one that verifies. A policy in a file of its own is
    compared by policy_differences.
    """
    found = []
    if not () < _release(receipt.version) <= _release(__version__):
        found.append(f"version: the receipt says {receipt.version!a}, this is {__version__}")
    for field in ("game_sha256", "regularizer", "payment"):
        found += _unequal(field, getattr(receipt, field), getattr(again, field))
    tops = [largest(reward) for reward in game.rewards]
    total = sum(group.size * top for group, top in zip(again.groups, tops, strict=True))
    total += again.strength * _value(again.divergence) + (0.0 if game.boost is None else largest(game.boost))
    found += _apart("strength", receipt.strength, again.strength, 0.0)
    found += _policy_apart(receipt.policy, again.policy)
    found += _apart("divergence", receipt.divergence, again.divergence, ABSOLUTE)
    found += _apart("social_welfare", receipt.social_welfare, again.social_welfare, ABSOLUTE * total)
    welfare = (receipt.affine_social_welfare, again.affine_social_welfare)
    found += _apart("affine_social_welfare", *welfare, ABSOLUTE * total)
    found += _unequal("groups", len(receipt.groups), len(again.groups), " groups")
    for i, (mine, theirs, top) in enumerate(zip(receipt.groups, again.groups, tops, strict=False)):
        at = f"groups[{i}]"
        found += _unequal(f"{at}.name", mine.name, theirs.name)
        found += _unequal(f"{at}.size", mine.size, theirs.size)
        found += _apart(f"{at}.value", mine.value, theirs.value, ABSOLUTE * top)
        found += _apart(f"{at}.payment", mine.payment, theirs.payment, ABSOLUTE_PAYMENT * total)
        found += _apart(f"{at}.utility", mine.utility, theirs.utility, ABSOLUTE * theirs.size * top)
    return found


def _value(number: Number) -> float:
    return number.estimate if isinstance(number, Interval) else number


def _unequal(field: str, mine: Any, theirs: Any, unit: str = "") -> list[str]:
    if mine == theirs:
        return []
    return [f"{field}: the receipt says {_said(mine)}{unit}, the game gives {_said(theirs)}{unit}"]


def _said(value: Any) -> str:
    return repr(shown(value, 80)) if isinstance(value, str) else str(value)


def _apart(field: str, mine: Number, theirs: Number, absolute: float) -> list[str]:
    if isinstance(mine, float) and isinstance(theirs, float):
        if abs(mine - theirs) <= max(absolute, RELATIVE * max(abs(mine), abs(theirs))):
            return []
    elif isinstance(mine, Interval) and isinstance(theirs, Interval):
        pairs = [(f"{field}.{end}", getattr(mine, end), getattr(theirs, end)) for end in Interval.model_fields]
        return [line for name, a, b in pairs for line in _apart(name, a, b, absolute)]
    elif isinstance(mine, Interval) and isinstance(theirs, float) and mine.low <= theirs <= mine.high:
        return []
    return [f"{field}: the receipt says {_number(mine)}, the game gives {_number(theirs)}"]


def _number(value: Number) -> str:
    return f"{value.low!r} to {value.high!r}" if isinstance(value, Interval) else repr(value)


def _policy_apart(mine: Any, theirs: Any, at: str = "policy") -> list[str]:
    """Return the first probability that disagrees, or how the shapes do."""
    if theirs is None and (mine is None or isinstance(mine, PolicyFile)):
        return []
    if not (isinstance(mine, list) and isinstance(theirs, list)) or len(mine) != len(theirs):
        return [f"{at}: the receipt has another shape than the policy of the game"]
    if not (isinstance(mine[0], list) or isinstance(theirs[0], list)):
        return row_difference(mine, theirs, at)
    parts = (_policy_apart(a, b, f"{at}[{i}]") for i, (a, b) in enumerate(zip(mine, theirs, strict=True)))
    return next((part for part in parts if part), [])


def _release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version; of anything else, nothing."""
    parts = version.split(".")
    return tuple(map(int, parts)) if all(re.fullmatch("[0-9]{1,9}", part) for part in parts) else ()
