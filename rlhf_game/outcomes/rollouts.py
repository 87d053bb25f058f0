"""Curves from rollouts that were logged while a policy was trained: what each group got and owed, step by step.

Rollouts are draws of one policy after the other, so they are estimates that prove nothing: never a certificate. With
the exponents x of a prompt's draws from p, J(x) = lambda (log E exp x - E x) >= 0, l = log p / q and g = mu w (derived;
tests/outcomes/test_rollouts.py has them for listed responses):

    payment by the formula    J(-g_i r_i / lambda) / mu_i, exact at the optimum
    externality               J(s_-i / lambda - l) / mu_i = (max ASW_-i - ASW_-i(p)) / mu_i
    gap                       J(s / lambda - l) / mu_i = (max ASW - ASW(p)) / mu_i

The last two need log probabilities under both. From few draws a prompt the latter are too low, as log E exp x is.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.files.conversations import Text, response_of, text_of
from rlhf_game.files.documents import kind, shown
from rlhf_game.files.rows import ENDINGS, number_of, read_rows
from rlhf_game.files.sampled import sizes_and_weights
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.sampled.sampled_payments import sampled_payments
from rlhf_game.mechanism.sampled.sampled_settlement import jensen_gap
from rlhf_game.outcomes.given_draws import LOGS, OWN, STEPS, fields_of_columns
from rlhf_game.outcomes.log_probabilities import log_probability_of
from rlhf_game.outcomes.run_config import RunConfig, read_document
from rlhf_game.rewards.reward_specs import calibration_of

PROMPTS: Final = ("prompt", "input")
RESPONSES: Final = ("response", "completion", "output")
"""As this package, TRL and verl call them; of these, as of STEPS, the first that is there counts."""
ENGINES: Final = frozenset({*STEPS, *PROMPTS, *RESPONSES, "advantage", "gts", "score", "reward"})
"""Columns of engines that say something else than a group's rewards."""
PREFIX: Final = "group_"
"""Of a group's column where an exported reward wrote it: rewards, which no calibration is for any more."""
Curve: TypeAlias = list[dict[str, float]]


@final
@dataclass(frozen=True, eq=False)
class _Rollout:
    step: float
    prompt: Text
    log_ratio: float | None
    """log policy - log reference of the response, where the row has both."""
    numbers: tuple[float, ...]
    """Of each group, as the row has them."""


@final
@dataclass(frozen=True, eq=False)
class Rollouts:
    """What rollouts of a training say, a row for each step; money and welfare are in units of reward."""

    groups: Mapping[str, Curve]
    """Of each group: ``step``, ``value`` (one member's), and where a prompt has two draws ``payment``; with log
    probabilities of all of a step's draws also ``externality`` and ``gap``."""
    policy: Curve
    """``step``, ``social_welfare``, with log probabilities ``divergence`` (nats) and ``affine_welfare``, ``draws``."""

    @property
    def lacks(self) -> tuple[str, ...]:
        """What no step says."""
        said = {name for curve in self.groups.values() for row in curve for name in row}
        return tuple(name for name in ("payment", "externality", "gap") if name not in said)


def read_rollouts(path: Path, groups: str | os.PathLike[str]) -> Rollouts:
    """Return the curves of rollouts: a file of rows, or a folder of such files.

    groups: a run's configuration, of which ``strength``, ``weights`` and each group's ``name``, ``size`` and
    ``calibration`` count; a group's numbers are in the column of its name, or in group_NAME as exports write it. A row
    has a step, a prompt and a response, as this package, TRL (completions/*.parquet) or verl (rollout_data_dir) call
    them. Raises InputError that names file and field.
    """
    document, name = read_document(groups, "run")
    fields = fields_of_columns({**document, "outcomes": {"kind": "finetuned"}}, name, ENGINES | OWN)
    found = [named for file in _files(path) for named in read_rows(file, "rollouts")[0]]
    columns = _columns(*found[0], [group.name for group in fields.groups])
    rows = [_row(where, row, columns) for where, row in found]
    if len({row.step for row in rows}) < 2:
        raise InputError(f"{shown(str(path), 200)}: {columns[0]}: must be two or more, for a curve, found one")
    return _curves(fields, rows, _rewards(fields, rows, columns, name))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.name.endswith(ENDINGS))
    if not found:
        raise InputError(f"{shown(str(path), 200)}: must hold rollouts ending in {', '.join(ENDINGS)}, found none")
    return found


def _columns(where: str, row: Any, names: Sequence[str]) -> list[str]:
    """Return what the first row calls the step, the prompt, the response, and each group's number."""
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: must be a mapping with step, prompt and response, found {kind(row)}")
    columns = []
    for called in (STEPS, PROMPTS, RESPONSES, *((PREFIX + name, name) for name in names)):
        found = next((column for column in called if row.get(column) is not None), None)
        if found is None:
            raise InputError(f"{where}: {' or '.join(map(shown, called))}: must be given, found nothing")
        columns.append(found)
    return columns


def _row(where: str, row: Any, columns: Sequence[str]) -> _Rollout:
    lacking = next((column for column in columns if not isinstance(row, Mapping) or row.get(column) is None), None)
    if lacking is not None:
        raise InputError(f"{where}: {shown(lacking)}: must be given, as in the first row, found nothing")
    step, prompt, response, *numbers = columns
    at = number_of(row[step], f"{where}: {step}")
    if at < 0:
        raise InputError(f"{where}: {step}: must be >= 0, found {at:g}")
    response_of(row[response], f"{where}: {response}")
    logs = [log_probability_of(row[key], f"{where}: {key}") for key in LOGS if row.get(key) is not None]
    return _Rollout(
        at,
        text_of(row[prompt], f"{where}: {prompt}"),
        logs[0] - logs[1] if len(logs) == len(LOGS) else None,
        tuple(number_of(row[column], f"{where}: {shown(column)}") for column in numbers),
    )


def _rewards(fields: RunConfig, rows: Sequence[_Rollout], columns: Sequence[str], name: str) -> Array:
    """Return every group's rewards, in [0, 1]: [n, k]."""
    prompts, found = [row.prompt for row in rows], []
    for i, (group, column) in enumerate(zip(fields.groups, columns[-len(fields.groups) :], strict=True)):
        calibration = group.calibration if column == group.name else None
        numbers = np.array([row.numbers[i] for row in rows])
        try:
            found.append(calibration_of(group.reward, calibration)(numbers, prompts))
        except InputError as error:
            raise InputError(f"{name}: groups[{i}].calibration: {error}") from error
    return np.stack(found)


def _curves(fields: RunConfig, rows: Sequence[_Rollout], rewards: Array) -> Rollouts:
    sizes, multipliers = sizes_and_weights(fields.groups, fields.weights)
    places: dict[float, dict[Text, list[int]]] = {}
    for k, row in enumerate(rows):
        places.setdefault(row.step, {}).setdefault(row.prompt, []).append(k)
    groups: dict[str, Curve] = {group.name: [] for group in fields.groups}
    policy: Curve = []
    for step in sorted(places):
        whole = list(places[step].values())
        values = np.mean([rewards[:, of].mean(axis=1) for of in whole], axis=0)
        policy.append({"step": step, "social_welfare": float(sizes @ values)})
        ratios = [[rows[k].log_ratio for k in of] for of in whole]
        known = [np.array([one for one in of if one is not None]) for of in ratios]
        is_logged = all(len(one) == len(of) for one, of in zip(known, whole, strict=True))
        if is_logged:
            divergence = float(np.mean([one.mean() for one in known]))
            affine = float((multipliers * sizes) @ values) - fields.strength * divergence
            policy[-1] |= {"divergence": divergence, "affine_welfare": affine}
        policy[-1]["draws"] = float(sum(map(len, whole)))
        drawn = [(rewards[:, of], log) for of, log in zip(whole, known, strict=True) if len(of) > 1]
        money = _money(fields.strength, multipliers * sizes, drawn, is_logged)
        columns = {"value": values, **{name: amount / multipliers for name, amount in money.items()}}
        for i, curve in enumerate(groups.values()):
            curve.append({"step": step, **{name: float(column[i]) for name, column in columns.items()}})
    return Rollouts(groups, policy)


def _money(strength: float, shares: Array, drawn: Sequence[tuple[Array, Array]], is_logged: bool) -> dict[str, Array]:
    """Return what each group would pay, costs the others and could gain, in units of score: [n], the mean over prompts.

    drawn: of each prompt with two draws or more, rewards and log ratios, [n, N] and [N]. is_logged: whether there are
    log ratios.
    """
    found = dict[str, Array]()
    for count in sorted({len(rewards.T) for rewards, _ in drawn}):
        alike = [one for one in drawn if len(one[0].T) == count]
        rewards, part = np.stack([of for of, _ in alike], axis=1), len(alike) / len(drawn)  # [n, B, N]
        parts = {"payment": sampled_payments(rewards, shares, strength).payments.value}
        if is_logged:
            worth = np.tensordot(shares / strength, rewards, 1) - np.stack([logs for _, logs in alike])
            own = (shares / strength)[:, None, None] * rewards
            parts["externality"] = np.array([jensen_gap(worth - one, strength) for one in own])
            parts["gap"] = np.full(len(shares), jensen_gap(worth, strength))
        for name, value in parts.items():
            found[name] = found.get(name, 0.0) + part * value
    return found
