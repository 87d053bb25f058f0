"""The part of ``audit`` that turns to the provider: what it could gain by cheating."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rlhf_game.files.games import Game
    from rlhf_game.mechanism.mechanism import Mechanism
    from rlhf_game.mechanism.reports import Group
    from rlhf_game.mechanism.spaces.base import PolicySpace


def provider(
    game: "Game",
    mechanism: "Mechanism",
    groups: "Sequence[Group]",
    space: "PolicySpace[Any]",
    limit: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Return what ``audit --provider --json`` says; other strengths are those of the same game file."""
    from rlhf_game.agents.provider import audit_provider
    from rlhf_game.files.build import build

    def at_strength(strength: float) -> "PolicySpace[Any]":
        other: Any = build(replace(game, fields=game.fields.model_copy(update={"strength": strength})))[0]
        table: PolicySpace[Any] = getattr(other, "table", other)
        return table

    found = audit_provider(
        mechanism, groups, space, size_limit=limit, rng=rng, strength=game.fields.strength, at_strength=at_strength
    )
    best = found.best
    witness: dict[str, Any] = {"kind": best.kind}
    if best.report is not None:
        from rlhf_game.cli.report_document import report_document

        witness["report"] = report_document(best.report)
    if best.groups:
        witness["groups"] = list(best.groups)
    if best.strength is not None:
        witness["strength"] = best.strength
    return {
        "revenue": found.revenue,
        "best_revenue": best.revenue,
        "gain": found.gain,
        "witness": witness,
        "by_kind": {cheat.kind: cheat.revenue for cheat in found.cheats if np.isfinite(cheat.revenue)},
    }


def in_words(found: Mapping[str, Any]) -> str:
    """Return in words what the provider could gain."""
    witness = found["witness"]
    match witness["kind"]:
        case "invented":
            what = f"inventing a group of {witness['report']['size']}"
        case "withheld":
            what = f"not hearing {' and '.join(witness['groups'])}"
        case "strength":
            what = f"training at strength {witness['strength']:.4g}"
        case _:
            what = "nothing that was tried"
    return (
        f"the provider: honest revenue {found['revenue']:.6g}; {what} brings {found['best_revenue']:.6g} from the real "
        f"groups, {found['gain']:.6g} more (a search: at least that)\n"
    )
