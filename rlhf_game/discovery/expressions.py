"""Losses as expressions of a small language: read with limits, written, measured, evaluated. Never run as Python.

    relu(1 - z)
    where(z < 0, 2 * square(z - 1), -log_sigmoid(z / tau) * 0.05) + 0.1 * std(z)

Names: z (the margin, [b]), chosen and rejected (log-ratios in nats, [b]), beta, tau = 0.05; decimal numbers. Operators:
+ - * / and one comparison < <= > >= (1 where it holds, else 0). Functions: log_sigmoid sigmoid exp relu tanh abs square
of one argument, mean std var of the batch (std and var unbiased), where(condition, a, b), which takes a where the
condition is > 0.
"""

import ast
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar, final

from rlhf_game.errors import InputError
from rlhf_game.files.documents import shown

Value = TypeVar("Value")

NAMES = ("z", "chosen", "rejected", "beta", "tau")
TAU = 0.05
OPERATORS: Mapping[type[ast.AST], str] = MappingProxyType(
    {ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply", ast.Div: "divide"}
)
COMPARISONS: Mapping[type[ast.AST], str] = MappingProxyType(
    {ast.Lt: "less", ast.LtE: "at_most", ast.Gt: "greater", ast.GtE: "at_least"}
)
SIGNS: Mapping[str, str] = MappingProxyType({
    "add": "+", "subtract": "-", "multiply": "*", "divide": "/", "less": "<", "at_most": "<=", "greater": ">",
    "at_least": ">=",
})  # fmt: skip
UNARY = ("log_sigmoid", "sigmoid", "exp", "relu", "tanh", "abs", "square")
OF_BATCH = ("mean", "std", "var")
ARITY: Mapping[str, int] = MappingProxyType(
    {**dict.fromkeys((*UNARY, *OF_BATCH, "negate"), 1), **dict.fromkeys(SIGNS, 2), "where": 3}
)
"""How many parts each operation has."""
_LEVELS = {**dict.fromkeys(COMPARISONS.values(), 1), "add": 2, "subtract": 2, "multiply": 3, "divide": 3, "negate": 4}
LARGEST = 1e6
"""Of a number in an expression."""


@final
@dataclass(frozen=True)
class Number:
    """A number."""

    value: float


@final
@dataclass(frozen=True)
class Name:
    """One of NAMES."""

    name: str


@final
@dataclass(frozen=True)
class Apply:
    """An operation on its parts."""

    operation: str
    parts: tuple["Expression", ...]


Expression: TypeAlias = Number | Name | Apply


@final
@dataclass(frozen=True)
class Limits:
    """How large an expression may be: with a batch's length they bound the time and memory that it takes."""

    size: int = 40
    """Numbers, names and operations."""
    depth: int = 10
    letters: int = 1000
    """Of its text, looked at before anything else."""


def parse(text: str, limits: Limits | None = None) -> Expression:
    """Return the expression that a text spells. Raises InputError with the reason when it is none, or too large."""
    limits = limits or Limits()
    text = text.strip()
    if len(text) > limits.letters:
        raise InputError(f"an expression must have at most {limits.letters} letters, found {len(text)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(f"must be one expression, found {shown(text, 80)!r}") from None
    # Nodes of Python's tree are counted before ours is built: a loop, so that no depth can exhaust the stack.
    if sum(1 for _ in ast.walk(tree)) > 4 * limits.size:
        raise InputError(f"an expression must have a size of at most {limits.size}, found a larger one")
    found = _read(tree)
    check_limits(found, limits)
    return found


def check_limits(expression: Expression, limits: Limits) -> None:
    """Raise InputError when the expression is too large or too deep."""
    for name, found, most in (("size", size(expression), limits.size), ("depth", depth(expression), limits.depth)):
        if found > most:
            raise InputError(f"an expression must have a {name} of at most {most}, found {found}")


def _read(node: ast.AST) -> Expression:
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as value) if abs(value) <= LARGEST and isfinite(value):
            return Number(float(value))
        case ast.Name(id=str(name)) if name in NAMES:
            return Name(name)
        case ast.UnaryOp(op=ast.UAdd(), operand=part):
            return _read(part)
        case ast.UnaryOp(op=ast.USub(), operand=part):
            inner = _read(part)
            return Number(-inner.value) if isinstance(inner, Number) else Apply("negate", (inner,))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return Apply(OPERATORS[type(op)], (_read(left), _read(right)))
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARISONS:
            return Apply(COMPARISONS[type(op)], (_read(left), _read(right)))
        case ast.Call(func=ast.Name(id=str(name)), args=parts, keywords=[]) if name in (*UNARY, *OF_BATCH, "where"):
            if len(parts) != ARITY[name]:
                raise InputError(f"{name} must have {ARITY[name]} arguments, found {len(parts)}")
            return Apply(name, tuple(map(_read, parts)))
    raise InputError(f"{_described(node)} is not in the language of losses")


def _described(node: ast.AST) -> str:
    try:
        return repr(shown(ast.unparse(node), 60))
    except (ValueError, RecursionError):
        return type(node).__name__


def write(expression: Expression) -> str:
    """Return the text of an expression; ``parse`` reads it back."""
    return _write(expression)[0]


def _write(expression: Expression) -> tuple[str, int]:
    """Return the text, and how tightly it binds."""
    if isinstance(expression, Number):
        return f"{expression.value:.6g}", 4 if expression.value < 0 else 5
    if isinstance(expression, Name):
        return expression.name, 5
    operation, level = expression.operation, _LEVELS.get(expression.operation, 5)
    if operation == "negate":
        return "-" + _within(expression.parts[0], 5), level
    if operation in SIGNS:
        left, right = expression.parts
        # of the operators, those on the right of the same strength need brackets: a - (b - c); comparisons never chain
        return f"{_within(left, level + (level == 1))} {SIGNS[operation]} {_within(right, level + 1)}", level
    return f"{operation}({', '.join(write(part) for part in expression.parts)})", 5


def _within(part: Expression, level: int) -> str:
    text, own = _write(part)
    return text if own >= level else f"({text})"


def parts_of(expression: Expression) -> tuple[Expression, ...]:
    """Return the parts of an operation; a number and a name have none."""
    return expression.parts if isinstance(expression, Apply) else ()


def size(expression: Expression) -> int:
    """Return how many numbers, names and operations there are."""
    return 1 + sum(map(size, parts_of(expression)))


def depth(expression: Expression) -> int:
    """Return how many operations are inside one another, plus 1."""
    return 1 + max(map(depth, parts_of(expression)), default=0)


def uses(expression: Expression) -> frozenset[str]:
    """Return the names and operations in it."""
    own = {Name: "name", Apply: "operation"}.get(type(expression))
    return frozenset({str(getattr(expression, own))} if own else ()).union(*map(uses, parts_of(expression)))


def evaluate(
    expression: Expression, operations: Mapping[str, Callable[..., Value]], values: Mapping[str, Value]
) -> Value | float:
    """Return the value of an expression. operations: what each of ARITY does; values: of the NAMES."""
    if isinstance(expression, Number):
        return expression.value
    if isinstance(expression, Name):
        return values[expression.name]
    parts: list[Any] = [evaluate(part, operations, values) for part in expression.parts]
    return operations[expression.operation](*parts)
