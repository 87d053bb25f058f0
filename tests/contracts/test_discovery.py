"""Every concrete class of an abstract noun has an entry in the noun's suite: a new one without an entry fails here."""

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest

import rlhf_game as rg
from rlhf_game.files.schema import CommonFields
from rlhf_game.mechanism.spaces.base import Policy
from rlhf_game.simulations.fields import StudyFields
from rlhf_game.simulations.populations import Scenario
from rlhf_game.simulations.strategies import StudyStrategy
from tests.contracts.implementations import IMPLEMENTATIONS
from tests.contracts.test_rules import PAIRS
from tests.house_rules import sources
from tests.strategies import NAMES, regularizer

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = {
    "Draws": "tests/outcomes/test_draws_space.py",  # known through draws: its numbers are estimates
    "Finetuned": "tests/training_backends/test_finetuned.py",  # trained: its optimum is approximate
    "FinetunedPayments": "tests/training_backends/test_finetuned.py",
    "InTurn": "tests/mechanism/test_settle_many.py",  # many games: there is one of each number for each game
    "ForeignRule": "tests/agents/test_foreign.py",  # a function of someone else's: nothing is promised
    "ForeignPayments": "tests/agents/test_foreign.py",
}
"""What cannot keep a whole contract, why, and where it is tested."""


def concrete(noun: type) -> Iterator[type]:
    for found in walk_packages(rg.__path__, "rlhf_game."):
        if not found.name.endswith("__main__"):
            try:
                import_module(found.name)
            except rg.MissingExtra as missing:
                pytest.skip(str(missing))
    waiting = [noun]
    while waiting:
        one = waiting.pop()
        waiting += one.__subclasses__()
        if one.__module__.startswith("rlhf_game.") and getattr(one, "__final__", False):
            yield one


@pytest.mark.parametrize(
    ("noun", "entries"),
    [
        (rg.PolicySpace, lambda: {type(one.build(1.0)) for one in IMPLEMENTATIONS}),
        (rg.Regularizer, lambda: {type(regularizer(name, 1.0)) for name in NAMES}),
        (rg.TrainingRule, lambda: {type(training) for training, _ in PAIRS}),
        (rg.PaymentRule, lambda: {type(payment) for _, payment in PAIRS}),
    ],
    ids=["spaces", "regularizers", "training", "payments"],
)
def test_every_class_is_in_its_suite(noun: type, entries: object) -> None:
    tested = {one.__name__ for one in entries()}  # type: ignore[operator]
    found = {one.__name__ for one in concrete(noun)}
    assert len(found) > 3
    assert found - tested - set(ELSEWHERE) == set()
    assert tested & set(ELSEWHERE) == set()


def test_what_is_tested_elsewhere_is_tested() -> None:
    for place in ELSEWHERE.values():
        assert "def test_" in (ROOT / place).read_text(encoding="utf-8")


ASKED_FOR_A_CLASS = {
    "rlhf_game/files/build.py": 1,  # of several models, payments have formulas of their own
    "rlhf_game/files/own.py": 1,  # a bill is checked by the formula of affine payments
    "rlhf_game/mechanism/certified.py": 2,  # and bounded by it
}
"""Where code asks whether something is a certain class of the package, and how often; elsewhere it does not."""


def test_code_asks_for_capabilities_and_not_for_classes() -> None:
    nouns = (
        rg.PolicySpace, Policy, rg.Regularizer, rg.TrainingRule, rg.PaymentRule, CommonFields, StudyStrategy,
        StudyFields, Scenario,
    )  # fmt: skip
    names = {one.__name__ for noun in nouns for one in concrete(noun)}
    assert {"Table", "TablePolicy", "KL", "SocialWelfare", "NoPayments", "MenuFields", "OwnStrategy"} <= names
    found: dict[str, int] = {}
    for source in sources("rlhf_game/**/*.py"):
        count = sum(_asks(node, names) for node in ast.walk(source.tree))
        found |= {source.path: count} if count else {}
    assert {path: count for path, count in found.items() if count > ASKED_FOR_A_CLASS.get(path, 0)} == {}


def _asks(node: ast.AST, names: set[str]) -> bool:
    """Return whether a node is isinstance(..., one of the classes), or compares a type with one of them."""
    match node:
        case ast.Call(func=ast.Name("isinstance"), args=[_, asked]):
            pass
        case ast.Compare(left=ast.Call(func=ast.Name("type")), comparators=[asked]):
            pass
        case _:
            return False
    return any(isinstance(one, ast.Name) and one.id in names for one in ast.walk(asked))


def test_a_question_for_a_class_is_seen() -> None:
    asks = "isinstance(space, Table | Menu)\ntype(space) in (Table, Menu)\ntype(space) is not Menu\n"
    tree = ast.parse(asks + "isinstance(space, Mapping)\nisinstance(Table, Mapping)\ntype(space) is Mapping")
    assert sum(_asks(node, {"Table", "Menu"}) for node in ast.walk(tree)) == 3
