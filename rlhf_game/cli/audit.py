"""``audit``: what every group of a game could gain by lying, and what is proved about it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from rlhf_game.cli.report_document import report_document
from rlhf_game.cli.set_option import Settings
from rlhf_game.cli.settle import TrustCode

if TYPE_CHECKING:
    from rlhf_game.agents.coalitions import Deviation
    from rlhf_game.files.games import Game
    from rlhf_game.mechanism.mechanism import Mechanism
    from rlhf_game.mechanism.regret import Regret
    from rlhf_game.mechanism.reports import Group
    from rlhf_game.mechanism.spaces.base import PolicySpace
    from rlhf_game.outcomes.draws.listing import PlayedDraws

VIOLATED: Final = 3


def audit(
    game: Annotated[
        Path,
        typer.Argument(
            metavar="GAME",
            help="A game (.yaml, .yml, .json), a directory that `run` made, or a run's configuration with draws of a "
            "model whose responses can all be listed; of a directory with other draws, the texts on its tape.",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the audit as JSON.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the search.")] = 0,
    starts: Annotated[
        int | None,
        typer.Option("--starts", min=1, help="Starts of the search, per prompt and size. [64; 8 if no lie can gain]"),
    ] = None,
    check: Annotated[
        bool, typer.Option("--assert", help="Exit with 3 if a lie gains or a truthful group loses.")
    ] = False,
    coalitions: Annotated[
        bool, typer.Option("--coalitions", help="Also search for joint lies of every two groups, and ask for the core.")
    ] = False,
    false_names: Annotated[
        bool, typer.Option("--false-names", help="Also search for lies of each group under several names.")
    ] = False,
    names: Annotated[int, typer.Option("--names", min=2, max=20, help="With --false-names: at most so many.")] = 2,
    rules: Annotated[
        str | None,
        typer.Option(
            "--mechanism", metavar="MODULE:FUNCTION", help="Audit this instead: rewards, sizes to policy, payments."
        ),
    ] = None,
    prior: Annotated[
        Path | None,
        typer.Option("--prior", metavar="PRIOR", help="Also: what lies gain on average over types of this scenario."),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=2, help="With --prior: draws of the others' types.")] = 200,
    types: Annotated[
        int, typer.Option("--types", min=0, max=1000, help="With --prior: also so many types of each group, drawn.")
    ] = 0,
    provider: Annotated[
        bool, typer.Option("--provider", help="Also search for what the provider could gain by cheating.")
    ] = False,
    strategy: Annotated[
        list[str] | None,
        typer.Option("--strategy", metavar="NAME", help="Also try this lie (path/to/file.py:Name)."),
    ] = None,
    trusted: TrustCode = False,
    settings: Settings = None,
) -> int:
    """Search for profitable lies of every group, and print the bracket [found, proved] of its regret.

    What is found is a lower bound, with the report that attains it; only the bound is a proof. Where outcomes are
    missing from the game, what is audited is the mechanism that runs: the one over the outcomes that were found. Of a
    configuration with draws it is the exact game: what a lie gains in it is what it gains on average over tapes.
    Of a run with draws it is the same where its responses can all be listed, else the game over the texts on its tape.
    """
    import numpy as np

    from rlhf_game.agents.audit import PROVED_STARTS, STARTS, is_proved, standard_strategies
    from rlhf_game.agents.audit import audit as audit_groups
    from rlhf_game.agents.false_names import FalseNames
    from rlhf_game.cli.audit_coalitions import joint_lies, of_sets
    from rlhf_game.cli.audit_provider import provider as audit_provider
    from rlhf_game.cli.display import show_audit, write_out
    from rlhf_game.files.build import build, make, settle
    from rlhf_game.files.parts import label
    from rlhf_game.mechanism.regret import SIZES

    one, draws = _read(game, trusted, settings or ())
    settle(one)  # an error names the file and the field
    space, mechanism, groups = build(one)
    if rules is not None:
        mechanism = _foreign(rules)
    is_partial = space.running is not space
    space = space.running
    limit = one.fields.size_limit or SIZES * max(group.size for group in groups)
    streams = np.random.default_rng(seed).spawn(5)
    is_short = starts is None and is_proved(mechanism, groups, space)
    begun = starts or STARTS
    strategies = standard_strategies(len(groups), starts, is_proved=is_short)
    strategies += [make("strategy", name, Path(), "--strategy") for name in strategy or ()]
    with np.errstate(all="ignore"):
        regrets = audit_groups(mechanism, groups, space, strategies, rng=streams[0], size_limit=limit)
        joint, more = {}, dict[str, Any]()
        if prior is not None:
            more["interim"] = _interim(prior, one, mechanism, groups, space, limit, (samples, types), streams[3])
        if provider:
            more["provider"] = audit_provider(one, mechanism, groups, space, limit, streams[4])
        if coalitions:
            more |= of_sets(mechanism, groups, space)
            joint["coalitions"] = joint_lies(mechanism, groups, space, limit, begun, streams[1])
        if false_names:
            several = [
                [FalseNames(at, k, begun).deviate(mechanism, groups, space, limit, rng) for k in range(2, names + 1)]
                for at, rng in enumerate(streams[2].spawn(len(groups)))
            ]
            joint["false_names"] = [max(found, key=lambda one: one.gain) for found in several]
            more["several"] = [_several(found) for found in several]
    if as_json:
        begun = PROVED_STARTS if is_short else begun
        asked = {"size_limit": limit, "starts": begun, "seed": seed, "outcomes": "found" if is_partial else "all"}
        asked |= {} if draws is None else draws.asked
        write_out(_document(one, rules or label("payment", one.fields.payment), regrets, joint, more, asked))
    else:
        show_audit(rules or label("payment", one.fields.payment), regrets, joint, draws.bounds_hold if draws else "")
        _show_more(more)
        write_out(_what_was_audited(is_short, is_partial, draws))
    return _verdict(regrets) if check else 0


def _what_was_audited(is_short: bool, is_partial: bool, draws: "PlayedDraws | None") -> str:
    """Return how long was searched, and for what, where either is not what one would expect: a line each."""
    from rlhf_game.agents.audit import PROVED_STARTS, STARTS

    lines = []
    if is_short:
        lines.append(
            f"searched from {PROVED_STARTS} starts in few steps, since no lie can gain by proof; --starts {STARTS} "
            "searches longer.\n"
        )
    if is_partial:
        lines.append("audited: the mechanism that runs, which is the one over the responses that were found.\n")
    if draws is not None:
        lines.append(f"{draws.said}.\n")
    return "".join(lines)


def _foreign(target: str) -> "Mechanism":
    """Return the mechanism that a function is; raise InputError when it is none."""
    from rlhf_game.agents.foreign import foreign
    from rlhf_game.errors import InputError
    from rlhf_game.registry import load

    function = load(target, Path())
    if not callable(function):
        raise InputError(
            f"--mechanism: must be a function of rewards and sizes, found {target!r}, which is {function!r}"
        )
    return foreign(function, target)


def _interim(
    prior: Path,
    game: "Game",
    mechanism: "Mechanism",
    groups: "Sequence[Group]",
    space: "PolicySpace[Any]",
    limit: int,
    counts: tuple[int, int],
    rng: Any,
) -> list[dict[str, Any]]:
    """Return for each group, and for types of it that are drawn, what the best report found gains on average.

    counts: how often the others' types are drawn, and how many types of each group are.
    """
    from rlhf_game.agents.interim import interim_regret
    from rlhf_game.errors import InputError
    from rlhf_game.mechanism.reports import Normalization, Report
    from rlhf_game.simulations.priors import others_of, read_prior, types_of

    table = space.enumeration if game.fields.space == "table" else None
    if table is None or not table.layout.is_flat:
        raise InputError(
            f"{game.name}: must be a table of outcomes for one prompt, to go with a prior; found another game"
        )
    domain = Normalization(game.fields.normalization)
    source = read_prior(prior, len(groups), table.layout.widths[0], domain)
    samples, types = counts

    def of_type(i: int, group: "Group", stream: Any) -> dict[str, Any]:
        draw = others_of(source, i, domain)
        found = interim_regret(mechanism, group, i, table, draw, size_limit=limit, samples=samples, rng=stream)
        return {"interim_regret": found.regret.document(), "interim_report": report_document(found.report)}

    out = []
    for i, (group, stream) in enumerate(zip(groups, rng.spawn(len(groups)), strict=True)):
        one = of_type(i, group, stream)
        if types:
            drawn, *streams = stream.spawn(1 + types)
            own = [types_of(source, i, domain, drawn, group.name) for _ in range(types)]
            one["types"] = [
                {"type": report_document(Report(kind.reward, kind.size)), **of_type(i, kind, each)}
                for kind, each in zip(own, streams, strict=True)
            ]
        out.append(one)
    return out


def _show_more(more: dict[str, Any]) -> None:
    from rlhf_game.cli.audit_coalitions import in_words as sets_in_words
    from rlhf_game.cli.audit_provider import in_words
    from rlhf_game.cli.display import number, write_out

    for found in more.get("several", []):
        names = found["false_names"]
        if names["gain"] > 0:
            write_out(
                f"under {names['names']} names of {', '.join(map(str, names['sizes']))} members: {names['gain']:.6g} "
                f"gained (found); a fee of {names['least_fee']:.6g} a name would stop what was found\n"
            )
    if "provider" in more:
        write_out(in_words(more["provider"]))
    if "core" in more:
        write_out(sets_in_words(more))
    for found in more.get("interim", []):
        mean = found["interim_regret"]
        write_out(f"interim regret found: {mean['estimate']:.4g} [{mean['low']:.4g}, {mean['high']:.4g}]\n")
        for kind in found.get("types", []):
            mean, said = kind["interim_regret"], kind["type"]
            write_out(
                f"  of a type of size {said['size']}, reward {' '.join(map(number, said['reward']))}: "
                f"{mean['estimate']:.4g} [{mean['low']:.4g}, {mean['high']:.4g}]\n"
            )


def _read(path: Path, trusted: bool, settings: Sequence[str]) -> "tuple[Game, PlayedDraws | None]":
    """Return the game that is audited, and of draws what is known of it."""
    from rlhf_game.files.games import parse_game, read_game
    from rlhf_game.outcomes.draws.listing import played

    file = _file(path)
    draws = played(file, is_finished=path.is_dir(), trusted=trusted, settings=settings)
    if draws is None:
        return read_game(file, trusted=trusted, settings=settings), None
    one = parse_game(draws.document, str(file), file.parent, trusted=True)
    return replace(one, sha256=draws.sha256 or one.sha256), draws


def _file(path: Path) -> Path:
    """Return the game file: of a directory its game, where ``run`` made it finished and as it was written."""
    from rlhf_game.errors import InputError
    from rlhf_game.files.documents import shown
    from rlhf_game.files.workspace import Workspace, changes_of

    if not path.is_dir():
        return path
    name, inside = shown(str(path), 200), path / "game.json"
    if not inside.is_file():
        raise InputError(f"{name}: must be a game file or a directory with a game.json (as `run` makes it), found none")
    if Workspace(path).is_sealed and not (path / "receipt.json").is_file():
        raise InputError(f"{name}: must be a finished run, found no receipt.json in it")
    if changed := changes_of(path):
        raise InputError(f"{name}: {changed[0]}")
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
    payment: str,
    regrets: "Sequence[Regret]",
    joint: "dict[str, list[Deviation]]",
    more: dict[str, Any],
    settings: dict[str, Any],
) -> str:
    from rlhf_game.mechanism.regret import TOLERANCE

    groups = [_group(regret) for regret in regrets]
    for kind in ("interim", "several"):
        for group, found in zip(groups, more.pop(kind, []), strict=False):
            group |= found
    content: dict[str, Any] = {
        "payment": payment,
        "groups": groups,
        **{name: [_joint(deviation) for deviation in deviations] for name, deviations in joint.items()},
        **more,
        "domain": game.fields.normalization,
        "tolerance": TOLERANCE,
        **settings,
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
        "best_report": report_document(regret.report),
        "gains": {trial.strategy: trial.gain for trial in regret.trials},
    }


def _several(found: "Sequence[Deviation]") -> dict[str, Any]:
    """Return what one group's false names bring. found: the best under 2, 3, ... names."""
    best = max(found, key=lambda one: one.gain)
    fees = [one.found / k for k, one in enumerate(found, start=1)]
    return {
        "false_names": {
            "gain": best.found,
            "names": len(best.reports),
            "sizes": [int(report.size) for report in best.reports],
            "least_fee": max(fees),
        }
    }


def _joint(deviation: "Deviation") -> dict[str, Any]:
    return {
        "members": list(deviation.members),
        "truthful_utility": deviation.truthful_utility,
        "gain": deviation.found,
        "reports": [report_document(report) for report in deviation.reports],
    }
