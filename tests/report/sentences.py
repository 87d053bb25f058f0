"""What each sentence on a study of games means, as a check of its table that knows no other sentence."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas
from scipy import stats

from tests.report.pages import Node, data_of

Check = Callable[..., bool]
WORDS = {"With affine payments": "affine", "Without payments": "none", "With revenue-optimal payments": "revenue"}
WORDS |= {name[:1].lower() + name[1:]: rule for name, rule in WORDS.items()}
RULE = "(" + "|".join(sorted(WORDS)) + ")"
SINGLE = ("polarize", "raise_and_lower", "resize", "indifferent", "noisy", "absent", "best_response")


class Table:
    """The rows of a study, and what can be said of them."""

    def __init__(self, rows: pandas.DataFrame, summary: dict[str, Any], page: Node) -> None:
        self.rows, self.summary, self.page = rows, summary, page
        self.costs = 0.0
        self.groups = [int(n) for n in (~rows.filter(regex="^size_").isna()).sum(axis=1)]

    def verdicts(self, payment: str, lie: str) -> list[str]:
        """The verdict of a lie at each point where it has rows, from the gains themselves."""
        out = []
        of_rule = self.rows[
            (self.rows.payment == payment) & self.rows.strategy.map(lambda label: self.is_of(label, lie))
        ]
        for _, rows in of_rule.groupby("point"):
            gain = rows.gain.dropna()
            half = stats.t.ppf(0.975, len(gain) - 1) * gain.sem() if len(gain) > 1 else 0.0
            if (rows.regret == 0).all():
                out.append("gains in no game")
            elif gain.mean() - half > 0:
                out.append("gains on average")
            elif gain.mean() + half < 0:
                out.append("loses on average, though it gains in some games")
            else:
                out.append("gains in some games, with a mean that is not told from 0")
        return out

    def is_of(self, label: str, lie: str) -> bool:
        return label == lie or (label.startswith(f"{lie}(") and "(" not in lie)

    @property
    def lies(self) -> list[str]:
        return [label for label in dict.fromkeys(self.rows.strategy) if label != "truthful"]

    def of(self, label: str) -> pandas.DataFrame:
        return self.rows[self.rows.strategy == label]

    def gains_are_of_liars(self) -> bool:
        """The column gain, from utilities: mean over liars, sum over a coalition."""
        n = int(self.rows.filter(regex="^size_").shape[1])
        keys = ["point", "game", "payment"]
        utility = [f"utility_{i}" for i in range(n)]
        truth = self.rows[self.rows.strategy == "truthful"].set_index(keys)[utility]
        for label in self.lies:
            here = self.of(label).set_index(keys)
            moved = here[utility].to_numpy() - truth.loc[here.index].to_numpy()
            lies = here[[f"lies_{i}" for i in range(n)]].fillna(False).to_numpy().astype(bool)
            total = np.where(lies, moved, 0.0).sum(axis=1)
            count = np.ones(len(here)) if label.startswith("coalition") else lies.sum(axis=1)
            known = lies.any(axis=1)
            if not np.allclose(here.gain.to_numpy()[known], (total / np.maximum(count, 1))[known], atol=1e-8):
                return False
        return True


def liars_are(found: Table, who: str) -> bool:
    n = [f"lies_{i}" for i in range(3)]
    for label in (one for one in found.lies if not one.startswith("coalition")):
        rows = found.of(label)
        lies = rows[n].to_numpy().astype(bool)
        at_once, first, probability = rows.liars.to_numpy(), lies[:, 0].all() and not lies[:, 1:].any(), lies.mean()
        if who.startswith("by every group in turn, alone"):
            good = (at_once == 1).all() and lies.all()
        elif who.startswith("by the first group alone"):
            good = (at_once == 1).all() and bool(first)
        elif who == "by all groups at once":
            good = (at_once == 3).all()
        else:
            said = float(re.fullmatch("by every group with probability ([0-9.]+), independently of the others", who)[1])
            good = abs(probability - said) < 5 * 0.5 / np.sqrt(40 * 3)
        if not good:
            return False
    return True


def lie_of(clause: str) -> str:
    return re.split(" (?:gains|loses) ", clause)[0]


def clauses_hold(found: Table, payment: str, text: str) -> bool:
    clauses = text.split("; ")
    known = [one for clause in clauses for one in found.lies if found.is_of(one, lie_of(clause))]
    assert sorted(known) == sorted(found.lies)
    return all(
        clause_holds(found, payment, lie_of(clause), clause.removeprefix(lie_of(clause) + " ")) for clause in clauses
    )


def clause_holds(found: Table, payment: str, lie: str, text: str) -> bool:
    verdicts = found.verdicts(payment, lie)
    if len(verdicts) == 1:
        said = re.fullmatch(r"(.*?)(?: \(mean (\S+), largest (\S+)\))?", text)
        of_lie = found.rows.strategy.map(lambda one: found.is_of(one, lie))
        rows = found.rows[(found.rows.payment == payment) & of_lie]
        numbers = not said[2] or (near(said[2], rows.gain.mean()) and near(said[3], rows.regret.max()))
        return said[1] == verdicts[0] and numbers
    counts = {verdict: verdicts.count(verdict) for verdict in verdicts}
    told = re.findall(r"((?:gains|loses).*?) at (\d+) of (\d+) settings", text)
    is_whole = {of for _, _, of in told} == {str(len(verdicts))}
    return is_whole and {verdict: int(count) for verdict, count, _ in told} == counts


def near(text: str, value: float) -> bool:
    said = float(text.replace("\N{MINUS SIGN}", "-"))
    return abs(said - value) <= 1e-3 * abs(value) + 1e-6


def never(found: Table, words: str, settings: str | None) -> bool:
    rows = found.rows[(found.rows.payment == WORDS[words]) & (found.rows.strategy != "truthful")]
    return bool((rows.regret == 0).all()) and int(settings or 1) == rows.point.nunique()


def own_names_never(found: Table) -> bool:
    """Said after some payment rule's verdict: it must hold of every rule whose note says it."""
    for note in found.page.all("p", class_="callout"):
        if "All of these gains" in note.text:
            payment = next(rule for words, rule in WORDS.items() if words in note.text)
            alone = found.rows.strategy.map(lambda label: label.partition("(")[0] in SINGLE)
            rows = found.rows[(found.rows.payment == payment) & alone]
            others = found.rows[(found.rows.payment == payment) & ~alone & (found.rows.strategy != "truthful")]
            if not len(rows) or (rows.regret > 0).any() or (others.regret == 0).all():
                return False
    return True


def truth_is(found: Table, measure: str, text: str) -> bool:
    name = {"Social welfare": "welfare", "affine social welfare": "affine_welfare"}.get(measure, "divergence")
    rows = found.rows[found.rows.strategy == "truthful"]
    mean = rows[rows.payment == rows.payment.iloc[0]][name]
    numbers = re.match(r"(\S+)(?: \((\S+) to (\S+)\))?", text)
    half = stats.t.ppf(0.975, len(mean) - 1) * mean.sem()
    ends = [near(numbers[k], v) for k, v in ((2, mean.mean() - half), (3, mean.mean() + half)) if numbers[2]]
    return near(numbers[1], mean.mean()) and all(ends)


def earned(found: Table, text: str) -> bool:
    for amount, words in re.findall(rf"(\S+)(?: \(\S+ to \S+\))? {RULE}", text):
        rows = found.rows[(found.rows.strategy == "truthful") & (found.rows.payment == WORDS[words])]
        if not near(amount, rows.revenue.mean()):
            return False
    return "without payments" not in text


def worth(found: Table, text: str) -> bool:
    parts = re.findall(
        r"(Social welfare|affine social welfare|divergence from the reference) is (\S+(?: \(.*?\))?)", text
    )
    return len(parts) == 3 and all(truth_is(found, measure, said) for measure, said in parts)


def same_policy(found: Table) -> bool:
    rows = found.rows[found.rows.strategy == "truthful"]
    return bool((rows.groupby(["point", "game"]).welfare.nunique() == 1).all())


def behind(found: Table, key: str, measures: tuple[str, ...]) -> bool:
    """The numbers behind a figure are means of the table."""
    for row in data_of(found.page, key):
        rows = found.rows[(found.rows.strategy == row["strategy"]) & (found.rows.payment == row["payments"])]
        for axis in found.summary["axes"]:
            rows = rows[rows[axis["field"]].astype(str) == row[axis["field"]]]
        values = (rows.regret > 0).astype(float) if row["measure"] == "gaining" else rows[row["measure"]]
        if row["measure"] not in measures or not np.isclose(float(row["mean"]), values.mean(), atol=1e-12):
            return False
    return bool(data_of(found.page, key))


def front(found: Table) -> bool:
    points = [(float(row["welfare"]), float(row["revenue"])) for row in data_of(found.page, "pareto")]
    best = [p for p in points if not any((q[0] >= p[0] and q[1] >= p[1]) and q != p for q in points)]
    (drawing,) = found.page.all("svg", id="pareto-0")
    return len(drawing.all("circle", class_="ring")) == len(set(best))


SENTENCES: list[tuple[str, Check]] = [
    (r"([\d,]+) seeded games, each played (.+?)(?:, over (.+?))?\.(?= Bars)", lambda t, n, rules, axes: (
        int(n.replace(",", "")) == t.rows.groupby(["point", "game"]).ngroups
        and [WORDS[one] for one in re.findall(RULE, rules)] == t.summary["payments"]
        and (axes or "") == " and ".join(axis["field"] for axis in t.summary["axes"]))),
    (r"Bars and bands are intervals of the means\.", lambda t: all(
        not isinstance(of, dict) or of.get("level") == 0.95
        for one in t.summary["summaries"] for of in one["measures"].values())),
    (r"Each lie (?:of a single group )?is told (by .+?)\.(?= |$)", liars_are),
    (r"The lies of a coalition are told by its members together, the first groups, while the others say the truth; "
     r"what counts is the sum of what they gain\.", lambda t: all(
        (t.of(one)[["lies_0", "lies_1", "lies_2"]].to_numpy().astype(bool) == [True, True, False]).all()
        for one in t.lies if one.startswith("coalition"))),
    (r"A gain is the liar's, in true utility, over what it has when every group says the truth\.",
     lambda t: t.gains_are_of_liars()),
    (RULE + r" no lie of this study gains in any game(?: at any of (\d+) settings)?\.", never),
    (RULE + r": (.+?)\.(?= All of|$)", lambda t, words, text: clauses_hold(t, WORDS[words], text)),
    (r"All of these gains are those of one group under several names, or of several groups together\.",
     own_names_never),
    (r"Above zero the liars gain, on average over games\.",
     lambda t: behind(t, "gain", ("gain", "regret", "gaining"))),
    (r"In small print: the 95% interval of the mean\.", lambda t: True),
    (r"When every group says the truth: what the policy is worth to all members, and what the provider earns\.",
     lambda t: bool((t.rows[t.rows.strategy == "truthful"].liars == 0).all())),
    (r"As long as everybody says the truth, payments change who has the money, not the policy\.",
     lambda t: same_policy(t) and behind(t, "yields", ("welfare", "affine_welfare", "divergence", "revenue"))),
    (r"(Social welfare is .+?)\.(?= The|$)", worth),
    (r"The provider earns (.+?)\.(?= Without| In|$)", earned),
    (r"Without payments nobody is charged\.", lambda t: bool(
        (t.rows[t.rows.payment == "none"].filter(regex="^payment_").fillna(0) == 0).all(axis=None))),
    (r"In brackets: the 95% intervals of the means\.", lambda t: True),
    (r"Each mark is one setting under one payment rule\. Those with a ring make the front: none has more of one "
     r"without less of the other, by their means\. Where there is one ring only, one setting is best on both counts\.",
     front),
]  # fmt: skip


def sentences_of(page: Node) -> list[str]:
    """Every text of the page that says something: leads, notes, captions."""
    found = [*page.all("p", class_="lead"), *page.all("p", class_="section-lead"), *page.all("p", class_="caption")]
    notes = [bdi for note in page.all("p", class_="callout") for bdi in note.all("bdi")]
    found += [*notes, *(p for caption in page.all("figcaption") for p in caption.all("p")[:1])]
    return [" ".join(node.text.split()) for node in found]
