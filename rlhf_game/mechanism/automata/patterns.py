"""Regular expressions as rewards: a pattern becomes a deterministic automaton by its derivatives (Brzozowski 1964).

The derivative of an expression by a character is what must follow that character; expressions that are equal up to the
order, repetition and nesting of alternatives are one state, so there are finitely many.
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

from rlhf_game.errors import InputError
from rlhf_game.mechanism.automata.machines import RewardMachine, lift


@final
@dataclass(frozen=True)
class Characters:
    """Any character of the set, or (``is_negated``) any other."""

    members: frozenset[str]
    is_negated: bool = False


@final
@dataclass(frozen=True)
class Concatenation:
    """One expression after another."""

    first: "Expression"
    then: "Expression"


@final
@dataclass(frozen=True)
class Alternatives:
    """Any of the expressions; none of them: no text at all."""

    members: "frozenset[Expression]"


@final
@dataclass(frozen=True)
class Repetition:
    """Any number of times, none included."""

    inner: "Expression"


@final
@dataclass(frozen=True)
class EmptyText:
    """The empty text."""


Expression: TypeAlias = Characters | Concatenation | Alternatives | Repetition | EmptyText

IMPOSSIBLE = Alternatives(frozenset())
EMPTY = EmptyText()
ANY = Characters(frozenset(), is_negated=True)
CLASSES = {
    "d": frozenset(string.digits),
    "w": frozenset(string.ascii_letters + string.digits + "_"),
    "s": frozenset(" \t\n\r\f\v"),
}
CONTROLS = {"n": "\n", "t": "\t", "r": "\r"}
SPECIAL = "*+?{|)"


def pattern(expression: str, alphabet: Sequence[str], *, value: float = 1.0, is_whole: bool = False) -> RewardMachine:
    r"""Return the reward of a regular expression over the text of a sequence.

    By default ``value`` is earned once, by the token with which the text first contains a match. With ``is_whole`` the
    reward is ``value`` where the whole text matches: it is earned and lost as beginnings of the text match or not, so
    that the sum is right wherever a sequence ends (lower by ``value`` on all of them where the empty text matches).

    Literals, ``.``, ``[a-z]``, ``[^..]``, ``\d \w \s`` and their capitals, groups, ``|``, ``*``, ``+``, ``?`` and
    ``{m,n}``, with Python's meaning for ASCII (``.`` is any character). alphabet: the text of each token. Raises
    InputError for anything else (anchors, back-references, lazy repetition).
    """
    wanted = parse(expression)
    start = wanted if is_whole else _concatenate(Repetition(ANY), wanted)

    def step(state: Expression, character: str) -> tuple[Expression, float]:
        if not is_whole and _accepts_empty(state):
            return state, 0.0
        after = _derivative(state, character)
        return after, value * (_accepts_empty(after) - _accepts_empty(state))

    return lift(start, step, alphabet)[0]


def parse(expression: str) -> Expression:
    """Return a regular expression as a tree; raise InputError that says where it cannot be read."""
    parsed, at = _alternatives(expression, 0)
    if at < len(expression):
        raise _error(expression, at)
    return parsed


def _error(text: str, at: int) -> InputError:
    found = repr(text[at]) if at < len(text) else "its end"
    return InputError(f"must be a plain regular expression, got {found} at place {at} of {text!r}", field="pattern")


def _alternatives(text: str, at: int) -> tuple[Expression, int]:
    options = []
    while True:
        option, at = _sequence(text, at)
        options.append(option)
        if at >= len(text) or text[at] != "|":
            return _either(options), at
        at += 1


def _sequence(text: str, at: int) -> tuple[Expression, int]:
    parts: list[Expression] = []
    while at < len(text) and text[at] not in "|)":
        part, at = _atom(text, at)
        part, at = _repeated(part, text, at)
        parts.append(part)
    out: Expression = EMPTY
    for part in reversed(parts):
        out = _concatenate(part, out)
    return out, at


def _atom(text: str, at: int) -> tuple[Expression, int]:
    """Return the group, set, escape or character that begins at a place, and the place after it."""
    here = text[at]
    if here == "(":
        begin = at + 3 if text.startswith("(?:", at) else at + 1
        inner, end = _alternatives(text, begin)
        if end >= len(text) or text[begin : begin + 1] == "?":
            raise _error(text, end)
        return inner, end + 1
    if here == "[":
        return _set(text, at)
    if here == ".":
        return ANY, at + 1
    if here == "\\":
        return _escaped(text, at)
    if here in SPECIAL or here in "^$":
        raise _error(text, at)
    return Characters(frozenset(here)), at + 1


def _escaped(text: str, at: int) -> tuple[Characters, int]:
    """Return the characters that a backslash and its letter stand for, and the place after them."""
    if at + 1 >= len(text):
        raise _error(text, at + 1)
    name = text[at + 1]
    if name.lower() in CLASSES:
        return Characters(CLASSES[name.lower()], is_negated=name.isupper()), at + 2
    if name in CONTROLS:
        return Characters(frozenset(CONTROLS[name])), at + 2
    if name.isalnum():
        raise _error(text, at + 1)
    return Characters(frozenset(name)), at + 2


def _set(text: str, at: int) -> tuple[Characters, int]:
    """Return the characters of ``[...]`` or ``[^...]``, ranges included, and the place after it."""
    begin = at
    at += 1
    is_negated = text[at : at + 1] == "^"
    at += is_negated
    members: set[str] = set()
    while at < len(text) and (text[at] != "]" or not members):
        if text[at] == "\\":
            part, at = _escaped(text, at)
            if part.is_negated:
                raise _error(text, at - 1)
            members |= part.members
        elif text[at + 1 : at + 2] == "-" and text[at + 2 : at + 3] not in ("]", ""):
            low, high = text[at], text[at + 2]
            if low > high:
                raise _error(text, at)
            members |= {chr(code) for code in range(ord(low), ord(high) + 1)}
            at += 3
        else:
            members.add(text[at])
            at += 1
    if at >= len(text):
        raise _error(text, begin)
    return Characters(frozenset(members), is_negated), at + 1


def _repeated(part: Expression, text: str, at: int) -> tuple[Expression, int]:
    """Return a part with the ``*``, ``+``, ``?`` or ``{low,high}`` after it written out, and the place after that."""
    if at >= len(text) or text[at] not in "*+?{":
        return part, at
    if text[at] == "{":
        end = text.find("}", at)
        low, comma, high = text[at + 1 : end].partition(",")
        if end < 0 or not low.isdigit() or (high and not high.isdigit()):
            raise _error(text, at)
        least, most = int(low), int(high) if high else (None if comma else int(low))
        at = end
    else:
        least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[text[at]]
    if at + 1 < len(text) and text[at + 1] in "*+?{":
        raise _error(text, at + 1)
    if most is not None and most < least:
        raise _error(text, at)
    out: Expression = Repetition(part) if most is None else EMPTY
    for _ in range((most or least) - least):
        out = _either([EMPTY, _concatenate(part, out)])
    for _ in range(least):
        out = _concatenate(part, out)
    return out, at + 1


def _concatenate(first: Expression, then: Expression) -> Expression:
    if IMPOSSIBLE in (first, then):
        return IMPOSSIBLE
    if first == EMPTY:
        return then
    if then == EMPTY:
        return first
    if isinstance(first, Concatenation):
        return Concatenation(first.first, _concatenate(first.then, then))
    return Concatenation(first, then)


def _either(options: Sequence[Expression]) -> Expression:
    members: set[Expression] = set()
    for option in options:
        members |= option.members if isinstance(option, Alternatives) else {option}
    return next(iter(members)) if len(members) == 1 else Alternatives(frozenset(members))


def _accepts_empty(expression: Expression) -> bool:
    match expression:
        case EmptyText() | Repetition():
            return True
        case Concatenation(first, then):
            return _accepts_empty(first) and _accepts_empty(then)
        case Alternatives(members):
            return any(_accepts_empty(member) for member in members)
    return False


def _derivative(expression: Expression, character: str) -> Expression:
    match expression:
        case Characters(members, is_negated):
            return EMPTY if (character in members) != is_negated else IMPOSSIBLE
        case Concatenation(first, then):
            after = _concatenate(_derivative(first, character), then)
            return _either([after, _derivative(then, character)]) if _accepts_empty(first) else after
        case Alternatives(members):
            return _either([_derivative(member, character) for member in members])
        case Repetition(inner):
            return _concatenate(_derivative(inner, character), expression)
    return IMPOSSIBLE
