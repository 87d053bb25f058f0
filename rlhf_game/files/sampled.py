"""Games known through samples: a policy was trained, and draws of it, of the reference and of others were scored.

``game.json`` of such a run (``space: samples``) names the files with the draws and the rewards; its receipt is computed
from them alone, so ``verify`` needs no language model.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, final

import numpy as np
from pydantic import Field

from rlhf_game import __version__
from rlhf_game.errors import InputError
from rlhf_game.files.documents import parse_json, read_text, shown
from rlhf_game.files.policies import PolicyFolder, folder_digest
from rlhf_game.files.schema import LARGEST_SIZE, Name, Positive, Strict, parse_model
from rlhf_game.files.tables import digest
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.estimates import Estimate
from rlhf_game.mechanism.sampled_settlement import (
    ByFormula,
    ByMenu,
    ByReference,
    ByTrainings,
    OthersWelfare,
    PolicySamples,
    SampledGame,
    SampledSettlement,
    settle_samples,
)
from rlhf_game.mechanism.spaces.menu import Menu

PaymentsFrom: TypeAlias = Literal["samples", "reference", "leave_one_out", "early_stopped", "checkpoints", "soups"]
LABELS: Mapping[str, str] = {
    "samples": "one training, all payments: the formula for the optimum at samples of the final policy, kept inside "
    "what samples of the reference prove",
    "reference": "max ASW without each group, over samples of the reference",
    "leave_one_out": "a policy trained without each group, for as many steps",
    "early_stopped": "H2, a policy trained without each group for fewer steps; payments can be negative",
    "checkpoints": "H1, the best checkpoint of the main run; not strictly DSIC: the checkpoints depend on the group's "
    "own report",
    "soups": "the menu of interpolations between policies that were trained for each group alone; exact on that menu, "
    "but not strictly DSIC: the menu depends on the group's own report",
}
"""What each source of the leave-one-out term is, for the receipt."""
REFERENCE, FINAL = "reference", "final"
RELATIVE = 1e-9


@final
class DrawsFile(Strict):
    """A .parquet file beside the game, and the SHA-256 of its bytes."""

    file: Name
    sha256: Name


@final
class Member(Strict):
    """One group."""

    name: Name
    size: Annotated[int, Field(ge=1, le=LARGEST_SIZE)]


@final
class TrainerFields(Strict):
    """What trained the policies, and whether its optimum is the mechanism's."""

    name: Name
    is_faithful: bool
    reason: Name


@final
class CostFields(Strict):
    """What the trainings took; seconds are in the file beside, since they differ from run to run."""

    trainings: Annotated[int, Field(ge=0)]
    tokens: Annotated[int, Field(ge=0)]
    seconds: Name


@final
class SampledFields(Strict):
    """A game file of ``space: samples``."""

    space: Literal["samples"]
    regularizer: Literal["kl"]
    strength: Positive
    payment: Literal["affine", "none"]
    payments_from: PaymentsFrom
    level: Annotated[float, Field(gt=0, lt=1)]
    cap: Positive
    """Of |log(policy / reference)| of a response, in nats."""
    weights: dict[Name, Positive] | None = None
    groups: Annotated[list[Member], Field(min_length=1)]
    policies: Annotated[list[Name], Field(min_length=2)]
    """Whose draws there are: the reference, then those that payments_from asks for."""
    samples: DrawsFile
    scores: DrawsFile
    policy: PolicyFolder | None = None
    trainer: TrainerFields
    cost: CostFields
    provenance: dict[str, Any] | None = None


@final
@dataclass(frozen=True, eq=False)
class SampledGameFile:
    """A game that was read: its fields, and the draws of each policy."""

    name: str
    folder: Path
    fields: SampledFields
    draws: Mapping[str, PolicySamples]
    sha256: str


def is_sampled(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a game that is known through samples."""
    if Path(path).suffix.lower() != ".json":
        return False
    document = parse_json(read_text(path), shown(os.fspath(path), 200))
    return isinstance(document, dict) and document.get("space") == "samples"


def read_sampled_game(path: str | os.PathLike[str]) -> SampledGameFile:
    """Return a game of ``space: samples`` with its draws. Raises InputError that names the file and the field."""
    name = shown(os.fspath(path), 200)
    document = parse_json(read_text(path), name)
    fields = parse_model(SampledFields, document, name)
    content = json.dumps(fields.model_dump(exclude={"provenance"}), sort_keys=True, separators=(",", ":"))
    folder = Path(path).parent
    try:
        draws = read_draws(folder / fields.samples.file, folder / fields.scores.file, fields)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    return SampledGameFile(name, folder, fields, draws, hashlib.sha256(content.encode()).hexdigest())


def read_draws(samples: Path, scores: Path, fields: SampledFields) -> dict[str, PolicySamples]:
    """Return the draws of each policy, with every group's rewards of them."""
    drawn = _columns(samples, "samples", ("policy", "prompt", "text", "log_probability", "log_reference"))
    scored = _columns(scores, "scores", ("group", "prompt", "text", "reward"))
    names = [group.name for group in fields.groups]
    rewards = dict(
        zip(zip(scored["group"], scored["prompt"], scored["text"], strict=True), scored["reward"], strict=True)
    )
    found = {}
    for policy in fields.policies:
        rows = [k for k, of in enumerate(drawn["policy"]) if of == policy]
        prompts = sorted({drawn["prompt"][k] for k in rows})
        by_prompt = [[k for k in rows if drawn["prompt"][k] == b] for b in prompts]
        if not rows or len({len(row) for row in by_prompt}) > 1:
            raise InputError(f"samples: must have as many draws of {shown(policy)!r} for each prompt")
        ratios = [[drawn["log_probability"][k] - drawn["log_reference"][k] for k in row] for row in by_prompt]
        try:
            worth = [
                [[rewards[name, drawn["prompt"][k], drawn["text"][k]] for k in row] for row in by_prompt]
                for name in names
            ]
        except KeyError as error:
            missing = error.args[0][0]
            raise InputError(f"scores: must have a reward of every draw, found none of group {missing!a}") from None
        found[policy] = PolicySamples(np.array(worth), np.array(ratios))
    return found


def _columns(path: Path, field: str, names: Sequence[str]) -> dict[str, list[Any]]:
    from pyarrow import ArrowException, parquet

    if not path.is_file():
        raise InputError(f"{field}.file: must name a file beside the game, found none at {shown(str(path), 120)!r}")
    try:
        table: dict[str, list[Any]] = parquet.read_table(os.fspath(path)).to_pydict()
    except (ArrowException, OSError, ValueError) as error:
        raise InputError(f"{field}.file: must be a .parquet file, found: {shown(str(error), 120)}") from None
    for name in names:
        if name not in table:
            raise InputError(f"{field}.file: must have the column {name}, found {', '.join(table) or 'none'}")
    return table


def settle_sampled(game: SampledGameFile) -> tuple[SampledSettlement, str]:
    """Return the settlement, and the name of the policy that is delivered."""
    fields, draws = game.fields, game.draws
    weights = fields.weights or {}
    multipliers = np.array([weights.get(group.name, 1.0) for group in fields.groups])
    sizes = np.array([float(group.size) for group in fields.groups])
    is_menu = fields.payments_from == "soups"
    common = SampledGame(
        sizes, multipliers, fields.strength, fields.level, fields.cap, len(fields.policies) if is_menu else 1
    )
    chosen = _best_entry(common, fields.policies, draws) if is_menu else FINAL
    others = None if fields.payment == "none" else _others(game)
    return settle_samples(common, draws[chosen], draws[REFERENCE], others), chosen


def _best_entry(game: SampledGame, names: Sequence[str], draws: Mapping[str, PolicySamples]) -> str:
    """Return what the menu space chooses: the entry with the highest welfare over its own draws."""
    divergences = [max(0.0, float(game.costs(draws[name]).mean())) for name in names]
    values: list[Array] = [np.array([draws[name].rewards[i].mean() for name in names]) for i in range(len(game.sizes))]
    return names[Menu(divergences, game.strength, outcomes=names).maximize(game.shares, values).chosen]


def _others(game: SampledGameFile) -> OthersWelfare:
    fields, draws = game.fields, game.draws
    match fields.payments_from:
        case "samples":
            return ByFormula(draws[REFERENCE])
        case "reference":
            return ByReference(draws[REFERENCE])
        case "leave_one_out" | "early_stopped":
            return ByTrainings([draws[without(group.name, len(fields.groups))] for group in fields.groups])
        case "checkpoints" | "soups":
            return ByMenu([draws[name] for name in fields.policies])


def without(group: str, groups: int) -> str:
    """Return what the policy trained without a group is called; without the only one it is the reference."""
    return f"without {group}" if groups > 1 else REFERENCE


def receipt_document(game: SampledGameFile) -> dict[str, Any]:
    """Return the receipt: the keys of every receipt, then where payments come from, the certificate and the cost."""
    fields = game.fields
    settled, chosen = settle_sampled(game)
    bounds = settled.certificate.regret_bounds
    groups = []
    for i, group in enumerate(fields.groups):
        groups.append(
            {
                "name": group.name,
                "size": group.size,
                "value": settled.values[i].document(),
                "payment": _number(settled.payments[i]),
                "utility": settled.utilities[i].document(),
                "affine_payment": settled.certificate.affine_payments[i].document(),
                "regret_bound": None if bounds is None else float(bounds[i]),
            }
        )
    gap = settled.certificate.gap.document()
    certificate = {
        "level": settled.certificate.level,
        "regret_bound": None if bounds is None else float(bounds.max()),
        "gap": gap,
        "tightness": settled.certificate.tightness,
    }
    return {
        "version": __version__,
        "game_sha256": game.sha256,
        "regularizer": fields.regularizer,
        "strength": fields.strength,
        "payment": fields.payment,
        "policy": None if fields.policy is None else fields.policy.model_dump(),
        "social_welfare": settled.social_welfare.document(),
        "divergence": settled.divergence.document(),
        "affine_social_welfare": settled.affine_social_welfare.document(),
        "groups": groups,
        "payments_from": fields.payments_from,
        "payments_label": LABELS[fields.payments_from],
        "delivered": chosen,
        "certificate": certificate,
        "trainer": fields.trainer.model_dump(),
        "cost": fields.cost.model_dump(),
    }


def receipt_lines(document: Mapping[str, Any]) -> str:
    """Return a receipt's document as JSON for people: one key a line, one group a line."""
    keys = []
    for key, value in document.items():
        if key == "groups":
            rows = ",\n  ".join(json.dumps(group, allow_nan=False) for group in value)
            keys.append(f'"groups": [\n  {rows}\n ]')
        else:
            keys.append(f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}")
    return "{" + ",\n ".join(keys) + "\n}\n"


def sampled_differences(receipt: str | os.PathLike[str], game: SampledGameFile) -> list[str]:
    """Return a line for each thing in which a receipt, or a file that the game names, differs from the game's draws.

    Everything is computed again from the draws: payments, intervals, certificate. That the draws are the policy's own
    is not checked (it needs the language model); that they and the weights are the ones that the run wrote is.
    """
    said = parse_json(read_text(receipt), shown(os.fspath(receipt), 200))
    found = []
    for field, of in (("samples", game.fields.samples), ("scores", game.fields.scores)):
        if digest(game.folder / of.file) != of.sha256:
            found.append(f"{field}.sha256: the game says {of.sha256!r}, {shown(of.file)!r} has another")
    if game.fields.policy is not None:
        place = game.folder / game.fields.policy.folder
        if folder_digest(place) != game.fields.policy.sha256:
            found.append(f"policy.sha256: the game says {game.fields.policy.sha256!r}, {str(place)!a} has another")
    for key, value in receipt_document(game).items():
        found += _apart(key, said.get(key) if isinstance(said, dict) else None, value)
    return found


def _apart(at: str, mine: Any, theirs: Any) -> list[str]:
    """Return a line for each leaf that differs."""
    if isinstance(theirs, dict) and isinstance(mine, dict):
        return [line for key in theirs for line in _apart(f"{at}.{key}", mine.get(key), theirs[key])]
    if isinstance(theirs, list) and isinstance(mine, list) and len(theirs) == len(mine):
        pairs = enumerate(zip(mine, theirs, strict=True))
        return [line for i, (a, b) in pairs for line in _apart(f"{at}[{i}]", a, b)]
    is_close = (
        isinstance(mine, float)
        and isinstance(theirs, float)
        and abs(mine - theirs) <= RELATIVE * max(1.0, abs(mine), abs(theirs))
    )
    if mine == theirs or is_close:
        return []
    return [f"{at}: the receipt says {shown(str(mine), 80)}, the draws give {shown(str(theirs), 80)}"]


def _number(estimate: Estimate) -> Any:
    """Return a payment as a number where it is one (nothing is charged), else as an interval."""
    return estimate.document() if estimate.level < 1 else float(estimate.value)
