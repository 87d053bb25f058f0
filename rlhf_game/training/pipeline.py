"""``rlhf-game train``: the members, then what they are together, then the metrics; each is done once."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, final

import numpy as np

from rlhf_game.files.atomic import write_json
from rlhf_game.files.documents import parse_json, read_text
from rlhf_game.rewards.aggregates import Aggregate, Mean, MeanMinusDeviation, Median, Minimum
from rlhf_game.rewards.diagnostics import spearman
from rlhf_game.runs.directory import Progress, open_folder
from rlhf_game.training.candidates import agreement_on, read_responses
from rlhf_game.training.config import EnsembleConfig, MemberSpec, RewardModelConfig, TrainingConfiguration, WarmConfig
from rlhf_game.training.members import CARD, Workshop, rewards_of, train_member
from rlhf_game.training.subsets import Rewards, Subsets, judge, read_subsets

AGGREGATES: Mapping[str, Aggregate] = {
    "mean": Mean(),
    "median": Median(),
    "min": Minimum(),
    "mean_minus_std": MeanMinusDeviation(1.0),
}


@final
@dataclass(frozen=True)
class FinishedTraining:
    """A finished training."""

    folder: Path
    metrics: dict[str, Any]


def train(configuration: TrainingConfiguration, path: Path, progress: Progress | None = None) -> FinishedTraining:
    """Do what is left of the training in the folder ``path``, and return it finished.

    Raises InputError when data or configuration are wrong or the folder is another training's, RunError when the folder
    is in use or a training diverges.
    """
    subsets = read_subsets(configuration)
    with open_folder(path, configuration) as folder:
        known = folder.path / "metrics.json"
        if not known.exists():
            shop = Workshop(configuration, subsets, progress or _unwatched, {})
            write_json(known, _train(configuration, folder.path, shop))
        return FinishedTraining(path, parse_json(read_text(known), str(known)))


def _unwatched(what: str, done: int, total: int) -> None:
    return None


def _train(configuration: TrainingConfiguration, path: Path, shop: Workshop) -> dict[str, Any]:
    fields = configuration.fields
    if isinstance(fields, RewardModelConfig):
        train_member(configuration.members[0], path / "model", shop)
        rewards = rewards_of(configuration.members[0], path / "model", shop)
        return {"kind": fields.kind, "model": _judged(rewards, shop.subsets)}
    responses = None if fields.candidates is None else read_responses(configuration.base / fields.candidates)
    places = [path / "members" / str(i) for i in range(len(configuration.members))]
    for spec, place in zip(configuration.members, places, strict=True):
        train_member(spec, place, shop)
    rewards_by_member = [
        rewards_of(spec, place, shop) for spec, place in zip(configuration.members, places, strict=True)
    ]
    metrics: dict[str, Any] = {
        "kind": fields.kind,
        "members": [_judged(rewards, shop.subsets) for rewards in rewards_by_member],
        "ensemble": _aggregated(fields, configuration.members, rewards_by_member, shop.subsets),
        "agreement": _agreement(configuration.members, rewards_by_member),
    }
    if responses is not None:
        shop.watch("compare on candidates", 0, 1)
        metrics["candidates"] = agreement_on(responses, configuration.members, places, fields.seed)
    if isinstance(fields, WarmConfig):
        metrics |= _averaged(fields, configuration.members, places, metrics["members"], shop)
    return metrics


def _judged(rewards: Mapping[str, Rewards], subsets: Subsets) -> dict[str, Any]:
    return {name: judge(rewards[name], rows) for name, rows in subsets.judged.items()}


def _aggregated(
    fields: EnsembleConfig | WarmConfig,
    members: Sequence[MemberSpec],
    rewards: Sequence[Mapping[str, Rewards]],
    subsets: Subsets,
) -> dict[str, Any]:
    """Return what each aggregate is worth; order statistics only of members that are identified."""
    is_identified = all(member.eta > 0 for member in members)
    found = {}
    for name, aggregate in AGGREGATES.items():
        if is_identified or not aggregate.needs_identified:
            together = {
                subset: tuple(aggregate(np.stack([one[subset][side] for one in rewards])) for side in (0, 1))
                for subset in subsets.judged
            }
            found[name] = {subset: judge((chosen, rejected), subsets.judged[subset])
                           for subset, (chosen, rejected) in together.items()}  # fmt: skip
    return found


def _agreement(members: Sequence[MemberSpec], rewards: Sequence[Mapping[str, Rewards]]) -> list[dict[str, Any]]:
    """Return, for each pair of members, the rank correlation of their margins on the test pairs."""
    found = []
    for i, k in combinations(range(len(members)), 2):
        margins = [rewards[j]["test"][0] - rewards[j]["test"][1] for j in (i, k)]
        correlation = spearman(*margins)
        same = members[i].backbone == members[k].backbone
        found.append({
            "members": [i, k],
            "same_backbone": same,
            "spearman": None if np.isnan(correlation) else correlation,
            "same_choice": float(np.mean((margins[0] > 0) == (margins[1] > 0))),
        })  # fmt: skip
    return found


def _averaged(
    fields: WarmConfig,
    members: Sequence[MemberSpec],
    places: Sequence[Path],
    ends: Sequence[dict[str, Any]],
    shop: Workshop,
) -> dict[str, Any]:
    """Average the members into ``model``; judge the average, and the line between the first two (its ends are)."""
    from rlhf_game.training_backends import average_models

    path = places[0].parent.parent

    shop.watch("average", 0, 1)
    if not (path / "model" / CARD).exists():
        average_models(places, path / "model")
    kept = members[0] if all(member.method in ("embedding", "head") for member in members) else None
    average = _judged(rewards_of(kept, path / "model", shop), shop.subsets)
    judged = {0.0: ends[0], 1.0: ends[1]}
    for share in np.linspace(0.0, 1.0, fields.curve).tolist()[1:-1]:
        average_models(places[:2], path / "point", weights=(1.0 - share, share))
        judged[share] = _judged(rewards_of(kept, path / "point", shop), shop.subsets)
    shutil.rmtree(path / "point", ignore_errors=True)
    curve = [
        {"share": share, **{name: subset["accuracy"] for name, subset in judged[share].items()}}
        for share in sorted(judged)
    ]
    low, high = curve[0]["test"], curve[-1]["test"]
    above = [point["test"] - ((1.0 - point["share"]) * low + point["share"] * high) for point in curve]
    return {"average": average, "curve": curve, "lowest_above_line": min(above)}
