"""Receipts: what a settlement leaves behind, written whole and read back."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias, final

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError, to_json

from rlhf_game import __version__
from rlhf_game.errors import InputError
from rlhf_game.files.documents import parse_json, parse_json_lines, read_text, shown
from rlhf_game.files.fee_fields import fee_of, is_false_name_proof
from rlhf_game.files.games import Game
from rlhf_game.files.parts import label
from rlhf_game.files.policies import PolicyFile, PolicyFolder, is_long
from rlhf_game.files.private import privacies_of
from rlhf_game.files.schema import Strict, parse_model
from rlhf_game.mechanism.mechanism import Settlement
from rlhf_game.mechanism.sampled.estimates import Estimate

LONG = 2**16
"""More numbers than these in one list are written ten times as fast."""
OPEN = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False)


@final
class Interval(Strict):
    """A number that is only known to lie in an interval, with probability ``level`` (1: certain).

    Some games give more keys than these: a payment that is an estimate has its standard error.
    """

    model_config = OPEN

    estimate: float
    low: float
    high: float
    level: Annotated[float, Field(gt=0, le=1)]

    @model_validator(mode="after")
    def _check_order(self) -> "Interval":
        if not self.low <= self.estimate <= self.high:
            raise PydanticCustomError("order", "must have low <= estimate <= high")
        return self


def _is_interval(value: Any) -> str:
    return "<interval>" if isinstance(value, dict | Interval) else "<number>"


def _axes(value: Any) -> str:
    if isinstance(value, PolicyFolder) or (isinstance(value, dict) and "folder" in value):
        return "<folder>"
    if isinstance(value, dict | PolicyFile):
        return "<file>"
    axes = 0
    while isinstance(value, list) and value:
        axes, value = axes + 1, value[0]
    return f"<{min(max(axes, 1), 3)}>"


Vector: TypeAlias = Annotated[list[float], Field(min_length=1)]
Matrix: TypeAlias = Annotated[list[Vector], Field(min_length=1)]
Number: TypeAlias = Annotated[
    Annotated[float, Tag("<number>")] | Annotated[Interval, Tag("<interval>")], Discriminator(_is_interval)
]
Policy: TypeAlias = Annotated[
    Annotated[Vector, Tag("<1>")]
    | Annotated[Matrix, Tag("<2>")]
    | Annotated[list[Matrix], Tag("<3>")]
    | Annotated[PolicyFile, Tag("<file>")]
    | Annotated[PolicyFolder, Tag("<folder>")],
    Discriminator(_axes),
]


@final
class GroupReceipt(Strict):
    """What one group got and owes, in units of reward; some games give more keys than these."""

    model_config = OPEN

    name: str
    size: int
    value: Number
    payment: Number
    utility: Number


@final
class Receipt(Strict):
    """A settlement on paper; some games give more keys than these, and a run says where it comes from."""

    model_config = OPEN

    version: str
    game_sha256: str
    regularizer: str | None
    strength: float
    payment: str
    policy: Policy | None
    """None or a file where there are too many probabilities for a text, a folder of a trained model (see policies)."""
    social_welfare: Number
    divergence: Number
    affine_social_welfare: Number
    groups: Annotated[list[GroupReceipt], Field(min_length=1)]

    def line(self) -> str:
        """Return the receipt as JSON on one line, every number as a full float64."""
        return json.dumps(self.model_dump(), separators=(",", ":"), allow_nan=False)

    def text(self) -> str:
        """Return the receipt as JSON for people (see lay_out)."""
        return "".join(self.pieces())

    def pieces(self) -> Iterator[str]:
        """Yield that text in pieces: a long policy is copied neither as numbers nor as text."""
        said = self.model_dump(exclude={"policy"} if isinstance(self.policy, list) else None)
        return _laid_out({name: said.get(name, self.policy) for name, _ in self})

    def with_provenance(self, provenance: Mapping[str, Any]) -> "Receipt":
        """Return the receipt that says where it comes from."""
        return Receipt.model_validate({**self.model_dump(), "provenance": provenance})

    @property
    def provenance(self) -> dict[str, Any]:
        """Where it comes from, as far as it says; nothing in it is computed from the game."""
        said = (self.model_extra or {}).get("provenance")
        return said if isinstance(said, dict) else {}


def lay_out(document: Mapping[str, Any]) -> str:
    """Return a receipt or a game as JSON for people: one key a line, one group a line."""
    return "".join(_laid_out(document))


def _laid_out(document: Mapping[str, Any]) -> Iterator[str]:
    between = "{"
    for key, value in document.items():
        yield f"{between}{json.dumps(key)}: "
        if key == "groups":
            yield "[\n  " + ",\n  ".join(json.dumps(group, allow_nan=False) for group in value) + "\n ]"
        else:
            yield to_json(value).decode() if _is_long(value) else json.dumps(value, allow_nan=False)
        between = ",\n "
    yield "}\n"


def _is_long(value: Any) -> bool:
    """Return whether a value is so many numbers that pydantic writes them: the same ones, some spelt shorter (1e-7)."""
    while isinstance(value, list) and value and len(value) <= LONG:
        value = value[0]
    return isinstance(value, list) and len(value) > LONG


def receipt_of(game: Game, settlement: Settlement) -> Receipt:
    """Return the receipt of a game's settlement, with intervals where outcomes are missing from the game.

    Its policy is None where it is too long for a text; write_policy keeps it in a file of its own.
    """
    names = [group.name for group in game.fields.groups]
    sizes = [group.size for group in game.fields.groups]
    policy: Any = settlement.policy  # of a space whose policies can be written down
    intervals = settlement.policy.certified(settlement)
    if intervals is None:
        columns: Any = (settlement.values.tolist(), settlement.payments.tolist(), settlement.utilities.tolist())
        totals: Any = (settlement.social_welfare, settlement.policy.divergence, settlement.affine_social_welfare)
    else:
        columns = [_intervals(of) for of in (intervals.values, intervals.payments, intervals.utilities)]
        welfare, reached = intervals.social_welfare, intervals.affine_social_welfare
        totals = [_intervals(of) for of in (welfare, intervals.divergence, reached)]
    social_welfare, divergence, affine_social_welfare = totals
    sizes_of = getattr(game.fields, "effective_sample_size", None)
    return Receipt(
        **({} if sizes_of is None else {"effective_sample_size": sizes_of}),
        version=__version__,
        game_sha256=game.sha256,
        regularizer=None if game.fields.regularizer is None else label("regularizer", game.fields.regularizer),
        strength=game.fields.strength,
        payment=label("payment", game.fields.payment),
        policy=None
        if is_long(game) or game.fields.models is not None
        else _lists(getattr(policy, "probabilities", None)),
        social_welfare=social_welfare,
        divergence=divergence,
        affine_social_welfare=affine_social_welfare,
        groups=[
            GroupReceipt(name=name, size=size, value=value, payment=payment, utility=utility, **more)
            for name, size, value, payment, utility, more in zip(
                names, sizes, *columns, _of_groups(game, settlement), strict=True
            )
        ],
        **_of_models(game, settlement),
        **_of_fee(game),
    )


def _of_models(game: Game, settlement: Settlement) -> dict[str, Any]:
    """Return what the receipt says where it was also chosen which models are trained, if any."""
    policy: Any = settlement.policy
    if policy.parts is None:
        return {}
    money = {"revenue": settlement.revenue, "cost": policy.cost, "surplus": settlement.revenue - policy.cost}
    if game.fields.models is None:
        return {"trained": bool(policy.parts), "provider": money}
    names = [group.name for group in game.fields.groups]
    models = []
    for part, trained in zip(policy.parts, policy.trained, strict=True):
        written = None if is_long(game) else _lists(trained.probabilities)
        models.append({"groups": [names[i] for i in part], "policy": written})
    return {"models": models, "provider": money}


def _of_fee(game: Game) -> dict[str, Any]:
    fields = game.fields
    return {} if fields.fee is None else {"fee": fee_of(fields), "false_name_proof": is_false_name_proof(fields)}


def _of_groups(game: Game, settlement: Settlement) -> list[dict[str, Any]]:
    """Return what a receipt says of each group beside its money: the fee in its payment, its part, its privacy."""
    more: list[dict[str, Any]] = [{} for _ in game.fields.groups]
    if settlement.policy.takes_part is not None:
        more = [{"takes_part": inside} for inside in settlement.policy.takes_part]
    elif (private := privacies_of(game, settlement)) is not None:
        more = [{"privacy": one.model_dump()} for one in private]
    return more if game.fields.fee is None else [{**one, "fee": fee_of(game.fields)} for one in more]


def receipt_pieces(receipts: Sequence[Receipt], *, lines: bool = False) -> list[str]:
    """Return one receipt for people, or (``lines``) any number of compact ones, one a line, in pieces of a text."""
    if lines:
        return [receipt.line() + "\n" for receipt in receipts]
    (receipt,) = receipts
    return list(receipt.pieces())


def read_receipts(path: str | os.PathLike[str], *, lines: bool = False) -> list[Receipt]:
    """Return the receipts of a file: one, or (``lines``) one a line. Raises InputError that names file and field."""
    name, text = shown(os.fspath(path), 200), read_text(path)
    documents = list(parse_json_lines(text, name)) if lines else [(name, parse_json(text, name))]
    return [parse_model(Receipt, document, where) for where, document in documents]


def read_receipt_of(path: Path, sha256: str, game: str) -> Receipt:
    """Return the receipt in a file; raise InputError unless it is that of the game ``game``, whose SHA-256 is given."""
    (receipt,) = read_receipts(path)
    if receipt.game_sha256 != sha256:
        raise InputError(f"{shown(str(path), 200)}: game_sha256: must be that of {game}, found another")
    return receipt


def _intervals(estimate: Estimate) -> Any:
    document = estimate.document()
    return [Interval(**one) for one in document] if isinstance(document, list) else Interval(**document)


def _lists(policy: Any) -> Any:
    if policy is None:  # a policy of someone's own without probabilities to write down
        return None
    return [row.tolist() for row in policy] if isinstance(policy, list) else policy.tolist()
