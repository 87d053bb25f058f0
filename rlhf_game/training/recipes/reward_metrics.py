"""Reward models: the members, then what they are together, then the metrics; each is done once."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_game.mechanism.arrays import Array
from rlhf_game.rewards.aggregates import Aggregate, Mean, MeanMinusDeviation, Median, Minimum
from rlhf_game.rewards.diagnostics import accuracy, calibration_bins, spearman
from rlhf_game.training.kinds import Task
from rlhf_game.training.recipes.candidate_metrics import (
    agreement_on,
    gold_of,
    optimisation_on,
    read_responses,
    scores_on,
)
from rlhf_game.training.recipes.members import (
    CARD,
    SharedMemberData,
    push_member,
    rewards_of,
    train_member,
    write_metrics,
)
from rlhf_game.training.recipes.reward_models import (
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
    shared = SharedMemberData(
        fields, specs[0].backbone, task.base, task.workspace, read_subsets(fields, task.base), task.watch, {}
    )
    if isinstance(fields, RewardModelConfig):
        train_member(specs[0], task.path / "model", shared)
        rewards = rewards_of(specs[0], task.path / "model", shared)
        judged = _judged(rewards, shared.subsets)
        write_metrics(task.path / "model", judged, task.workspace)
        push_member(specs[0], task.path / "model")
        return {"kind": fields.kind, "model": judged, "calibration": {"model": _calibration([rewards["test"]])}}
    assert isinstance(fields, SeveralFields)  # the only others
    responses = None if fields.candidates is None else read_responses(task.base / fields.candidates)
    gold = None if fields.gold is None else fields.gold.build(task.base)
    places = [task.path / "members" / str(i) for i in range(len(specs))]
    for spec, place in zip(specs, places, strict=True):
        train_member(spec, place, shared)
    rewards_by_member = [rewards_of(spec, place, shared) for spec, place in zip(specs, places, strict=True)]
    members = [_judged(rewards, shared.subsets) for rewards in rewards_by_member]
    for spec, place, judged in zip(specs, places, members, strict=True):
        write_metrics(place, judged, task.workspace)
        push_member(spec, place)
    aggregates = _aggregates(specs)
    together = {name: _together(aggregate, rewards_by_member) for name, aggregate in aggregates.items()}
    metrics: dict[str, Any] = {
        "kind": fields.kind,
        "members": members,
        "ensemble": {name: _judged(rewards, shared.subsets) for name, rewards in together.items()},
        "agreement": _agreement(specs, rewards_by_member),
        "calibration": {
            "members": _calibration([rewards["test"] for rewards in rewards_by_member]),
            **{name: _calibration([rewards["test"]]) for name, rewards in together.items()},
        },
    }
    if isinstance(fields, WarmConfig):
        rewards = _average(specs, places, shared)
        metrics["average"] = _judged(rewards, shared.subsets)
        write_metrics(task.path / "model", metrics["average"], task.workspace)
        metrics["calibration"]["average"] = _calibration([rewards["test"]])
        metrics |= _lines(fields, specs, places, rewards_by_member, shared)
    if responses is not None:
        task.watch("compare on candidates", 0, 1)
        tables = scores_on(responses, places)
        metrics["candidates"] = agreement_on(responses, specs, tables, fields.seed)
        if gold is not None:
            proxies = {f"member {i}": table for i, table in enumerate(tables)}
            proxies |= {name: _of_tables(aggregate, tables) for name, aggregate in aggregates.items()}
            if isinstance(fields, WarmConfig):
                (proxies["average"],) = scores_on(responses, [task.path / "model"])
            metrics["candidates"]["optimisation"] = optimisation_on(proxies, gold_of(responses, gold))
    return metrics


def _judged(rewards: Mapping[str, Rewards], subsets: Subsets) -> dict[str, Any]:
    return {name: judge(rewards[name], rows) for name, rows in subsets.judged.items()}


def _calibration(rewards: Sequence[Rewards]) -> list[dict[str, float | int]]:
    """Return the bins of a reliability diagram, of all these rewards' pairs."""
    margins = np.concatenate([chosen - rejected for chosen, rejected in rewards])
    return [asdict(one) for one in calibration_bins(margins)]


def _aggregates(members: Sequence[MemberSpec]) -> dict[str, Aggregate]:
    """Return the aggregates that have a meaning: order statistics only of members that are identified."""
    is_identified = all(member.eta > 0 for member in members)
    return {name: one for name, one in AGGREGATES.items() if is_identified or not one.needs_identified}


def _together(aggregate: Callable[[Array], Array], rewards: Sequence[Mapping[str, Rewards]]) -> dict[str, Rewards]:
    return {
        subset: (
            aggregate(np.stack([one[subset][0] for one in rewards])),
            aggregate(np.stack([one[subset][1] for one in rewards])),
        )
        for subset in rewards[0]
    }


def _of_tables(aggregate: Aggregate, tables: Sequence[Array]) -> Array:
    return aggregate(np.stack([table.ravel() for table in tables])).reshape(tables[0].shape)


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


def _average(members: Sequence[MemberSpec], places: Sequence[Path], shared: SharedMemberData) -> dict[str, Rewards]:
    """Average the members into ``model``, and return its rewards."""
    from rlhf_game.training_backends import average_models

    out = places[0].parent.parent / "model"
    shared.watch("average", 0, 1)
    if not (out / CARD).exists():
        average_models(places, out)
        shared.workspace.adopt(out)
    return rewards_of(_head_alone(members), out, shared)


def _lines(
    fields: WarmConfig,
    members: Sequence[MemberSpec],
    places: Sequence[Path],
    rewards: Sequence[Mapping[str, Rewards]],
    shared: SharedMemberData,
) -> dict[str, Any]:
    """Compare averages of weights with ensembles of predictions: between the first two members, and as members grow."""
    from rlhf_game.training_backends import average_models

    point = places[0].parent.parent / "point"

    def judged(weights: Sequence[float]) -> dict[str, float]:
        """Return the accuracy on each subset of the average of the first members, and of their ensemble."""
        own, count = list(places[: len(weights)]), len(weights)
        if max(weights) == 1.0:
            found = rewards[list(weights).index(1.0)]
        else:
            average_models(own, point, weights=weights)
            found = rewards_of(_head_alone(members), point, shared)
        together = _together(lambda scores: np.average(scores, axis=0, weights=weights), rewards[:count])
        return {
            **{name: accuracy(chosen - rejected) for name, (chosen, rejected) in found.items()},
            **{f"{name}, ensemble": accuracy(chosen - rejected) for name, (chosen, rejected) in together.items()},
        }

    try:
        shares = np.linspace(0.0, 1.0, fields.curve).tolist()
        curve = [{"share": share, **judged([1.0 - share, share])} for share in shares]
        growth = [{"members": m, **judged([1.0 / m] * m)} for m in range(1, len(places) + 1)]
    finally:
        shutil.rmtree(point, ignore_errors=True)
    low, high = curve[0]["test"], curve[-1]["test"]
    above = [point["test"] - ((1.0 - point["share"]) * low + point["share"] * high) for point in curve]
    return {"curve": curve, "lowest_above_line": min(above), "growth": growth}


def _head_alone(members: Sequence[MemberSpec]) -> MemberSpec | None:
    """Return how the heads were made where all are linear: then so is their average."""
    return members[0] if all(member.method in ("embedding", "head") for member in members) else None
