"""A page on which a reader tries to cheat in a game: the settlement runs in the page, by the package's formulas."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, cast

from rlhf_game.errors import InputError
from rlhf_game.files.atomic import check_output, write_bytes
from rlhf_game.files.build import build, settle
from rlhf_game.files.fee_fields import weights_of
from rlhf_game.files.games import Game, read_game
from rlhf_game.files.parts import label
from rlhf_game.files.schema import Fields, TableFields
from rlhf_game.mechanism.regret import SIZES
from rlhf_game.report.page import PLAYED, PlayableGame, names_of, render

MOST_OUTCOMES: Final = 12
"""Sliders that still fit beside each other; also the most prompts."""
MOST_GROUPS: Final = 8


def play_page(path: Path | None = None, settings: Sequence[str] = ()) -> str:
    """Return the page for a game file (None: the game that comes with the package) as one HTML document.

    settings: fields to set in it, each ``path=value``. Raises InputError when the game cannot be played with sliders
    (see ``playable``), MissingExtra without jinja2.
    """
    game = read_game(path or Path(str(files("rlhf_game.report").joinpath("templates/play.yaml"))), settings=settings)
    fault = unplayable(game)
    if fault is not None:
        raise InputError(f"{game.name}: {fault}")
    settle(game)  # what `settle` refuses, such as rewards outside their normalization, is no game
    data = playable(game, is_story=True)
    return render(
        "play.html",
        ("style.css", "play.css"),
        ("theme.js", *PLAYED),
        {
            "data": data,
            "names": names_of([group["name"] for group in data["truth"]]),
            "opening": _opening(data["outcomes"], [group["reward"] for group in data["truth"]]),
            "prompt": data["prompts"][0] if len(data["prompts"]) == 1 and data["isNamed"] else "",
        },
    )


def write_play_page(path: Path, game: Path | None = None, settings: Sequence[str] = ()) -> Path:
    """Write the page at ``path``, whole or not at all (see ``play_page``)."""
    if game is not None:
        check_output(path, "game", game)
    write_bytes(path, play_page(game, settings).encode("utf-8", "replace"))
    return path


def unplayable(game: Game) -> str | None:
    """Return why a game cannot be played with sliders, as the words after the file's name, or None if it can be."""
    fields = game.fields
    if not fields.is_whole_table:
        return "space: must be a table whose outcomes are all there, to be played, found another space"
    if fields.regularizer != "kl":
        return f"regularizer: must be kl to be played, found {fields.regularizer}"
    if (other := _other_rules(fields)) is not None:
        return other
    widths = [len(row) for row in _rows(game.reference)]
    if max(widths) > MOST_OUTCOMES or len(widths) > MOST_OUTCOMES:
        return (
            f"reference: must have at most {MOST_OUTCOMES} outcomes for each of at most {MOST_OUTCOMES} prompts to be "
            f"played, found up to {max(widths)} for each of {len(widths)}"
        )
    if not 2 <= len(fields.groups) <= MOST_GROUPS:
        return f"groups: must be 2 to {MOST_GROUPS} to be played, found {len(fields.groups)}"
    for i, reward in enumerate(game.rewards):
        lowest = min(min(map(float, row)) for row in _rows(reward))
        if lowest < 0:
            return f"groups[{i}].reward: must be >= 0 to be played, found {lowest}"
    return None


def _other_rules(fields: Fields) -> str | None:
    """Return which rule of a game the page does not play: it trains one model for all, and bills by VCG alone."""
    if fields.training not in (None, "social_welfare", "affine"):
        return f"training: must be social_welfare or affine to be played, found {label('training', fields.training)}"
    if fields.payment not in ("affine", "none"):
        return f"payment: must be affine or none to be played, found {label('payment', fields.payment)}"
    more = [name for name in ("models", "training_cost", "fee") if getattr(fields, name) is not None]
    return f"{more[0]}: must be left out to be played, found it" if more else None


def playable(game: Game, *, is_story: bool, outcome: str = "answer") -> dict[str, Any]:
    """Return a game as templates/play.js reads it: the truth, the rules, and what things are called."""
    table, fields = build(game)[0].enumeration, cast(TableFields, game.fields)  # unplayable said so
    reference = [list(map(float, row)) for row in _rows(table.layout.join(table.reference))]
    outcomes = fields.outcomes or [[f"outcome {k + 1}" for k in range(len(row))] for row in reference]
    named = [text for text in (fields.provenance or {}).get("prompts", []) if isinstance(text, str)]
    is_named = len(named) == len(reference)
    weights = weights_of(fields)
    is_weighed = game.boost is not None or set(weights) != {1.0}
    return {
        "story": is_story,
        "paid": not is_story and fields.payment != "none",
        "isNamed": is_named,
        "outcome": outcome,
        "weighed": ", as the provider weighs them" if is_weighed else "",
        "prompts": named if is_named else [f"prompt {k + 1}" for k in range(len(reference))],
        "outcomes": outcomes if isinstance(outcomes[0], list) else [outcomes],
        "game": {
            "reference": reference,
            "promptWeights": table.prompt_weights.tolist(),
            "strength": fields.strength,
            "weights": weights,
            "boosts": None if game.boost is None else [list(map(float, row)) for row in _rows(game.boost)],
            "normalization": fields.normalization,
            "sizeLimit": fields.size_limit or SIZES * max(group.size for group in fields.groups),
        },
        "truth": [
            {"name": group.name, "size": group.size, "reward": [list(map(float, row)) for row in _rows(reward)]}
            for group, reward in zip(fields.groups, game.rewards, strict=True)
        ],
    }


def what_if(game: Game, outcome: str) -> PlayableGame | None:
    """Return the part of a report in which a group tries other reports, or None where the game cannot be played."""
    return None if unplayable(game) is not None else PlayableGame(playable(game, is_story=False, outcome=outcome))


def _opening(outcomes: list[list[str]], rewards: list[list[list[float]]]) -> str:
    """Return in how many ways the model can answer, and whether the groups agree on the best. rewards: [n][B][m]."""
    widths = sorted({len(row) for row in outcomes})
    ways = f"{' to '.join(map(str, dict.fromkeys((widths[0], widths[-1]))))} way{'' if widths[-1] == 1 else 's'}"
    disputed = sum(
        not set.intersection(*({x for x, r in enumerate(row) if r == max(row)} for row in rows))
        for rows in zip(*rewards, strict=True)
    )
    if len(outcomes) == 1:
        best = "the groups do not agree on which is best" if disputed else "there is one that all groups like best"
        return f"can answer in {ways}, and {best}"
    where = "" if disputed == len(outcomes) else f" for {disputed} of them"
    best = f"the groups do not agree on which is best{where}" if disputed else "each has one that all groups like best"
    return f"is asked {len(outcomes)} prompts and can answer each in {ways}, and {best}"


def _rows(table: Any) -> list[Any]:
    """Return the prompts of a table: of [m] one, of [B][m] (or [B, m]) B."""
    return list(table) if hasattr(table[0], "__len__") else [table]
