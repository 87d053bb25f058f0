"""``run --calibrate``: maps and ceilings to declare, from how rewards spread over public texts.

A logistic map whose scale is a part of the spread leaves something to play for: the smaller the part, the steeper the
map and the fewer proposals a draw of the same effect takes. The constants come from texts that no report can choose and
are declared like any others, so nothing about them is decided when the groups' reports are read.
"""

from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.files.documents import kind, parse_json_lines, read_text, shown
from rlhf_game.outcomes.draws.draws_pipeline import DrawsRun
from rlhf_game.outcomes.run_config import Configuration
from rlhf_game.rewards.calibration import SPREAD, is_flat, logistic_of
from rlhf_game.rewards.reward_specs import calibration_of
from rlhf_game.rewards.texts import call_reward

if TYPE_CHECKING:
    from rlhf_game.outcomes.run_pipeline import FinishedRun

LEAST = 20
"""Public texts: with fewer their spread is not known."""


def calibrate(configuration: Configuration, public: Path, spread: float = SPREAD) -> dict[str, Any]:
    """Return for each group the logistic map and the ceiling that public texts speak for; nothing is written.

    public: .jsonl with a ``prompt`` and a ``response`` in each line. A ceiling is the largest calibrated reward among
    them, rounded up to two digits. ``flat`` says whether the map that is declared now leaves less than a tenth of the
    range. Raises InputError when the file is wrong, or a group's reward is the same for all texts.
    """
    if not spread > 0:
        raise InputError(f"spread must be > 0, got {spread:g}")
    prompts, responses = _read(public)
    groups = []
    with TemporaryDirectory() as folder:
        for i, group in enumerate(configuration.fields.groups):
            reward = group.reward.build_keeping(configuration.source.base, Path(folder))
            scores = call_reward(reward, prompts, responses)
            if scores.std() == 0:
                raise InputError(f"groups[{i}].reward: must differ between the texts of {shown(str(public), 200)}")
            steep = logistic_of(scores, spread)
            rewards = steep(scores, prompts)
            now = calibration_of(group.reward, group.calibration)(scores, prompts)
            groups.append(
                {
                    "name": group.name,
                    "calibration": {"kind": "logistic", "center": steep.center, "scale": steep.scale},
                    "ceiling": min(1.0, ceil(100 * float(np.max(rewards))) / 100),
                    "flat": is_flat(now),
                }
            )
    return {"texts": len(responses), "spread": spread, "groups": groups}


def flat_groups(finished: "FinishedRun | DrawsRun") -> list[str]:
    """Return the groups whose rewards of what was drawn keep within a tenth of their range: none of system prompts."""
    if isinstance(finished, DrawsRun):
        table = np.concatenate([tape.rewards for tape in finished.game.tapes], axis=1)[:, finished.game.whole > 0]
        return [
            group.name for group, rewards in zip(finished.game.fields.groups, table, strict=True) if is_flat(rewards)
        ]
    if finished.system_prompts:
        return []
    groups = zip(finished.game.fields.groups, finished.game.rewards, strict=True)
    return [group.name for group, rewards in groups if is_flat(np.concatenate([np.ravel(row) for row in rewards]))]


def _read(path: Path) -> tuple[list[str], list[str]]:
    name = shown(str(path), 200)
    if path.suffix.lower() != ".jsonl":
        raise InputError(f"{name}: must be a .jsonl file of public texts, found {path.suffix or 'no ending'!r}")
    rows = list(parse_json_lines(read_text(path), name))
    if len(rows) < LEAST:
        raise InputError(f"{name}: must hold at least {LEAST} public texts, found {len(rows)}")
    for where, row in rows:
        for key in ("prompt", "response"):
            if not isinstance(row, dict) or not isinstance(row.get(key), str):
                found = kind(row.get(key)) if isinstance(row, dict) else kind(row)
                raise InputError(f"{where}: {key}: must be text, found {found}")
    return [row["prompt"] for _, row in rows], [row["response"] for _, row in rows]
