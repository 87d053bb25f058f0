"""Reward models: the members, then what they are together, then the metrics; each is done once."""

import shutil
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_game.rewards.aggregates import Aggregate, Mean, MeanMinusDeviation, Median, Minimum
from rlhf_game.rewards.diagnostics import spearman
from rlhf_game.training.candidates import agreement_on, read_responses
from rlhf_game.training.kinds import Table, Task
from rlhf_game.training.members import CARD, Workshop, rewards_of, train_member
from rlhf_game.training.reward_models import (
    MemberSpec,
    RewardModelConfig,
    RewardModelFields,
    SeveralFields,
    WarmConfig,
)
from rlhf_game.training.subsets import Rewards, Subsets, judge, read_subsets

AGGREGATES: Mapping[str, Aggregate] = {
    "mean": Mean(),
    "median": Median(),
    "min": Minimum(),
    "mean_minus_std": MeanMinusDeviation(1.0),
}


def train_reward_models(fields: RewardModelFields, task: Task) -> dict[str, Any]:
    """Train what is left of the members, put them together, and return the metrics."""
    specs = fields.specs()
    shop = Workshop(fields, specs[0].backbone, task.base, read_subsets(fields, task.base), task.watch, {})
    if isinstance(fields, RewardModelConfig):
        train_member(specs[0], task.path / "model", shop)
        rewards = rewards_of(specs[0], task.path / "model", shop)
        return {"kind": fields.kind, "model": _judged(rewards, shop.subsets)}
    assert isinstance(fields, SeveralFields)  # the only others
    responses = None if fields.candidates is None else read_responses(task.base / fields.candidates)
    places = [task.path / "members" / str(i) for i in range(len(specs))]
    for spec, place in zip(specs, places, strict=True):
        train_member(spec, place, shop)
    rewards_by_member = [rewards_of(spec, place, shop) for spec, place in zip(specs, places, strict=True)]
    metrics: dict[str, Any] = {
        "kind": fields.kind,
        "members": [_judged(rewards, shop.subsets) for rewards in rewards_by_member],
        "ensemble": _aggregated(specs, rewards_by_member, shop.subsets),
        "agreement": _agreement(specs, rewards_by_member),
    }
    if responses is not None:
        task.watch("compare on candidates", 0, 1)
        metrics["candidates"] = agreement_on(responses, specs, places, fields.seed)
    if isinstance(fields, WarmConfig):
        metrics |= _averaged(fields, specs, places, metrics["members"], shop)
    return metrics


def tables_of(metrics: dict[str, Any]) -> list[Table]:
    """Return what each reward is worth on each subset, and how members agree on candidates."""
    rows: dict[str, dict[str, dict[str, float]]] = {}
    if "model" in metrics:
        rows["model"] = metrics["model"]
    for i, member in enumerate(metrics.get("members", [])):
        rows[f"member {i}"] = member
    for name, aggregate in metrics.get("ensemble", {}).items():
        rows[f"ensemble, {name}"] = aggregate
    if "average" in metrics:
        rows["weight average"] = metrics["average"]
    header = ("reward", "on", "pairs", "accuracy", "Brier", "calibration error", "length correlation")
    keys = ("accuracy", "brier", "calibration_error", "length_correlation")
    worth = tuple(
        (name, subset, str(judged["pairs"]), *(f"{judged[key]:.3f}" for key in keys))
        for name, subsets in rows.items()
        for subset, judged in subsets.items()
    )
    found = [Table("What each reward is worth on pairs", header, worth)]
    if "candidates" in metrics:
        pairs = metrics["candidates"]["pairs"]
        sizes = list(pairs[0]["same_best_of"])
        agreement = tuple(
            (
                " and ".join(map(str, pair["members"])),
                "same" if pair["same_backbone"] else "other",
                "unknown" if pair["spearman"] is None else f"{pair['spearman']:.3f}",
                *(f"{pair['same_best_of'][n]:.3f}" for n in sizes),
            )
            for pair in pairs
        )
        heads = ("members", "backbone", "Spearman", *(f"same best of {n}" for n in sizes))
        found.append(Table("How members agree on candidates", heads, agreement))
    return found


def _judged(rewards: Mapping[str, Rewards], subsets: Subsets) -> dict[str, Any]:
    return {name: judge(rewards[name], rows) for name, rows in subsets.judged.items()}


def _aggregated(
    members: Sequence[MemberSpec], rewards: Sequence[Mapping[str, Rewards]], subsets: Subsets
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
