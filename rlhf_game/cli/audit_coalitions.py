"""The part of ``audit`` that turns to sets of groups: joint lies, the core, and whether some lose together."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhf_game.agents.coalitions import Deviation
    from rlhf_game.mechanism.mechanism import Mechanism
    from rlhf_game.mechanism.reports import Group
    from rlhf_game.mechanism.spaces.base import PolicySpace


def joint_lies(
    mechanism: "Mechanism", groups: "Sequence[Group]", space: "PolicySpace[Any]", limit: int, starts: int, rng: Any
) -> "list[Deviation]":
    """Return the best joint lies found of every two groups."""
    from rlhf_game.agents.coalitions import Coalition

    pairs = [(i, j) for j in range(len(groups)) for i in range(j)]
    return [
        Coalition(pair, starts).deviate(mechanism, groups, space, limit, stream)
        for pair, stream in zip(pairs, rng.spawn(len(pairs)), strict=True)
    ]


def of_sets(mechanism: "Mechanism", groups: "Sequence[Group]", space: "PolicySpace[Any]") -> dict[str, Any]:
    """Return what ``audit --coalitions --json`` says of the truthful settlement, or why that is not known."""
    from rlhf_game.errors import CombinationError, InputError

    found: dict[str, Any] = {}
    for name, of, keys in (
        ("core", _core, ("is_in", "worst_gain")),
        ("coalitional_ir", _rational, ("is_met", "least_utility")),
    ):
        try:
            found[name] = of(mechanism, groups, space)
        except (CombinationError, InputError) as error:
            found[name] = {**dict.fromkeys(keys), "why": str(error)}
    return found


def _core(mechanism: "Mechanism", groups: "Sequence[Group]", space: "PolicySpace[Any]") -> dict[str, Any]:
    from rlhf_game.agents.core import core

    found = core(mechanism, groups, space)
    return {
        "is_in": found.is_in,
        "worst_gain": found.worst_gain,
        "blocking": list(found.blocking),
        "least_revenue": found.least_revenue,
    }


def _rational(mechanism: "Mechanism", groups: "Sequence[Group]", space: "PolicySpace[Any]") -> dict[str, Any]:
    from rlhf_game.agents.core import coalitional_rationality

    found = coalitional_rationality(mechanism, groups, space)
    return {
        "is_met": found.is_met,
        "least_utility": found.least_utility,
        "members": list(found.losing),
        "own_model": {"gain": found.own_gain, "members": list(found.leaving)},
    }


def _rational_in_words(found: dict[str, Any]) -> str:
    from rlhf_game.cli.display import number

    if found["is_met"] is None:
        return f"whether some groups lose together is not known: {found['why']}\n"
    who, own = " + ".join(found["members"]), found["own_model"]
    said = f"no groups lose together: {who} keep least, {number(found['least_utility'])}."
    if not found["is_met"]:
        said = f"{who} pay {number(-found['least_utility'])} more together than the model is worth to them."
    return (
        f"{said} By a model of their own, at its cost, {' + '.join(own['members'])} would have {number(own['gain'])} "
        "more.\n"
    )


def in_words(found: Mapping[str, Any]) -> str:
    """Return in words what is known of sets of groups: a line of the core, and one of what they have together."""
    return _core_in_words(found["core"]) + _rational_in_words(found["coalitional_ir"])


def _core_in_words(core: dict[str, Any]) -> str:
    from rlhf_game.cli.display import number

    if core["is_in"] is None:
        return f"whether the settlement is in the core is not known: {core['why']}\n"
    who = f"{' + '.join(core['blocking'])} and the provider gain" if core["blocking"] else "the provider alone gains"
    said = (
        "the settlement is in the core." if core["is_in"] else f"not in the core: {who} {number(core['worst_gain'])}."
    )
    return f"{said} The least revenue in the core is {number(core['least_revenue'])}.\n"
