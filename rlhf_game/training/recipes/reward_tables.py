"""What people read of a reward model's metrics."""

from typing import Any

from rlhf_game.training.intervals import shown_number, shown_share
from rlhf_game.training.kinds import MetricsTable


def tables_of(metrics: dict[str, Any]) -> list[MetricsTable]:
    """Return what each reward is worth on each subset, and how members agree on test pairs and on candidates."""
    rows: dict[str, dict[str, dict[str, float]]] = {}
    if "model" in metrics:
        rows["model"] = metrics["model"]
    for i, member in enumerate(metrics.get("members", [])):
        rows[f"member {i}"] = member
    for name, aggregate in metrics.get("ensemble", {}).items():
        rows[f"ensemble, {name}"] = aggregate
    if "average" in metrics:
        rows["weight average"] = metrics["average"]
    header = (
        "reward", "on", "pairs", "accuracy", "95 % interval", "Brier", "calibration error", "length correlation"
    )  # fmt: skip
    keys = ("brier", "calibration_error", "length_correlation")
    worth = tuple(
        (
            name,
            subset,
            str(judged["pairs"]),
            *shown_share(judged["accuracy"], int(judged["pairs"])),
            *(f"{judged[key]:.3f}" for key in keys),
        )
        for name, subsets in rows.items()
        for subset, judged in subsets.items()
    )
    found = [MetricsTable("What each reward is worth on pairs", header, worth)]
    if "agreement" in metrics:
        agreed = [(pair, [pair["same_choice"]]) for pair in metrics["agreement"]]
        found.append(_table_of_agreement("How members agree on test pairs", ["same choice"], agreed))
    if "candidates" in metrics:
        pairs = metrics["candidates"]["pairs"]
        sizes = list(pairs[0]["same_best_of"])
        agreed = [(pair, [pair["same_best_of"][n] for n in sizes]) for pair in pairs]
        heads = [f"same best of {n}" for n in sizes]
        found.append(_table_of_agreement("How members agree on candidates", heads, agreed))
    if "optimisation" in metrics.get("candidates", {}):
        found.append(_table_of_optimisation(metrics["candidates"]["optimisation"]))
    return found


def _table_of_agreement(title: str, heads: list[str], agreed: list[tuple[dict[str, Any], list[float]]]) -> MetricsTable:
    """Return, for each pair of members, the rank correlation of what they say and how often they choose alike."""
    rows = tuple(
        (
            " and ".join(map(str, pair["members"])),
            "same" if pair["same_backbone"] else "other",
            shown_number(pair["spearman"]),
            *map(shown_number, same),
        )
        for pair, same in agreed
    )
    return MetricsTable(title, ("members", "backbone", "Spearman", *heads), rows)


def _table_of_optimisation(optimisation: dict[str, Any]) -> MetricsTable:
    """Return the gold reward's gain at a few divergences that the longest curve has."""
    longest = max((one["curve"] for one in optimisation.values()), key=len)
    places = range(len(longest) // 4, len(longest), max(1, len(longest) // 4))
    rows = tuple(
        (
            proxy,
            *(f"{one['curve'][k]['gold']:.3f}" if k < len(one["curve"]) else "out of reach" for k in places),
            "unknown" if one["peak"] is None else f"{one['peak']:.2f}",
        )
        for proxy, one in optimisation.items()
    )
    heads = ("optimised", *(f"gold at KL {longest[k]['divergence']:.2f}" for k in places), "highest at KL")
    return MetricsTable("What optimising a reward does to the gold reward", heads, rows)
