"""A group's own receipt: what it needs to check its bill with its own report, and nothing of anybody else's report."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, final

import numpy as np
from pydantic import ConfigDict, Field

from rlhf_game import __version__
from rlhf_game.errors import InputError
from rlhf_game.files.build import build, regularizer_of, settle
from rlhf_game.files.documents import kind, parse_json, read_text, shown
from rlhf_game.files.games import Game
from rlhf_game.files.parts import label
from rlhf_game.files.private import PrivacyFields, privacies_of, table_privacy
from rlhf_game.files.schema import Salt, Strict, parse_model
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.breakdown import take_apart
from rlhf_game.mechanism.own_bill import OwnBill, own_bill, own_chain_bill
from rlhf_game.mechanism.payments import AffinePayments
from rlhf_game.mechanism.regularizers.base import Regularizer
from rlhf_game.registry import is_code

RELATIVE: Final = 1e-9
"""Numbers that differ by this share of what the group's reward is worth at most agree."""
GIVEN: Final = "given the delivered policy and this report"
NOT_PROVED: Final = "not proved: that the policy is the best for the true reports of all"


@final
class BreakdownFields(Strict):
    """The bill in three numbers, in units of reward: payment = cost_to_others + provider_share."""

    own_value: float
    cost_to_others: float
    provider_share: float


@final
class OwnReceipt(Strict):
    """What OWN.json holds; keys beyond these may be in the file and are not read."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False, populate_by_name=True)

    version: str
    name: Annotated[str, Field(alias="for", min_length=1)]
    size: Annotated[int, Field(ge=1)]
    regularizer: str
    strength: Annotated[float, Field(gt=0)]
    weight: Annotated[float, Field(gt=0)]
    reference: list[Any]
    policy: list[Any]
    outcomes: list[Any] | None = None
    """What the numbers of policy and reference, and those of the report, are about; where the game names outcomes."""
    prompts: list[Any] | None = None
    """What the outcomes are responses to, where the game says it."""
    prompt_weights: list[float]
    next_state: list[list[int]] | None = None
    """Of an automaton."""
    initial: int = 0
    value: float
    payment: float
    utility: float
    breakdown: BreakdownFields
    privacy: PrivacyFields | None = None
    """Of tables under KL."""
    commitment: str | None = None
    path: list[Annotated[list[str], Field(min_length=2, max_length=2)]] | None = None
    """From the group's leaf to the root: [side, hash] of each neighbour, side left or right."""
    root: str | None = None
    signature: dict[str, Any] | None = None

    def document(self) -> dict[str, Any]:
        """Return the receipt as JSON has it."""
        return self.model_dump(by_alias=True, exclude_none=True)

    def text(self) -> str:
        """Return the receipt as JSON, one key a line."""
        keys = [f'"{key}": {json.dumps(value, allow_nan=False)}' for key, value in self.document().items()]
        return "{" + ",\n ".join(keys) + "}\n"


@final
class OwnReport(Strict):
    """What a group keeps of its report."""

    reward: list[Any]
    size: Annotated[int, Field(ge=1)]
    salt: Salt | None = None
    specification: str | None = None
    """The identity of a reward that is a function: what a run's seal commits to in place of numbers."""


def own_receipt(game: Game, name: str) -> OwnReceipt:
    """Return one group's own receipt of a game.

    Raises InputError when there is no such group, or the bill cannot be checked from the policy and its report alone.
    """
    fields = game.fields
    names = [group.name for group in fields.groups]
    if name not in names:
        raise InputError(f"{game.name}: groups: must have one called {shown(name)!r}, found {', '.join(names)}")
    made, mechanism, _ = build(game)
    space: Any = made
    try:
        of_space = fields.of_bill(space)
    except InputError as error:
        raise InputError(f"{game.name}: {error}") from None
    if type(mechanism.payment) is not AffinePayments:
        beside = [key for key in ("fee", "training_cost", "models") if getattr(fields, key, None) is not None]
        found = " with ".join([label("payment", fields.payment), *beside])
        raise InputError(f"{game.name}: payment: must be affine alone, to be checked alone, found {found}")
    at = names.index(name)
    settled = settle(game)
    parts = take_apart(settled)
    assert parts is not None  # affine payments are for affine maximisers
    part, weights = parts[at], fields.weights or {}
    prompts = (fields.provenance or {}).get("prompts")
    policy: Any = settled.policy
    private = privacies_of(game, settled)
    return OwnReceipt(
        version=__version__,
        name=name,
        size=fields.groups[at].size,
        regularizer=label("regularizer", fields.regularizer or "kl"),
        strength=fields.strength,
        weight=weights.get(name, 1.0),
        reference=written(game.reference),
        policy=written(policy.probabilities),
        outcomes=getattr(fields, "outcomes", None),
        prompts=prompts if isinstance(prompts, list) else None,
        **of_space,
        value=float(settled.values[at]),
        payment=float(settled.payments[at]),
        utility=float(settled.utilities[at]),
        breakdown=BreakdownFields(
            own_value=part.value, cost_to_others=sum(part.costs), provider_share=part.payment - sum(part.costs)
        ),
        privacy=None if private is None else private[at],
    )


def read_own(path: str | os.PathLike[str]) -> OwnReceipt:
    """Return the own receipt in a file; raise InputError that names file and field."""
    name = shown(os.fspath(path), 200)
    own = parse_model(OwnReceipt, parse_json(read_text(path), name), name)
    if abs(sum(own.prompt_weights) - 1) > RELATIVE or min(own.prompt_weights, default=-1) < 0:
        total = sum(own.prompt_weights)
        raise InputError(f"{name}: prompt_weights: must be >= 0 with sum 1 within 1e-9, found sum {total}")
    return own


def is_own(path: str | os.PathLike[str]) -> bool:
    """Return whether a JSON file is a group's own receipt, rather than that of a whole game."""
    try:
        document = parse_json(read_text(path), str(path))
    except InputError:
        return False
    return isinstance(document, dict) and "for" in document


def check_own(receipt: str | os.PathLike[str], report: str | os.PathLike[str]) -> tuple[list[str], list[str]]:
    """Return what is wrong with an own receipt, a line each; and if nothing is, what that proves, a line each.

    Wrong is each number that its policy and the group's own report do not give. Raises InputError when a file cannot be
    read, or its tables have no common shape.
    """
    own, name = read_own(receipt), shown(os.fspath(report), 200)
    mine = parse_model(OwnReport, parse_json(read_text(report), name), name)
    if mine.size != own.size:
        return [f"size: the receipt says {own.size}, the report says {mine.size}"], []
    found = _commitment(own, mine)
    policies, references, rewards = own_tables(own, mine, name)
    where = shown(os.fspath(receipt), 200)
    if is_code("regularizer", own.regularizer):
        raise InputError(f"{where}: regularizer: must be one that is known, found code of its own: {own.regularizer!r}")
    regularizer = regularizer_of(own.regularizer, own.strength, Path(), where)
    for b, (p, q) in enumerate(zip(policies, references, strict=True)):
        found += unfit(p, f"policy[{b}]", own.next_state is not None) + unfit(q, f"reference[{b}]")
    if found:
        return found, []
    try:
        with np.errstate(all="ignore"):  # what overflows is refused
            bill = _bill(own, regularizer, policies, references, rewards)
            found = _private_apart(own, policies, rewards)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    scale = RELATIVE * own.size * max(float(np.abs(reward).max()) for reward in rewards) * _steps(own)
    worth = own.size * bill.value
    found += _apart("value", own.value, bill.value, scale)
    low, high = float(bill.payment.low), float(bill.payment.high)
    owed = own.payment  # what the other numbers are held against: where the bill is not the right one, the right one
    if not bill.payment.contains(own.payment, scale):
        found.append(f"payment: the receipt says {own.payment!r}, the policy and the report give {_payment_text(bill)}")
        owed = float(np.clip(own.payment, low, high))
    found += _apart("utility", own.utility, worth - owed, scale)
    parts = own.breakdown
    found += _apart("breakdown.own_value", parts.own_value, worth, scale)
    found += _apart("breakdown", parts.cost_to_others + parts.provider_share, owed, scale)
    proved = f"proved: the bill, {GIVEN}"
    if high - low > scale:
        proved = f"proved: the bill is between {low:.9g} and {high:.9g}, {GIVEN}: the policy is 0 somewhere"
    return found, [] if found else [proved, NOT_PROVED]


def _private_apart(own: OwnReceipt, policies: list[Array], rewards: list[Array]) -> list[str]:
    """Return how the privacy that a receipt states is not what the policy, the report and the domain give."""
    said, share = own.privacy, own.size * own.weight
    if said is None:
        return []
    again = table_privacy(policies, rewards, share, own.strength, said.epsilon is not None).model_dump()
    found = []
    for key, value in said.model_dump(exclude_unset=True).items():
        if (value is None) != (again[key] is None):
            found.append(f"privacy.{key}: the receipt says {value!r}, the policy and the report give {again[key]!r}")
        elif value is not None:
            found += _apart(f"privacy.{key}", value, again[key], 0.0)
    return found


def _bill(
    own: OwnReceipt, regularizer: Regularizer, policies: list[Array], references: list[Array], rewards: list[Array]
) -> OwnBill:
    if own.next_state is None:
        weights = np.array(own.prompt_weights)
        return own_bill(policies, references, rewards, weights, regularizer, size=own.size, weight=own.weight)
    return own_chain_bill(
        np.stack(policies),
        np.array(own.next_state),
        rewards[0],
        initial=own.initial,
        strength=own.strength,
        size=own.size,
        weight=own.weight,
    )


def own_tables(own: OwnReceipt, mine: OwnReport, name: str) -> tuple[list[Array], list[Array], list[Array]]:
    """Return policies, references and rewards, one of each prompt; of an automaton policies of each step."""
    try:
        if not all(map(_is_numbers, (own.policy, own.reference, mine.reward))):
            raise ValueError
        if own.next_state is not None:
            shape = np.shape(own.next_state)
            policy = np.asarray(own.policy, dtype=np.float64)
            reference, reward = (np.asarray(table, dtype=np.float64) for table in (own.reference, mine.reward))
            if policy.ndim != 3 or not policy.shape[1:] == reference.shape == reward.shape == shape:
                raise ValueError
            if np.max(own.next_state) >= shape[0] or not 0 <= own.initial < shape[0]:
                raise ValueError
            return list(policy), [reference] * len(policy), [reward] * len(policy)
        said = (own.policy, own.reference, mine.reward)
        tables = [[np.asarray(row, dtype=np.float64) for row in rows_of(table)] for table in said]
        if len({tuple(row.shape for row in table) for table in tables}) > 1 or any(r.ndim != 1 for r in tables[0]):
            raise ValueError
        if len(tables[0]) != len(own.prompt_weights):
            raise ValueError
        if not all(np.isfinite(row).all() for table in tables for row in table):
            raise ValueError
    except (ValueError, TypeError):
        there, found = kind(own.reference), kind(mine.reward)
        raise InputError(
            f"{name}: reward: must be finite numbers shaped like the receipt's policy and reference ({there}), "
            f"found {found if found != there else 'others'}"
        ) from None
    return tables[0], tables[1], tables[2]


def _commitment(own: OwnReceipt, mine: OwnReport) -> list[str]:
    """Return how a receipt with a commitment disagrees with the report and its salt."""
    if own.commitment is None and own.root is None and own.path is None:
        return []
    if own.commitment is None or own.root is None or own.path is None:
        return ["commitment: the receipt must hold commitment, path and root, or none of them"]
    if mine.salt is None:
        return ["commitment: the report must hold its salt to be compared with the commitment"]
    made = commitment(own.name, mine.size, mine.specification or mine.reward, bytes.fromhex(mine.salt))
    if made != own.commitment:
        return [f"commitment: the receipt says {own.commitment}, the report and its salt give {made}"]
    reached = climb(made, own.path)
    return [] if reached == own.root else [f"root: the receipt says {own.root}, the path leads to {reached}"]


def commitment(name: str, size: int, reward: Any, salt: bytes) -> str:
    """Return the SHA-256 of a salt (32 bytes) followed by the canonical report, in hexadecimal.

    The canonical report is UTF-8 JSON with sorted keys and no spaces of {"name", "size", "reward"}, numbers as floats;
    a text in place of them is the identity of a reward that is a function.
    """
    content = {"name": name, "size": size, "reward": reward if isinstance(reward, str) else _floats(reward)}
    report = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(salt + report.encode()).hexdigest()


def merkle(leaves: Sequence[str]) -> tuple[str, list[list[list[str]]]]:
    """Return the root of hexadecimal leaves, and the path of each: [side, hash] of every neighbour on the way up.

    An inner node is the SHA-256 of left and right; a node without a neighbour goes up unchanged.
    """
    level, paths = list(leaves), [list[list[str]]() for _ in leaves]
    below = [[k] for k in range(len(leaves))]  # which leaves are under each node
    while len(level) > 1:
        pairs = range(0, len(level) - 1, 2)
        for k in pairs:
            for leaf in below[k]:
                paths[leaf].append(["right", level[k + 1]])
            for leaf in below[k + 1]:
                paths[leaf].append(["left", level[k]])
        odd = len(level) % 2
        level = [_joined(level[k], level[k + 1]) for k in pairs] + (level[-1:] if odd else [])
        below = [below[k] + below[k + 1] for k in pairs] + (below[-1:] if odd else [])
    return level[0], paths


def climb(leaf: str, path: Sequence[Sequence[str]]) -> str:
    """Return the root that a path leads to from a leaf; of a path that is none, a text that is no root."""
    for side, other in path:
        if side not in ("left", "right") or not re.fullmatch("[0-9a-f]{64}", other):
            return "nowhere"
        leaf = _joined(other, leaf) if side == "left" else _joined(leaf, other)
    return leaf


def _joined(left: str, right: str) -> str:
    return hashlib.sha256(bytes.fromhex(left) + bytes.fromhex(right)).hexdigest()


def _floats(table: Any) -> Any:
    return [_floats(row) for row in table] if isinstance(table, list) else float(table)


def _is_numbers(table: Any) -> bool:
    """Return whether all leaves of nested lists are numbers: a text that looks like one is none."""
    return all(map(_is_numbers, table)) if isinstance(table, list) else type(table) in (int, float)


def rows_of(table: Any) -> list[Any]:
    """Return a table as its rows, one of each prompt."""
    return table if table and isinstance(table[0], list) else [table]


def written(table: Any) -> Any:
    """Return a table as nested lists."""
    if isinstance(table, list):
        return [written(row) for row in table]
    return table.tolist() if hasattr(table, "tolist") else table


def _steps(own: OwnReceipt) -> int:
    return 1 if own.next_state is None else len(own.policy)


def unfit(rows: Array, field: str, may_be_empty: bool = False) -> list[str]:
    """Return a line if rows are no probabilities. may_be_empty: zeros alone say that a state is not reached."""
    table = np.atleast_2d(rows)
    totals = table.sum(axis=1)
    wrong = (table < 0).any(axis=1) | ((np.abs(totals - 1) > 1e-6) & ~(may_be_empty & (totals == 0)))
    return [f"{field}: must be probabilities with sum 1, found sum {totals[wrong][0]}"] if wrong.any() else []


def _apart(field: str, mine: float, theirs: float, slack: float) -> list[str]:
    if abs(mine - theirs) <= slack + RELATIVE * max(abs(mine), abs(theirs)):
        return []
    return [f"{field}: the receipt says {mine!r}, the policy and the report give {theirs!r}"]


def _payment_text(bill: OwnBill) -> str:
    low, high = float(bill.payment.low), float(bill.payment.high)
    return repr(low) if low == high else f"{low!r} to {high!r}"
