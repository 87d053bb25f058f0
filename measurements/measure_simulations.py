"""Measure studies of strategic groups; writes the tables of simulations.md.

python -m measurements.measure_simulations          about a minute on one core; the same numbers every time
"""

import tempfile
from pathlib import Path
from typing import Any

from measurements.measured import write_table
from rlhf_game.simulations.simulation_pipeline import simulate
from rlhf_game.simulations.study import parse_study

PAGE = "simulations.md"
SEED = 20240517
GAMES = {
    "seed": SEED,
    "games": 4_000,
    "scenario": {"kind": "random", "groups": 3, "outcomes": 10, "sizes": [1, 10]},
    "strength": 0.5,
}
MARKET = {
    "kind": "market",
    "seed": SEED,
    "games": 40,
    "scenario": {"kind": "polarised", "groups": 4, "outcomes": 8, "camps": 2, "overlap": 0.4, "sizes": [1, 5]},
    "strength": 1.0,
    "rounds": 200,
    "menu": [{"kind": "polarize"}, {"kind": "resize", "factor": 3.0}, {"kind": "indifferent"}],
    "learning": {"kind": "multiplicative_weights", "rate": 0.5},
}


def played(of: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return what study.json says."""
    with tempfile.TemporaryDirectory() as folder:
        return simulate(parse_study({**of, **changes}, "study", Path()), Path(folder) / "study").summary


def shown(measure: dict[str, float]) -> str:
    """Return a mean with its 95 % interval."""
    return f"{measure['estimate']:.4f} ± {measure['high'] - measure['estimate']:.4f}"


def lies() -> None:
    """What lies gain, alone and together."""
    strategies = [
        {"kind": "raise_and_lower", "epsilon": 0.01}, {"kind": "polarize"}, {"kind": "indifferent"},
        {"kind": "noisy", "scale": 0.2}, {"kind": "resize"}, {"kind": "absent"},
        {"kind": "best_response", "steps": 25}, {"kind": "false_names"}, {"kind": "coalition", "steps": 25},
    ]  # fmt: skip
    summary = played(GAMES, games=1_000, strategies=strategies)
    found = {(one["strategy"], one["payment"]): one["measures"] for one in summary["summaries"]}
    rows = [
        [label, *(shown(found[label, payment][name]) for payment in ("affine", "none") for name in ("gain", "regret"))]
        for label in summary["strategies"][1:]
    ]
    write_table(PAGE, "lies", ["strategy", "gain, affine", "regret, affine", "gain, none", "regret, none"], rows)


def learning() -> None:
    """Where groups that learn end up."""
    ways = {
        "multiplicative weights": {"learning": {"kind": "multiplicative_weights", "rate": 0.5}},
        "bandit (EXP3)": {"learning": {"kind": "bandit", "rate": 0.3}, "rounds": 1_000},
        "best item of the menu": {"learning": {"kind": "best_response"}, "rounds": 20},
        "best report": {"learning": {"kind": "best_response", "over": "reports"}, "rounds": 12},
        "multiplicative weights, budget 3": {"budget": 3.0},
        "multiplicative weights, 0.1 elsewhere": {"entry": {"outside": 0.1}},
    }
    rows = []
    for label, changes in ways.items():
        for one in played(MARKET, **changes)["summaries"]:
            names = ("truthful", "claimed", "efficiency", "revenue", "present")
            measures = [shown(one["last"][name]) for name in names]
            rows.append([label, one["payment"], *measures])
    heads = ["groups learn by", "payment", "truthful", "claimed size", "efficiency", "revenue", "groups there"]
    write_table(PAGE, "learning", heads, rows)


def strengths() -> None:
    """What the strength does to welfare, revenue and the race without payments; and a provider that chooses it."""
    values = [0.1, 0.3, 1.0, 3.0, 10.0]
    learning = {"kind": "best_response", "over": "reports", "start": "truthful"}
    summary = played(MARKET, learning=learning, rounds=8, sweep={"strength": values})
    found = {(summary["points"][one["point"]]["strength"], one["payment"]): one["last"] for one in summary["summaries"]}
    rows = [
        [
            value,
            *(shown(found[value, "affine"][name]) for name in ("welfare", "revenue")),
            *(shown(found[value, "none"][name]) for name in ("welfare", "claimed", "efficiency")),
        ]
        for value in values
    ]
    for objective in ("revenue", "welfare"):
        provider = {"objective": objective, "strengths": values, "every": 1}
        (one,) = played(MARKET, learning=learning, rounds=4, payments=["affine"], provider=provider)["summaries"]
        chosen = [shown(one["last"][name]) for name in ("welfare", "revenue")]
        rows.append([f"chosen for {objective}", *chosen, "", "", ""])
    heads = ["strength", "welfare, affine", "revenue, affine"]
    heads += ["welfare, none", "claimed size, none", "efficiency, none"]
    write_table(PAGE, "strengths", heads, rows)


ROUNDS = {**MARKET, "games": 100, "rounds": 20, "strength": 2.0}


def rounds() -> None:
    """What the truth in every round is worth where rounds start from the last policy, and where they do not."""
    ways = {
        "the others say the truth": {"kind": "best_response", "start": "truthful"},
        "multiplicative weights": {"kind": "multiplicative_weights", "rate": 0.5},
    }
    menu = [{"kind": "polarize"}, {"kind": "resize", "factor": 2.0}]
    rows = []
    for label, way in ways.items():
        summary = played(ROUNDS, learning=way, menu=menu, always=True, sweep={"reference": ["first", "last"]})
        for one in summary["summaries"]:
            if one["payment"] == "none" and label != "multiplicative weights":
                continue  # nobody goes on saying the truth there
            reference = summary["points"][one["point"]]["reference"]
            names = ("lie_gain", "truth_gain", "truthful", "revenue")
            rows.append([label, one["payment"], reference, *(shown(one["last"][name]) for name in names)])
    heads = ["the others", "payment", "starts from", "best lie beyond the truth", "truth beyond learning", "truthful"]
    write_table(PAGE, "rounds", [*heads, "revenue at the end"], rows)


def reserves() -> None:
    """What a provider earns and keeps over all rounds, by its reserve."""
    values = [0.0, 0.05, 0.1, 0.2, 0.4]
    learning = {"kind": "best_response", "start": "truthful"}
    changes = {"learning": learning, "reference": "last", "training_cost": 0.1, "payments": ["affine"]}
    summary = played(ROUNDS, **changes, sweep={"reserve": values})
    rows = []
    for one in summary["summaries"]:
        names = ("revenue", "surplus", "trained", "affine_welfare")
        totals = [sum(one["measures"][name]["estimate"]) for name in names]
        rows.append([summary["points"][one["point"]]["reserve"], *(f"{total:.3f}" for total in totals)])
    heads = ["reserve", "revenue", "revenue less the cost", "rounds in which it trains"]
    write_table(PAGE, "reserves", [*heads, "affine social welfare, without the cost"], rows)


if __name__ == "__main__":
    for measure in (lies, learning, strengths, rounds, reserves):
        measure()
        print(f"{measure.__name__}: written")
