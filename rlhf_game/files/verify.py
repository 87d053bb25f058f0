"""Verifying: a receipt against the settlement of the same game made again."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from sys import float_info
from typing import Any, Final, TypeAlias, final

from rlhf_game import __version__
from rlhf_game.files.build import settle
from rlhf_game.files.documents import kind, shown
from rlhf_game.files.drawn import DrawnGame, changed_tape, drawn_receipt, read_drawn_game
from rlhf_game.files.games import Game, is_list, read_games
from rlhf_game.files.policies import PolicyFile, policy_differences, row_difference
from rlhf_game.files.receipts import Receipt, read_receipts, receipt_of
from rlhf_game.files.sampled import SampledGameFile, changed_files, read_sampled_game, sampled_receipt, space_of
from rlhf_game.files.schema import field_path
from rlhf_game.files.seals import COMMITMENTS
from rlhf_game.files.signatures import KEY as SIGNATURE
from rlhf_game.files.tables import largest
from rlhf_game.mechanism.mechanism import Settlement

RELATIVE: Final = 1e-9
"""Two numbers that differ by this share of the larger one agree."""
ABSOLUTE: Final = 1e-12
"""Numbers that differ by this share of the game's own scale agree."""
ABSOLUTE_PAYMENT: Final = 1e-28
"""The same for payments of games whose outcomes are all known, which are exact however small they are."""
ON_TRUST: Final = ("version", "provenance", COMMITMENTS, SIGNATURE)
"""What a receipt says that no game gives again: which release wrote it, and of which models and files."""
NOTHING: Final = object()
Place: TypeAlias = tuple[str | int, ...]


@final
@dataclass(frozen=True)
class GameScale:
    """What the numbers of a game are compared on, in units of reward."""

    tops: tuple[float, ...]
    """max|r_i| of each group."""
    total: float
    """sum_i size_i max|r_i| + strength * divergence + max|boost|."""
    payment: float
    """The difference that two payments may have."""

    @classmethod
    def of(cls, again: Receipt, tops: Sequence[float], boost: float, payment: float) -> "GameScale":
        """Return the scale of a receipt. payment: the share of the total that two payments may differ by."""
        divergence = again.divergence if isinstance(again.divergence, float) else again.divergence.estimate
        total = sum(group.size * top for group, top in zip(again.groups, tops, strict=True))
        total += again.strength * divergence + boost
        return cls(tuple(tops), total, payment * total)

    def slack(self, place: Place, sizes: Sequence[int]) -> float:
        """Return the difference that the number at a place of the receipt may have, beside RELATIVE of the larger."""
        of_group = place[0] == "groups" and len(place) > 2
        match place[2] if of_group else place[-1] if place[-1] in ("level", "tightness") else place[0]:
            case "level" | "strength":
                return 0.0
            case "divergence" | "tightness":
                return ABSOLUTE
            case "value":
                return ABSOLUTE * self.tops[int(place[1])]
            case "payment":
                return self.payment
            case "utility":
                return ABSOLUTE * sizes[int(place[1])] * self.tops[int(place[1])]
        return ABSOLUTE * self.total


def verify(
    receipt: str | os.PathLike[str],
    game: str | os.PathLike[str],
    *,
    trusted: bool = False,
    settings: Sequence[str] = (),
) -> tuple[int, list[str]]:
    """Return how many receipts a file holds, and a line for each thing that they say otherwise than their game.

    trusted: whether the game may run code that it names. settings: what was set in the game, each ``path=value``.
    Raises InputError when one of the files cannot be read.
    """
    receipts = read_receipts(receipt, lines=is_list(game))
    space = space_of(game)
    if space == "samples":
        return len(receipts), sampled_differences(receipts[0], read_sampled_game(game))
    if space == "draws":
        return len(receipts), drawn_differences(receipts[0], read_drawn_game(game))
    games, found = read_games(game, trusted=trusted, settings=settings), []
    if len(games) != len(receipts):
        found.append(f"the receipt has {len(receipts)} lines, the game file {len(games)}")
    for line, (one, said) in enumerate(zip(games, receipts, strict=False), start=1):
        where = f"line {line}: " if is_list(game) else ""
        found += [where + text for text in game_differences(said, one, settle(one), Path(receipt).parent)]
    return len(receipts), found


def game_differences(said: Receipt, game: Game, settlement: Settlement, folder: Path) -> list[str]:
    """Return in what a receipt in ``folder`` disagrees with the settlement of its game made again: a line each."""
    again = receipt_of(game, settlement)
    boost = 0.0 if game.boost is None else largest(game.boost)
    scale = GameScale.of(again, [largest(reward) for reward in game.rewards], boost, ABSOLUTE_PAYMENT)
    if not isinstance(said.policy, PolicyFile) or again.policy is not None:
        return differences(said, again, scale)
    found = differences(said.model_copy(update={"policy": None}), again, scale)
    return found + policy_differences(said.policy, folder, game, settlement.policy)


def sampled_differences(said: Receipt, game: SampledGameFile) -> list[str]:
    """Return in what a receipt, or a file that the game names, disagrees with the game's draws: a line each.

    Everything is computed again from the draws: payments, intervals, certificate. That the draws are the policy's own
    is not checked (it needs the language model); that they and the weights are the ones that the run wrote is.
    """
    again = sampled_receipt(game)
    draws = game.draws.values()
    tops = [max(abs(of.rewards[i]).max() for of in draws) for i in range(len(again.groups))]
    return changed_files(game) + differences(said, again, GameScale.of(again, tops, 0.0, ABSOLUTE))


def drawn_differences(said: Receipt, game: DrawnGame) -> list[str]:
    """Return in what a receipt or the tape disagrees with the tape's own numbers and its seed: a line each.

    That the proposals are the language model's own is not checked (it needs the model); that they are those that the
    run wrote, and that what decides on them is the settlement seed's, is.
    """
    again = drawn_receipt(game)
    tops = [group.ceiling for group in game.fields.groups]
    return changed_tape(game) + differences(said, again, GameScale.of(again, tops, 0.0, ABSOLUTE))


def differences(receipt: Receipt, again: Receipt, scale: GameScale) -> list[str]:
    """Return one line for each place at which two receipts of one game disagree, or that only one of them has.

    Texts and integers must be equal. A number agrees with a number within RELATIVE of the larger, or within the slack
    of the scale (ABSOLUTE of the game's own numbers; payments ABSOLUTE_PAYMENT); an interval with an interval whose
    numbers all agree. The version must not be newer than the one that verifies; ON_TRUST is not compared otherwise.
    """
    found = []
    if not () < _release(receipt.version) <= _release(__version__):
        found.append(f"version: the receipt says {receipt.version!a}, this is {__version__}")
    mine, theirs = receipt.model_dump(exclude=set(ON_TRUST)), again.model_dump(exclude=set(ON_TRUST))
    found += _policy_apart(mine.pop("policy"), theirs.pop("policy"))
    sizes = [group.size for group in again.groups]
    return found + apart((), mine, theirs, lambda place: scale.slack(place, sizes))


def apart(place: Place, mine: Any, theirs: Any, slack: Callable[[Place], float] = lambda place: ABSOLUTE) -> list[str]:
    """Return one line for each place at which two JSON values disagree, ``theirs`` made again.

    place: where they are. slack: what numbers at a place may differ by, beside RELATIVE of the larger one.
    """
    if isinstance(theirs, dict) and isinstance(mine, dict):
        keys = [*theirs, *(key for key in mine if key not in theirs)]
        pairs: list[Any] = [(key, mine.get(key, NOTHING), theirs.get(key, NOTHING)) for key in keys]
        return [line for key, a, b in pairs for line in apart((*place, key), a, b, slack)]
    if isinstance(theirs, list) and isinstance(mine, list) and len(mine) == len(theirs):
        pairs = [(i, a, b) for i, (a, b) in enumerate(zip(mine, theirs, strict=True))]
        return [line for i, a, b in pairs for line in apart((*place, i), a, b, slack)]
    if isinstance(theirs, float) and type(mine) in (int, float) and max(abs(mine), abs(theirs)) <= float_info.max:
        if abs(mine - theirs) <= max(slack(place), RELATIVE * max(abs(mine), abs(theirs))):
            return []
    elif type(mine) is type(theirs) and mine == theirs:
        return []
    return [f"{field_path(place)}: the receipt says {_value_text(mine)}, the game gives {_value_text(theirs)}"]


def _value_text(value: Any) -> str:
    if isinstance(value, dict) and {"low", "high"} <= value.keys():
        return f"{value['low']!r} to {value['high']!r}"
    if isinstance(value, list) and all(isinstance(one, dict) and "name" in one for one in value):
        return f"{len(value)} groups"
    if isinstance(value, str):
        return repr(shown(value, 80))
    return "nothing" if value is NOTHING else repr(value) if isinstance(value, float) else kind(value)


def _policy_apart(mine: Any, theirs: Any, at: str = "policy") -> list[str]:
    """Return the first probability that disagrees, or how the shapes do."""
    if not (isinstance(mine, list) and isinstance(theirs, list)):
        return [] if mine == theirs else [f"{at}: the receipt has another shape than the policy of the game"]
    if len(mine) != len(theirs) or isinstance(mine[0], list) != isinstance(theirs[0], list):
        return [f"{at}: the receipt has another shape than the policy of the game"]
    if not isinstance(mine[0], list):
        return row_difference(mine, theirs, at)
    parts = (_policy_apart(a, b, f"{at}[{i}]") for i, (a, b) in enumerate(zip(mine, theirs, strict=True)))
    return next((part for part in parts if part), [])


def _release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version's release, 0.2.1 of 0.2.1.dev30; of anything else, nothing."""
    release = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})*)(?:\.dev[0-9]{1,9})?(?:\+[a-z0-9.]+)?", version)
    return tuple(map(int, release[1].split("."))) if release else ()
