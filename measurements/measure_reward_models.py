"""Measure ensembles and weight averages of reward models on real preferences; writes the tables of reward_models.md.

RLHF_GAME_DATA=folder python -m measurements.measure_reward_models

Needs gpt4_judge, helpful and harmless .jsonl.gz of rows {prompt, history, chosen, rejected, split} and the wheels of
models.txt. About fifteen minutes on one core the first time, nearly all of it features of frozen networks, which are
kept in the user's cache folder; a minute after that; the same numbers every time on the same machine.
"""

import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from measurements.measured import write_figure, write_table
from rlhf_game import KL, AffinePayments, Mechanism, NoPayments, Report, SocialWelfare, Table
from rlhf_game.files.preferences import Preference, flip, read_preferences
from rlhf_game.rewards.bradley_terry import Likelihood, fit_head
from rlhf_game.rewards.diagnostics import accuracy, best_of_n_agreement, overoptimisation, spearman_by_prompt
from rlhf_game.training_backends.lm.checkpoints import cache_folder
from rlhf_game.training_backends.lm.scorers import load_backbone, load_embedder

PAGE = "reward_models.md"
SEEDS = 10
MEMBERS = 5
PAIRS, FEW = 1000, 250
"""Training pairs of the study of averages, and of the study of backbones (the larger network is slow)."""
CANDIDATES = 8


def data_folder() -> Path:
    """The folder of real preference data; the script says what is missing and stops without it."""
    folder = Path(os.environ.get("RLHF_GAME_DATA", ""))
    if not os.environ.get("RLHF_GAME_DATA") or not folder.is_dir():
        sys.exit("needs real preference data: RLHF_GAME_DATA must name its folder")
    return folder


def rows_of(name: str, split: str) -> list[Preference]:
    """The rows of one split of one file."""
    return [row for row in read_preferences(data_folder() / f"{name}.jsonl.gz").rows if row.split == split]


def features(backbone: str, texts: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Any]:
    """The frozen features of (prompt, response) pairs, computed once and kept."""
    known = sorted(set(texts))
    digest = hashlib.sha256(repr((backbone, known)).encode()).hexdigest()[:16]
    path = cache_folder() / "features" / f"{backbone}-{digest}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        if backbone == "all-minilm-l6-v2":
            table = load_embedder(backbone, truncate="tail").features(known)
        else:
            table = load_backbone(backbone).features(known)
        np.save(path, table)
    return dict(zip(known, np.load(path), strict=True))


def both(rows: Sequence[Preference]) -> list[tuple[str, str]]:
    """The two sides of each pair."""
    return [(row.prompt, text) for row in rows for text in (row.chosen, row.rejected)]


def sides(rows: Sequence[Preference], table: dict[tuple[str, str], Any]) -> tuple[Any, Any]:
    """The features of chosen and of rejected responses, [n, d] each."""
    chosen = np.stack([table[row.prompt, row.chosen] for row in rows])
    return chosen, np.stack([table[row.prompt, row.rejected] for row in rows])


def candidates(rows: Sequence[Preference]) -> list[list[tuple[str, str]]]:
    """For each prompt with enough different responses, CANDIDATES of them."""
    responses: dict[str, list[str]] = {}
    for row in rows:
        for text in (row.chosen, row.rejected):
            if text not in responses.setdefault(row.prompt, []):
                responses[row.prompt].append(text)
    return [[(p, t) for t in texts[:CANDIDATES]] for p, texts in responses.items() if len(texts) >= CANDIDATES]


@dataclass(frozen=True, eq=False)
class Network:
    """A reward with one hidden layer on frozen features: tanh(x W1 + b1) w2 + b2."""

    weights: tuple[Any, ...]

    def __call__(self, x: Any) -> Any:
        """The rewards of features [k, d]."""
        w1, b1, w2, b2 = self.weights
        return np.tanh(x @ w1 + b1) @ w2 + b2


def average(networks: Sequence[Network]) -> Network:
    """The network with the mean of all weights, the last layer's too."""
    return Network(tuple(np.mean(parts, axis=0) for parts in zip(*(n.weights for n in networks), strict=True)))


def probed(chosen: Any, rejected: Any, rng: np.random.Generator, hidden: int = 64) -> Network:
    """A random hidden layer under a head that is fitted to it: where all fine-tunings start."""
    w1 = rng.normal(size=(chosen.shape[1], hidden)) / np.sqrt(chosen.shape[1])
    head = fit_head(np.tanh(chosen @ w1), np.tanh(rejected @ w1), Likelihood(0.01, 1e-2))
    return Network((w1, np.zeros(hidden), head.weights, np.array(head.bias)))


def finetuned(start: Network, chosen: Any, rejected: Any, seed: int) -> Network:
    """All weights trained on the identified Bradley-Terry loss; order, learning rate and dropout differ by seed."""
    rate, drop = ((1e-3, 0.0), (2e-3, 0.1), (5e-4, 0.0), (1e-3, 0.2), (2e-3, 0.0))[seed % MEMBERS]
    rng = np.random.default_rng(seed)
    good, bad = torch.tensor(chosen, dtype=torch.float32), torch.tensor(rejected, dtype=torch.float32)
    weights = [torch.tensor(part, dtype=torch.float32, requires_grad=True) for part in start.weights]
    optimizer = torch.optim.Adam(weights, lr=rate)
    for _ in range(15):
        for batch in np.array_split(rng.permutation(len(good)), len(good) // 32):
            keep = [torch.tensor(rng.random(weights[2].shape) >= drop, dtype=torch.float32) / (1 - drop) for _ in "+-"]
            first, second = (
                (torch.tanh(x[batch] @ weights[0] + weights[1]) * mask) @ weights[2] + weights[3]
                for x, mask in zip((good, bad), keep, strict=True)
            )
            loss = -torch.nn.functional.logsigmoid(first - second).mean() + 0.01 * ((first + second) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return Network(tuple(part.detach().double().numpy() for part in weights))


def interval(values: Sequence[float]) -> str:
    """Mean and half-width of the 95 % t-interval over seeds."""
    half = 2.262 * np.std(values, ddof=1) / np.sqrt(len(values))  # the t quantile of 9 degrees of freedom
    return f"{np.mean(values):.3f} \u00b1 {half:.3f}"


@dataclass(frozen=True, eq=False)
class Material:
    """The features of everything, once."""

    train: list[Preference]
    test: list[Preference]
    other: list[tuple[Preference, str]]
    """Test rows of other data, and which data."""
    minilm: dict[tuple[str, str], Any]

    @classmethod
    def read(cls) -> "Material":
        """Read and embed."""
        train, test = rows_of("gpt4_judge", "train"), rows_of("gpt4_judge", "test")
        other = [(row, name) for name in ("helpful", "harmless") for row in rows_of(name, "test")]
        table = features("all-minilm-l6-v2", both([*train, *test, *(row for row, _ in other)]))
        scale = np.sqrt(384.0)  # coordinates of about 1
        return cls(train, test, other, {pair: scale * row for pair, row in table.items()})

    def candidates(self) -> tuple[list[list[tuple[str, str]]], Any]:
        """The candidates of the test prompts, and their features [B, N, d]."""
        listed = candidates(self.test)
        return listed, np.stack([[self.minilm[pair] for pair in row] for row in listed])


def members_of(material: Material, seed: int, share: float) -> tuple[list[Network], dict[str, tuple[Any, Any]]]:
    """MEMBERS fine-tunings from one probe on PAIRS pairs of which a share is mislabelled, and what to judge on."""
    rng = np.random.default_rng([seed, 1])
    true = tuple(material.train[k] for k in rng.permutation(len(material.train))[:PAIRS])
    given = flip(true, share, rng)
    wrong = [a != b for a, b in zip(true, given, strict=True)]
    chosen, rejected = sides(given, material.minilm)
    start = probed(chosen, rejected, rng)
    networks = [finetuned(start, chosen, rejected, MEMBERS * seed + k) for k in range(MEMBERS)]
    judged = {
        "train, right labels": [row for row, bad in zip(given, wrong, strict=True) if not bad],
        "train, wrong labels": [row for row, bad in zip(given, wrong, strict=True) if bad],
        "test": material.test,
        "helpful": [row for row, name in material.other if name == "helpful"],
        "harmless": [row for row, name in material.other if name == "harmless"],
    }
    return networks, {name: sides(rows, material.minilm) for name, rows in judged.items() if rows}


def averages(material: Material) -> dict[float, list[list[Network]]]:
    """(a) Single, ENS and WARM on clean and on mislabelled data; returns the networks for the next study."""
    found, rows = {}, []
    for share in (0.0, 0.25):
        scores: dict[tuple[str, str], list[float]] = {}
        found[share] = []
        for seed in range(SEEDS):
            networks, judged = members_of(material, seed, share)
            found[share].append(networks)
            whole = average(networks)
            for name, (chosen, rejected) in judged.items():
                margins = np.stack([n(chosen) - n(rejected) for n in networks])
                ensemble, weights = accuracy(margins.mean(axis=0)), accuracy(whole(chosen) - whole(rejected))
                for kind, value in (
                    ("single", float(np.mean([accuracy(m) for m in margins]))),
                    ("ENS", ensemble),
                    ("WARM", weights),
                    ("WARM - ENS", weights - ensemble),
                ):
                    scores.setdefault((name, kind), []).append(value)
        for name in dict.fromkeys(name for name, _ in scores):
            cells = [interval(scores[name, kind]) for kind in ("single", "ENS", "WARM", "WARM - ENS")]
            rows.append((f"{share:.0%}", name, *cells))
    write_table(PAGE, "averages", ("labels flipped", "accuracy on", "single", "ENS", "WARM", "WARM - ENS"), rows)
    return found


def backbones(material: Material) -> None:
    """(b) Best-of-n agreement of members that differ by seed, and of members that differ by backbone."""
    few = [material.train[k] for k in np.random.default_rng(0).permutation(len(material.train))[: FEW + 50]]
    listed = candidates(material.test)
    pairs = both(few) + [pair for row in listed for pair in row]
    slow = features("smollm2-135m-instruct", pairs)
    tables = {"MiniLM": {pair: material.minilm[pair] for pair in slow}, "SmolLM2": slow}
    scores: dict[str, list[Any]] = {}
    accuracies: dict[str, list[float]] = {}
    for name, table in tables.items():
        chosen, rejected = sides(few, table)
        everything = np.vstack([chosen[:FEW], rejected[:FEW]])
        middle, width = everything.mean(axis=0), everything.std(axis=0) + 1e-9
        chosen, rejected = (chosen - middle) / width, (rejected - middle) / width
        shown = (np.stack([[table[pair] for pair in row] for row in listed]) - middle) / width
        tests = [
            row for row in material.test if (row.prompt, row.chosen) in table and (row.prompt, row.rejected) in table
        ]
        good, bad = (((side - middle) / width) for side in sides(tests, table))
        for seed in range(2 * SEEDS):
            drawn = np.random.default_rng([seed, 2]).integers(FEW, size=FEW)
            head = fit_head(chosen[drawn], rejected[drawn], Likelihood(0.01, 1.0))
            scores.setdefault(name, []).append(head(shown))
            accuracies.setdefault(name, []).append(accuracy(head(good) - head(bad)))
    rows = []
    rng = np.random.default_rng(3)
    kinds = {
        "MiniLM, another seed": ("MiniLM", "MiniLM"),
        "SmolLM2, another seed": ("SmolLM2", "SmolLM2"),
        "another backbone": ("MiniLM", "SmolLM2"),
    }
    for kind, (first, second) in kinds.items():
        # Members 2k and 2k + 1 have seen different draws; no member is in two pairs of a row.
        both_scores = [(scores[first][2 * k], scores[second][2 * k + 1]) for k in range(SEEDS)]
        cells = [interval([best_of_n_agreement(a, b, n, rng) for a, b in both_scores]) for n in (2, 4, CANDIDATES)]
        rows.append((kind, *cells, interval([spearman_by_prompt(a, b) for a, b in both_scores])))
    heads = ("the other member", "n = 2", "n = 4", f"n = {CANDIDATES}", "Spearman")
    write_table(PAGE, "backbones", heads, [*rows, ("chance", "0.500", "0.250", f"{1 / CANDIDATES:.3f}", "0")])
    table = [(name, FEW, f"{len(tests)}", interval(values[:SEEDS])) for name, values in accuracies.items()]
    write_table(PAGE, "accuracies", ("features of", "training pairs", "test pairs", "accuracy"), table)


def gold_of(material: Material) -> Any:
    """A reward model on all training pairs with their own labels: what the studies call the truth."""
    head = fit_head(*sides(material.train, material.minilm), Likelihood(0.01, 1e-2))
    return lambda x: head(x)


def gold_along(proxy: Any, gold: Any, grid: Any) -> Any:
    """The gold reward of the proxy's exact optimum at each KL of the grid."""
    curve = overoptimisation(proxy, gold, np.geomspace(1e-3, 1e3, 200))
    order = np.argsort(curve.divergence)
    return np.interp(grid, curve.divergence[order], curve.gold[order])


def optimisation(material: Material, found: dict[float, list[list[Network]]]) -> None:
    """(c) The gold reward of the exact KL optimum of each proxy, along the KL."""
    _, shown = material.candidates()
    gold = gold_of(material)(shown)
    gold = (gold - gold.mean(axis=1, keepdims=True)) / gold.std()
    grid = np.array([0.1, 0.25, 0.5, 1.0, 1.5, 2.0])
    rows, curves = [], {}
    for share, replicates in found.items():
        at: dict[str, list[Any]] = {}
        for networks in replicates:
            members = np.stack([network(shown) for network in networks])
            alone = np.mean([gold_along(member, gold, grid) for member in members], axis=0)
            at.setdefault("single", []).append(alone)
            proxies = {
                "ENS": members.mean(axis=0),
                "ENS, mean - std": members.mean(axis=0) - members.std(axis=0),
                "ENS, min": members.min(axis=0),
                "WARM": average(networks)(shown),
            }
            for name, proxy in proxies.items():
                at.setdefault(name, []).append(gold_along(proxy, gold, grid))
        single = np.array(at["single"]).T
        for name, values in at.items():
            columns = np.array(values).T
            curves[share, name] = columns.mean(axis=1)
            shown_as = (name, columns) if name == "single" else (f"{name}: more than single", columns - single)
            rows.append((f"{share:.0%}", shown_as[0], *(interval(column) for column in shown_as[1])))
    write_table(PAGE, "optimisation", ("labels flipped", "proxy", *(f"KL {k:g}" for k in grid)), rows)

    def draw(left: Any, right: Any) -> None:
        for axis, share in ((left, 0.0), (right, 0.25)):
            for (s, name), values in curves.items():
                if s == share:
                    axis.plot(grid, values, marker="o", markersize=3, label=name)
            axis.set(
                xlabel="KL to the candidates' uniform policy", ylabel="gold reward (sd)", title=f"{share:.0%} flipped"
            )
        left.legend(fontsize=7)

    write_figure("overoptimisation", draw)


def choices(material: Material, found: dict[float, list[list[Network]]]) -> None:
    """What a group gains by reporting something else than its truth: an aggregate, or a sharpened reward model."""
    listed, shown = material.candidates()
    truth, rows = gold_of(material), []
    length = np.array([[len(text) for _, text in row] for row in listed], dtype=float)
    short = 1 / (1 + np.exp((length - 600) / 200))
    brief = np.random.default_rng(5).permutation(short.ravel()).reshape(short.shape)  # a third group, unrelated
    unit = np.vectorize(lambda score, sharpness=1.0: 1 / (1 + np.exp(-sharpness * score)))
    own = unit(truth(shown))
    space = Table(np.full(own.shape, 1 / CANDIDATES), KL(0.3))
    gains: dict[tuple[str, bool], list[float]] = {}
    for networks in found[0.0]:
        members = np.stack([network(shown) for network in networks])
        said = {
            "ENS, mean": unit(members.mean(axis=0)),
            "ENS, mean - std": unit(members.mean(axis=0) - members.std(axis=0)),
            "ENS, min": unit(members.min(axis=0)),
            "truth, sharpened 3 times": unit(truth(shown), 3.0),
            "truth, sharpened 10 times": unit(truth(shown), 10.0),
            "ENS, mean, sharpened 10 times": unit(members.mean(axis=0), 10.0),
        }
        for pays, rule in ((False, NoPayments()), (True, AffinePayments())):
            mechanism = Mechanism(SocialWelfare(), rule)

            def utility(report: Any, mechanism: Mechanism = mechanism) -> float:
                settled = mechanism.settle([Report(report), Report(short), Report(brief)], space)
                value = float(np.mean(np.sum(np.asarray(settled.policy.probabilities) * own, axis=1)))
                return value - float(settled.payments[0])

            honest = utility(own)
            for name, report in said.items():
                gains.setdefault((name, pays), []).append(utility(report) - honest)
    for name in said:
        rows.append((name, interval(gains[name, False]), interval(gains[name, True])))
    write_table(PAGE, "choices", ("report", "gain without payments", "gain with payments"), rows)


def main() -> None:
    """Measure everything."""
    torch.set_num_threads(1)
    material = Material.read()
    found = averages(material)
    optimisation(material, found)
    choices(material, found)
    backbones(material)


if __name__ == "__main__":
    main()
