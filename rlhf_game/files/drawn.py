"""Games known through a tape: proposals of the reference, each group's reward of each, and which were accepted.

``game.json`` of such a run (``space: draws``) names tape.parquet; its receipt is computed from that file alone, so
``verify`` needs no language model. Everything random is fixed by the settlement seed, taken after the reports: the
proposals, the numbers that they are accepted by, and with log_mean how many draws there are.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias, final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rlhf_game.errors import InputError
from rlhf_game.files.documents import shown
from rlhf_game.files.private import PrivacyFields, fields_of
from rlhf_game.files.receipts import Receipt
from rlhf_game.files.sampled import DrawsFile, SeedFrom, read_known, receipt_head, sizes_and_weights
from rlhf_game.files.schema import Name, Positive, Strict, parse_model
from rlhf_game.files.tables import digest
from rlhf_game.mechanism.arrays import Array, numbers
from rlhf_game.mechanism.draws.log_mean import doublings
from rlhf_game.mechanism.draws.settlement import DrawsSettlement, Estimator, regret_bounds, settle_tapes
from rlhf_game.mechanism.draws.tapes import Problem, Tape, cut
from rlhf_game.mechanism.privacy import privacy
from rlhf_game.mechanism.reports import LARGEST_SIZE
from rlhf_game.mechanism.sampled.estimates import Estimate

PILOT: Final = 16
"""Draws of each prompt, beside those that are served, by which ``auto`` chooses and log_mean finds its pivots."""
MAIN, BEFORE = 0, 1
"""The tape that serves and bills, and the pilot's."""
WAITS, DOUBLINGS = 2, 3
"""What further streams of the settlement seed are for; proposal j to prompt b has the stream (part, b, j)."""
Count: TypeAlias = Annotated[int, Field(ge=1, le=1_000_000_000)]
Ceiling: TypeAlias = Annotated[float, Field(gt=0, le=1)]


def exponentials(seed: int, part: int, prompt: int, count: int) -> Array:
    """Return -log u of the first proposals of a tape: [count]. part: MAIN or BEFORE."""
    stream = np.random.SeedSequence(seed, spawn_key=(WAITS, part, prompt))
    return np.random.default_rng(stream).standard_exponential(count)


def wanted_draws(seed: int, draws: int, prompts: int, estimator: Estimator) -> list[int]:
    """Return how many acceptances the tape of each prompt ends with: T, or T 2^J with log_mean."""
    if estimator != "log_mean":
        return [draws] * prompts
    streams = [np.random.SeedSequence(seed, spawn_key=(DOUBLINGS, b)) for b in range(prompts)]
    return [draws * 2 ** doublings(np.random.default_rng(stream)) for stream in streams]


@final
class DrawnMember(Strict):
    """One group."""

    name: Name
    size: Annotated[int, Field(ge=1, le=LARGEST_SIZE)]
    ceiling: Ceiling
    """The most that its reward counts."""


@final
class DrawnFields(Strict):
    """A game file of ``space: draws``."""

    space: Literal["draws"]
    regularizer: Literal["kl"]
    strength: Positive
    payment: Literal["affine", "none"]
    estimator: Estimator
    draws: Count
    max_proposals: Count
    level: Annotated[float, Field(gt=0, lt=1)]
    size_limit: Annotated[int, Field(ge=1, le=LARGEST_SIZE)] | None = None
    weights: dict[Name, Positive] | None = None
    groups: Annotated[list[DrawnMember], Field(min_length=1)]
    prompts: Count
    settlement_seed: Annotated[int, Field(ge=0)]
    seed_from: SeedFrom
    tape: DrawsFile
    provenance: dict[str, Any] | None = None


@final
@dataclass(frozen=True, eq=False)
class DrawnGame:
    """A game that was read: its fields, the tape of each prompt, and what the pilot drew."""

    name: str
    folder: Path
    fields: DrawnFields
    tapes: tuple[Tape, ...]
    whole: Array
    """Of all proposals of these tapes, prompt after prompt: 0 where the text was given up, which counts nowhere."""
    pilot: tuple[Array, ...] | None
    faults: tuple[str, ...]
    """In what the tape is not that of the settlement seed."""
    sha256: str


def problem_of(fields: DrawnFields) -> Problem:
    """Return what is drawn from and charged for."""
    ceilings = np.array([group.ceiling for group in fields.groups])
    return Problem(*sizes_and_weights(fields.groups, fields.weights), fields.strength, ceilings)


def read_drawn_game(path: str | os.PathLike[str]) -> DrawnGame:
    """Return a game of ``space: draws`` with its tapes. Raises InputError that names the file and the field."""
    name, fields, sha256 = read_known(path, DrawnFields)
    folder, problem, faults = Path(path).parent, problem_of(fields), list[str]()
    try:
        columns = _columns(folder / fields.tape.file, [group.name for group in fields.groups])
        there = np.unique(columns["prompt"])
        if not np.array_equal(there, np.arange(min(fields.prompts, len(there) + 1))):
            raise InputError(f"prompts: must be the {len(there)} of the tape, numbered from 0, found {fields.prompts}")
        wanted = wanted_draws(fields.settlement_seed, fields.draws, fields.prompts, fields.estimator)
        tapes = [_tape(columns, problem, MAIN, b, wanted[b], fields, faults) for b in range(fields.prompts)]
        pilot = None
        if (columns["part"] == BEFORE).any():
            if not all(len(_places(columns, BEFORE, b)) for b in range(fields.prompts)):
                raise InputError("tape: must hold a pilot of every prompt or of none")
            before = [_tape(columns, problem, BEFORE, b, PILOT, fields, faults) for b in range(fields.prompts)]
            pilot = tuple(tape.drawn for tape in before)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    whole = np.concatenate([columns["is_whole"][_places(columns, MAIN, b)] for b in range(fields.prompts)])
    return DrawnGame(name, folder, fields, tuple(tapes), whole, pilot, tuple(faults), sha256)


def _places(columns: dict[str, Array], part: int, prompt: int) -> NDArray[np.intp]:
    """Return where the rows of one tape are."""
    return np.flatnonzero((columns["part"] == part) & (columns["prompt"] == prompt))


def _tape(
    columns: dict[str, Array],
    problem: Problem,
    part: int,
    prompt: int,
    draws: int,
    fields: DrawnFields,
    faults: list[str],
) -> Tape:
    """Return the tape of a prompt, cut again from its rewards and exponentials; what differs goes to ``faults``."""
    rows = _places(columns, part, prompt)
    where = f"tape: prompt {prompt}" + (" (pilot)" if part == BEFORE else "")
    waits, rewards = columns["exponential"][rows], np.stack([columns[f"reward:{g.name}"][rows] for g in fields.groups])
    found = cut(problem, rewards, waits, draws) if len(rows) else None
    if found is None or found.proposals != len(rows):
        raise InputError(f"{where} must end with its acceptance {draws}")
    if not np.array_equal(columns["proposal"][rows], np.arange(len(rows))):
        raise InputError(f"{where} must hold its proposals in order")
    if not np.array_equal(waits, exponentials(fields.settlement_seed, part, prompt, len(rows))):
        faults.append(f"{where}: exponential: must be as the settlement seed gives it, found other numbers")
    is_accepted = np.zeros(len(rows), dtype=bool)
    is_accepted[found.accepted] = True
    if (found.levels[:, columns["is_whole"][rows] == 0] < 1).any():
        faults.append(f"{where}: is_whole: must be true of what counts in a bill, found a text that was given up")
    if not np.array_equal(columns["accepted"][rows], is_accepted):
        faults.append(f"{where}: accepted: must be what the numbers of the tape give, found otherwise")
    return found


def _columns(path: Path, groups: Sequence[str]) -> dict[str, Array]:
    from pyarrow import ArrowException, parquet

    if not path.is_file():
        raise InputError(f"tape.file: must name a file beside the game, found none at {shown(str(path), 120)!r}")
    names = [
        "part",
        "prompt",
        "proposal",
        "is_whole",
        "exponential",
        "accepted",
        *(f"reward:{name}" for name in groups),
    ]
    try:
        table = parquet.read_table(os.fspath(path), columns=names).to_pydict()
        found = {name: numbers(table[name], name) for name in names}
    except (ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"tape.file: must be a tape with columns {', '.join(names)}, found: {error}") from None
    if not all(np.isfinite(values).all() for values in found.values()):
        raise InputError("tape.file: must hold finite numbers, found others")
    return found


def drawn_receipt(game: DrawnGame) -> Receipt:
    """Return the receipt: the keys of every receipt, then the draws, the certificate, and where the seed is from."""
    fields, drawn = game.fields, settle_drawn(game)
    bounds = _regret_bounds(game)
    proposals = [tape.proposals for tape in game.tapes]
    prompts = [
        {
            "accepted": tape.draws,
            "proposals": tape.proposals,
            "log_z": _estimate_document(drawn.log_z[b], drawn.errors.log_z[b]),
        }
        for b, tape in enumerate(game.tapes)
    ]
    is_free = fields.payment == "none"
    document = {
        **receipt_head(fields, game.sha256),
        "policy": None,
        "social_welfare": _estimate_document(drawn.social_welfare, drawn.errors.social_welfare),
        "divergence": _estimate_document(drawn.divergence, drawn.errors.divergence),
        "affine_social_welfare": _estimate_document(drawn.affine_welfare, drawn.errors.affine_welfare),
        "groups": [
            _group(game, drawn, i, None if bounds is None else float(bounds[i])) for i in range(len(fields.groups))
        ],
        "draws": {
            "estimator": fields.estimator,
            "prompts": prompts,
            "acceptance_rate": float(sum(tape.draws for tape in game.tapes) / sum(proposals)),
            "second_payments": [0.0 if is_free else float(paid) for paid in drawn.second_payments],
            "least_utilities": [float(least) for least in drawn.least_utilities],
        },
        "certificate": {"level": fields.level, "regret_bound": None if bounds is None else float(bounds.max())},
        "seed_from": fields.seed_from,
        "settlement_seed": fields.settlement_seed,
    }
    return parse_model(Receipt, document, game.name)


def settle_drawn(game: DrawnGame) -> DrawsSettlement:
    """Return the settlement of the tapes."""
    fields = game.fields
    return settle_tapes(game.tapes, fields.draws, estimator=fields.estimator, level=fields.level, pilot=game.pilot)


def _group(game: DrawnGame, drawn: DrawsSettlement, i: int, bound: float | None) -> dict[str, Any]:
    group, value = game.fields.groups[i], drawn.values[i]
    errors = [
        None if of is None else of[i] for of in (drawn.errors.values, drawn.errors.payments, drawn.errors.utilities)
    ]
    found = {
        "name": group.name,
        "size": group.size,
        "value": _estimate_document(value, errors[0]),
        "privacy": _privacy(game, i).model_dump(),
    }
    if game.fields.payment == "none":
        error = None if errors[0] is None else group.size * errors[0]
        return {
            **found,
            "payment": 0.0,
            "utility": _estimate_document(value.scaled(group.size), error),
            "regret_bound": None,
        }
    return {
        **found,
        "payment": _estimate_document(drawn.payments[i], errors[1]),
        "utility": _estimate_document(drawn.utilities[i], errors[2]),
        "regret_bound": bound,
        "draws_needed": _draws_needed(game.fields.draws, float(drawn.payments.value[i]), errors[1]),
    }


def _privacy(game: DrawnGame, i: int) -> PrivacyFields:
    """Return what a draw of the optimum tells of a group's reward, which counts from 0 to its ceiling."""
    fields, problem = game.fields, problem_of(game.fields)
    span = float(problem.ceilings[i])
    found = privacy((), (), share=float(problem.shares[i]), strength=fields.strength, span=span)
    return fields_of(found, fields.prompts)


def _estimate_document(estimate: Estimate, error: Array | float | None) -> dict[str, Any]:
    """Return an estimate as the receipt has it: with its standard error, where there is one."""
    return {**estimate.document(), "standard_error": None if error is None else float(error)}


def _draws_needed(draws: int, paid: float, error: float | None) -> int | None:
    """Return with how many draws of each prompt a bill would be twice its standard error; None unless it is noise."""
    if error is None or paid == 0 or abs(paid) >= error:
        return None
    return ceil(draws * (2 * float(error) / paid) ** 2)


def _regret_bounds(game: DrawnGame) -> Array | None:
    """Return what no lie gains more than: known for fresh seeds, declared sizes, and bills that are bounded."""
    fields = game.fields
    if fields.size_limit is None or fields.seed_from == "config" or fields.payment == "none":
        return None
    if game.pilot is not None or fields.estimator == "log_mean":
        return None
    return regret_bounds(problem_of(fields), fields.size_limit, fields.draws, fields.max_proposals, fields.prompts)


def changed_tape(game: DrawnGame) -> list[str]:
    """Return a line for each way in which the tape is not as the game and its seed say."""
    found = []
    if digest(game.folder / game.fields.tape.file) != game.fields.tape.sha256:
        found.append(f"tape.sha256: the game says {game.fields.tape.sha256!r}, {game.fields.tape.file!a} has another")
    return [*found, *game.faults]
