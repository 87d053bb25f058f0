"""What each sentence on a market or on equilibria means, as a check of its table that knows no other sentence."""

import re
from typing import Any

import numpy as np
import pandas
from scipy import stats

from tests.report.pages import data_of
from tests.report.sentences import RULE, WORDS, Check, Table, near


def measured(rows: pandas.DataFrame, measure: str) -> pandas.Series:
    """A measure of each row: its column, or the mean over groups of the groups' columns."""
    own = measure in ("value", "utility", "payment", "truth_gain", "lie_gain")
    return rows.filter(regex=f"^{measure}_[0-9]+$").mean(axis=1) if own else rows[measure]


def at_end(rows: pandas.DataFrame) -> pandas.DataFrame:
    """The last tenth of the rounds."""
    rounds = rows["round"].max() + 1
    return rows[rows["round"] >= rounds - max(1, round(0.1 * rounds))]


def ending(found: Table, words: str, text: str) -> bool:
    last = at_end(found.rows[found.rows.payment == WORDS[words]])
    means = last.groupby("point")[["truthful", "efficiency"]].mean()
    spans = re.findall(r"(?:between (\S+) and )?(\d[\d.]*)(%?)", text.replace("%,", "%"))
    found_ends = [(low.rstrip("%") or high, high, unit) for low, high, unit in spans][:2]
    for (low, high, unit), name in zip(found_ends, ("truthful", "efficiency"), strict=True):
        scale = 100 if unit else 1
        places = 0.051 if unit else 0.0051
        if (
            abs(float(low) - scale * means[name].min()) > places
            or abs(float(high) - scale * means[name].max()) > places
        ):
            return False
    return True


def race(found: Table, plain: str, affine: str) -> bool:
    last = at_end(found.rows)
    means = last.groupby(["payment", "point"])[["welfare", "affine_welfare"]].mean()
    more = (means.loc["none"] > means.loc["affine"]).sum()
    return (more.welfare, more.affine_welfare) == (int(plain), int(affine))


def numbers_of(text: str) -> list[float]:
    """The ends of a span: of one number, twice that."""
    found = [
        float(one.replace("\N{MINUS SIGN}", "-"))
        for one in re.findall(r"[\d.\N{MINUS SIGN}]*\d(?:e[\d.\N{MINUS SIGN}]+)?", text)
    ]
    return found if len(found) == 2 else found * 2


def spans(text: str, values: Any, places: int) -> bool:
    low, high = numbers_of(text)
    slack = 0.501 * 10.0**-places + 1e-12
    return abs(low - min(values)) <= slack and abs(high - max(values)) <= slack


def costs(found: Table, words: str, earned: str, trained: str, rounds: str, kept: str, settings: str | None) -> bool:
    rows = found.rows[found.rows.payment == WORDS[words]]
    sums = rows.groupby(["point", "game"])[["revenue", "trained", "surplus"]].sum().groupby("point").mean()
    cost = found.costs
    paid = (sums.revenue - sums.surplus - sums.trained * cost).abs().max() < 1e-9
    texts = ((earned, "revenue", 3), (trained, "trained", 2), (kept, "surplus", 3))
    counted = int(settings or 1) == len(sums) and int(rounds) == rows["round"].nunique()
    return counted and paid and all(spans(text, sums[name], places) for text, name, places in texts)


def same_in_every_round(found: Table, words: str, what: str, text: str) -> bool:
    """Of the table's own utilities and what each item brought, in the last round."""
    rows = found.rows[found.rows.payment == WORDS[words]]
    last = rows[rows["round"] == rows["round"].max()]
    told = []
    for _, here in last.groupby("point"):
        gains = []
        for i in range(3):
            always = np.stack(here[f"always_{i}"].to_numpy())
            own = rows[rows.point == here.point.iloc[0]].groupby("game")[f"utility_{i}"].mean().to_numpy()
            gains.append(always[:, 1:].max(axis=1) - always[:, 0] if "lie" in what else always[:, 0] - own)
        gain = np.mean(gains, axis=0)
        half = stats.t.ppf(0.975, len(gain) - 1) * stats.sem(gain)
        side = "more than" if gain.mean() - half > 0 else "less than" if gain.mean() + half < 0 else "about as much as"
        told.append((side, gain.mean()))
    than = "the truth" if "lie" in what else "what it learns to say"
    if len(told) == 1:
        said = re.fullmatch(rf"(.+?) {than} \(mean difference (\S+) a round\)", text)
        return said[1] == told[0][0] and near(said[2], told[0][1])
    counts = {
        side: int(count) for side, count in re.findall(rf"(\w[\w ]*?) {than} at (\d+) of {len(told)} settings", text)
    }
    counts = {side.removeprefix("and "): count for side, count in counts.items()}
    return counts == {side: sum(one == side for one, _ in told) for side, _ in told}


def prices(found: Table, words: str, anarchy: str, stability: str, plain: str | None, settings: str | None) -> bool:
    rows = found.rows[found.rows.payment == WORDS[words]]
    names = ("price_of_anarchy", "price_of_stability", "welfare_price_of_anarchy")
    means = rows.groupby("point")[list(names)].mean()
    recomputed = [rows.optimum / rows.affine_welfare, rows.optimum / rows.affine_welfare_best]
    ratios = all(np.allclose(one.dropna(), rows[name].dropna()) for one, name in zip(recomputed, names, strict=False))
    told = zip((anarchy, stability, plain), names, strict=True)
    return (
        ratios
        and int(settings or 1) == len(means)
        and all(spans(text, means[name].dropna(), 3) for text, name in told if text)
    )


def no_prices(found: Table, words: str) -> bool:
    return bool(found.rows[found.rows.payment == WORDS[words]].price_of_anarchy.isna().all())


def ends_are_means(found: Table, key: str) -> bool:
    """The numbers behind a figure of equilibria are means over games that have one."""
    for row in data_of(found.page, key):
        rows = found.rows[found.rows.payment == row["payments"]]
        for axis in found.summary["axes"]:
            rows = rows[rows[axis["field"]].astype(str) == row[axis["field"]]]
        if not np.isclose(float(row["mean"]), rows[row["measure"]].mean()):
            return False
    return bool(data_of(found.page, key))


def is_an_end(found: Table) -> bool:
    """Nobody was found to gain more than epsilon where a row has an equilibrium, and prices are empty elsewhere."""
    there = found.rows.equilibria > 0
    few = (found.rows.epsilon[there] <= 1e-3).all() and (found.rows.epsilon_bound >= found.rows.epsilon)[there].all()
    return bool(few and found.rows.price_of_anarchy[~there].isna().all())


def rounds_are_means(found: Table) -> bool:
    """The numbers behind the course of a market are means of its table over games."""
    keys = ["payment", "round", *(axis["field"] for axis in found.summary["axes"])]
    told = data_of(found.page, "rounds")
    rows = found.rows.astype({axis["field"]: str for axis in found.summary["axes"]})
    for measure in {row["measure"] for row in told}:
        means = measured(rows, measure).groupby([rows[key] for key in keys]).mean()
        for row in (one for one in told if one["measure"] == measure):
            place = (row["payments"], int(row["round"]), *(row[key] for key in keys[2:]))
            if not np.isclose(float(row["mean"]), means.loc[place]):
                return False
    return bool(told)


OF_MARKETS: list[tuple[str, Check]] = [
    (RULE + r", groups end up telling the truth with (probability .+?)\.(?=$)", ending),
    (r"Plain social welfare ends higher without payments than with affine payments at (\d+) of \d+ settings?, affine "
     r"social welfare at (\d+) of \d+ settings?: only the latter counts how far the model is moved from the "
     r"reference\.", race),
    (r"Means over the games, with their intervals as bands\.", rounds_are_means),
    (r"Means over the last tenth of the rounds\.", lambda t: True),
    (RULE + r", the provider earns (.+?) in a game, trains in (.+?) of (\d+) rounds, and keeps (.+?) after the cost of "
     r"training, on average(?:, over (\d+) settings)?\.", costs),
    (RULE + r", (the best lie of the menu|the truth) in every round, while the others learn, brings a group (.+?)\."
     r"(?=$)", same_in_every_round),
    (r"Groups answer each other with the best reports found, in turn, until nobody is found to gain by another one\. A "
     r"price is the best welfare there is over that of an equilibrium; it has no value where that is not above 0\.",
     is_an_end),
    (RULE + r" the price of anarchy is (.+?) and that of stability (.+?), of affine social welfare(?:; of plain social "
     r"welfare the price of anarchy is (.+?))?, on average(?:, over (\d+) settings)?\.(?=$)", prices),
    (RULE + r" no game has an equilibrium with a price\.", no_prices),
    (r"Of the worst equilibrium found in each game, unless the heading says otherwise; means over games\.",
     lambda t: ends_are_means(t, "prices")),
]  # fmt: skip
