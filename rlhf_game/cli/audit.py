"""``audit``: what every group of a game could gain by lying, and what is proved about it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from rlhf_game.cli.games import TrustCode

if TYPE_CHECKING:
    from rlhf_game.agents.coalitions import Deviation
    from rlhf_game.files.games import Game
    from rlhf_game.mechanism.audit import Regret
    from rlhf_game.mechanism.reports import Report

VIOLATED: Final = 3


def audit(
    game: Annotated[
        Path, typer.Argument(metavar="GAME", help="A game (.yaml, .yml, .json), or a directory that `run` made.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the audit as JSON.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the search.")] = 0,
    starts: Annotated[int, typer.Option("--starts", min=1, help="Starts of the search, per prompt and size.")] = 64,
    check: Annotated[
        bool, typer.Option("--assert", help="Exit with 3 if a lie gains or a truthful group loses.")
    ] = False,
    coalitions: Annotated[
        bool, typer.Option("--coalitions", help="Also search for joint lies of every two groups.")
    ] = False,
    false_names: Annotated[
        bool, typer.Option("--false-names", help="Also search for lies of each group under two names.")
    ] = False,
    trusted: TrustCode = False,
) -> int:
    """Search for profitable lies of every group, and print the bracket [found, proved] of its regret.

    What is found is a lower bound, with the report that attains it; only the bound is a proof. Where outcomes are
    missing from the game, what is audited is the mechanism that runs: the one over the outcomes that were found.
    """
    import numpy as np

    from rlhf_game.agents.audit import audit as audit_groups
    from rlhf_game.agents.audit import standard_strategies
    from rlhf_game.agents.coalitions import Coalition
    from rlhf_game.agents.false_names import FalseNames
    from rlhf_game.cli.display import show_audit, write_out
    from rlhf_game.files.build import build, settle
    from rlhf_game.files.games import read_game
    from rlhf_game.files.parts import label
    from rlhf_game.mechanism.audit import SIZES
    from rlhf_game.mechanism.spaces.trie import Trie

    one = read_game(_file(game), trusted=trusted)
    settle(one)  # an error names the file and the field
    space, mechanism, groups = build(one)
    is_partial = isinstance(space, Trie)
    if isinstance(space, Trie):
        space = space.table
    limit = one.fields.size_limit
    if limit is None:
        limit = SIZES * max(group.size for group in groups)
    streams = np.random.default_rng(seed).spawn(3)
    strategies = standard_strategies(len(groups), starts)
    with np.errstate(all="ignore"):
        regrets = audit_groups(mechanism, groups, space, strategies, rng=streams[0], size_limit=limit)
        joint = {}
        if coalitions:
            pairs = [(i, j) for j in range(len(groups)) for i in range(j)]
            joint["coalitions"] = [
                Coalition(pair, starts).deviate(mechanism, groups, space, limit, rng)
                for pair, rng in zip(pairs, streams[1].spawn(len(pairs)), strict=True)
            ]
        if false_names:
            joint["false_names"] = [
                FalseNames(at, 2, starts).deviate(mechanism, groups, space, limit, rng)
                for at, rng in enumerate(streams[2].spawn(len(groups)))
            ]
    if as_json:
        outcomes = "found" if is_partial else "all"
        write_out(_document(one, regrets, joint, limit, starts, seed, outcomes))
    else:
        show_audit(label("payment", one.fields.payment), regrets, joint)
        if is_partial:
            write_out("audited: the mechanism that runs, which is the one over the responses that were found.\n")
    return _verdict(regrets) if check else 0


def _file(path: Path) -> Path:
    """Return the game file: of a directory that ``run`` made, its game."""
    from rlhf_game.errors import InputError

    if not path.is_dir():
        return path
    inside = path / "game.json"
    if not inside.is_file():
        raise InputError(f"{path}: must be a game file or a directory with a game.json (as `run` makes it), found none")
    return inside


def _verdict(regrets: "Sequence[Regret]") -> int:
    """Say on stderr which group breaks DSIC or IR, and by how much; return the exit code."""
    lines = [
        f"DSIC does not hold: {regret.group!r} gains {regret.found:.9g} (tolerance {regret.best.tolerance:.1g}) "
        f"by {regret.best.strategy}"
        for regret in regrets
        if regret.is_refuted
    ]
    lines += [
        f"IR does not hold: {regret.group!r} has {regret.ir_margin:.9g} < 0 at the truth "
        f"(tolerance {regret.tolerance:.1g})"
        for regret in regrets
        if not regret.is_rational
    ]
    for line in lines:
        typer.echo(line, err=True)
    return VIOLATED if lines else 0


def _document(
    game: "Game",
    regrets: "Sequence[Regret]",
    joint: "dict[str, list[Deviation]]",
    limit: int,
    starts: int,
    seed: int,
    outcomes: str,
) -> str:
    from rlhf_game.files.parts import label
    from rlhf_game.mechanism.audit import TOLERANCE

    content: dict[str, Any] = {
        "payment": label("payment", game.fields.payment),
        "outcomes": outcomes,
        "groups": [_group(regret) for regret in regrets],
        **{name: [_joint(deviation) for deviation in deviations] for name, deviations in joint.items()},
        "domain": game.fields.normalization,
        "size_limit": limit,
        "tolerance": TOLERANCE,
        "starts": starts,
        "seed": seed,
        "game_sha256": game.sha256,
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _group(regret: "Regret") -> dict[str, Any]:
    return {
        "name": regret.group,
        "truthful_utility": regret.truthful_utility,
        "ir_margin": regret.ir_margin,
        "ir_bound": regret.ir_bound,
        "regret_found": regret.found,
        "regret_bound": regret.bound,
        "best_gain": regret.gain,
        "best_strategy": regret.best.strategy,
        "best_report": _report(regret.report),
        "gains": {trial.strategy: trial.gain for trial in regret.trials},
    }


def _joint(deviation: "Deviation") -> dict[str, Any]:
    return {
        "members": list(deviation.members),
        "truthful_utility": deviation.truthful_utility,
        "gain_found": deviation.found,
        "reports": [_report(report) for report in deviation.reports],
    }


def _report(report: "Report") -> dict[str, Any]:
    reward: Any = report.reward
    rows = isinstance(reward, list) and len(reward) > 0 and not isinstance(reward[0], int | float)
    return {"size": int(report.size), "reward": [_list(row) for row in reward] if rows else _list(reward)}


def _list(row: Any) -> Any:
    return row if isinstance(row, list) else row.tolist()
