"""What a group could gain by lying, for a report: searched for here, or read from an audit that was made before."""

import os
from typing import Annotated, Any, Final, final

import numpy as np
from pydantic import Field

from rlhf_game.agents.audit import audit, standard_strategies
from rlhf_game.errors import InputError
from rlhf_game.files.documents import parse_json, read_text, shown
from rlhf_game.files.drawn import DrawnGame
from rlhf_game.files.games import Game
from rlhf_game.files.parts import label
from rlhf_game.files.schema import OurDocument, parse_model
from rlhf_game.mechanism.mechanism import Mechanism
from rlhf_game.mechanism.payments import NoPayments
from rlhf_game.mechanism.regret import Regret
from rlhf_game.report.settlements import largest_size, running

STARTS: Final = 8
"""Of the search that a report makes itself."""
SEED: Final = 0


@final
class WitnessFields(OurDocument):
    """A report: the witness of what a lie gains."""

    size: int
    reward: list[float] | list[list[float]]


@final
class Bracket(OurDocument):
    """What one group can gain by lying: at least ``regret_found``, at most ``regret_bound``; in units of reward."""

    name: str
    truthful_utility: float
    regret_found: Annotated[float, Field(ge=0)]
    regret_bound: float | None
    best_gain: float | None = None
    best_strategy: str = ""
    best_report: WitnessFields | None = None


@final
class Joint(OurDocument):
    """What a coalition, or one group under several names, gains by lying together."""

    members: list[str]
    truthful_utility: float
    gain: float


@final
class ProviderFields(OurDocument):
    """What the real groups pay as the rules say, and what they would pay where the provider does not keep to them."""

    revenue: float
    by_kind: dict[str, float]


@final
class Audit(OurDocument):
    """An audit as ``rlhf-game audit --json`` prints it; keys beyond these are not read."""

    payment: str
    groups: Annotated[list[Bracket], Field(min_length=1)]
    starts: int
    seed: int
    size_limit: int | None = None
    game_sha256: str | None = None
    bounds_hold: str = ""
    """Where its bounds hold, if not of the game itself: of draws."""
    audited: str = ""
    """What was audited, where that is not the game itself."""
    coalitions: list[Joint] = []
    false_names: list[Joint] = []
    provider: ProviderFields | None = None


def read_audit(path: str | os.PathLike[str], game: Game | DrawnGame) -> Audit:
    """Return the audit in a file. Raises InputError that names the field, also when it is of another game."""
    name = shown(os.fspath(path), 200)
    found = parse_model(Audit, parse_json(read_text(path), name), name)
    if found.game_sha256 is not None and found.game_sha256 != game.sha256:
        raise InputError(
            f"{name}: game_sha256: must be that of the game, {game.sha256}, found {shown(found.game_sha256)}"
        )
    names = [group.name for group in game.fields.groups]
    if [group.name for group in found.groups] != names:
        raise InputError(f"{name}: groups: must be the {len(names)} groups of the game, found other names")
    return found


def make_audit(game: Game, *, is_free: bool = False) -> Audit:
    """Search for profitable lies, with a fixed seed. is_free: as if nobody paid."""
    space, mechanism, groups = running(game)
    if is_free:
        mechanism = Mechanism(mechanism.training, NoPayments())
    strategies, limit = standard_strategies(len(groups), STARTS), largest_size(game)
    with np.errstate(all="ignore"):
        rng = np.random.default_rng(SEED)
        regrets = audit(mechanism, groups, space, strategies, rng=rng, size_limit=limit)
    payment = "none" if is_free else label("payment", game.fields.payment)
    brackets = [_bracket(regret) for regret in regrets]
    return Audit(payment=payment, groups=brackets, starts=STARTS, seed=SEED, size_limit=limit, game_sha256=game.sha256)


def _bracket(regret: Regret) -> Bracket:
    reward: Any = regret.report.reward
    is_ragged = isinstance(reward, list) and len(reward) > 0 and not isinstance(reward[0], int | float)
    rows = [np.asarray(row).tolist() for row in reward] if is_ragged else np.asarray(reward).tolist()
    return Bracket(
        name=regret.group,
        truthful_utility=regret.truthful_utility,
        regret_found=regret.found,
        regret_bound=regret.bound,
        best_gain=regret.gain,
        best_strategy=regret.best.strategy,
        best_report=WitnessFields(size=int(regret.report.size), reward=rows),
    )
