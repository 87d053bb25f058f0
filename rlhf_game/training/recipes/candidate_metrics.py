"""Rewards on candidates: how members agree as n of best of n grows, and what optimising them does to a gold reward."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from pathlib import Path
from typing import Any, final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.files.documents import kind, parse_json_lines, read_text, shown
from rlhf_game.mechanism.arrays import Array
from rlhf_game.rewards.diagnostics import (
    best_of_n_agreement,
    best_of_n_divergence,
    best_of_n_divergence_exact,
    expected_best,
    length_correlation,
    optimised_to,
    spearman_by_prompt,
)
from rlhf_game.rewards.texts import TextReward, call_reward
from rlhf_game.training.recipes.reward_models import MemberSpec

POINTS = 19
"""Of an over-optimisation curve: every twentieth of log N, the largest divergence that N candidates allow."""


@final
@dataclass(frozen=True)
class Responses:
    """Candidates: N different responses to each of B prompts."""

    prompts: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]

    def pairs(self) -> list[tuple[str, str]]:
        """Return all (prompt, response), [B N]."""
        return [(prompt, text) for prompt, row in zip(self.prompts, self.texts, strict=True) for text in row]

    def table(self, scores: Array) -> Array:
        """Return scores [B N] as [B, N]."""
        return scores.reshape(len(self.prompts), -1)


def read_responses(path: Path) -> Responses:
    """Return the candidates of a .jsonl file of rows {prompt, responses}.

    Raises InputError that names file and row unless every row has as many responses, at least two and all different.
    """
    name = shown(str(path), 200)
    prompts: list[str] = []
    texts: list[tuple[str, ...]] = []
    for where, row in parse_json_lines(read_text(path), name):
        prompt, responses = (row.get("prompt"), row.get("responses")) if isinstance(row, dict) else (None, None)
        if not isinstance(prompt, str) or not isinstance(responses, list):
            raise InputError(f"{where}: must be {{prompt, responses: [..]}}, found {kind(row)}")
        is_text = all(isinstance(text, str) and text.strip() for text in responses)
        if not is_text or len(set(responses)) != len(responses) or len(responses) < 2:
            raise InputError(f"{where}: responses: must be at least two different texts, found {kind(responses)}")
        if texts and len(responses) != len(texts[0]):
            raise InputError(
                f"{where}: responses: must be {len(texts[0])} as in the first row, found {len(responses)} texts"
            )
        prompts.append(prompt)
        texts.append(tuple(responses))
    return Responses(tuple(prompts), tuple(texts))


def scores_on(responses: Responses, places: Sequence[Path]) -> list[Array]:
    """Return the rewards of all candidates by the models in these folders, [B, N] each."""
    from rlhf_game.training_backends import Named, Networks

    pairs = responses.pairs()
    networks = Networks()
    return [responses.table(networks.reward_model(Named(str(place))).score(pairs)) for place in places]


def gold_of(responses: Responses, gold: TextReward) -> Array:
    """Return a gold reward of all candidates, [B, N]: 0 on average for each prompt, in standard deviations.

    Raises InputError when it tells no prompt's candidates apart.
    """
    pairs = responses.pairs()
    scores = responses.table(call_reward(gold, [prompt for prompt, _ in pairs], [text for _, text in pairs]))
    standard = _standard(scores)
    if not standard.any():
        raise InputError("gold: must tell the candidates of a prompt apart, found one reward for all of them")
    return standard


def agreement_on(responses: Responses, members: Sequence[MemberSpec], tables: Sequence[Array], seed: int) -> Any:
    """Return how the members of an ensemble agree on candidates, pair by pair, and each one's taste for length.

    tables: each member's rewards, [B, N].
    """
    lengths = responses.table(np.array([len(text) for _, text in responses.pairs()], dtype=np.float64))
    sizes = _sizes(responses)
    rng = np.random.default_rng(seed)
    found = [
        {
            "members": [i, k],
            "same_backbone": members[i].backbone == members[k].backbone,
            "spearman": _known(spearman_by_prompt(tables[i], tables[k])),
            "same_best_of": {str(n): best_of_n_agreement(tables[i], tables[k], n, rng) for n in sizes},
        }
        for i, k in combinations(range(len(tables)), 2)
    ]
    return {
        "pairs": found,
        "length_correlation": [_known(length_correlation(table, lengths)) for table in tables],
        "best_of_n": _best_of(members, tables, found, sizes),
    }


def _best_of(
    members: Sequence[MemberSpec], tables: Sequence[Array], pairs: Sequence[dict[str, Any]], sizes: Sequence[int]
) -> list[dict[str, Any]]:
    """Return, as n grows, what the best of n by one member is worth to itself and to others, and how far it moves.

    worth: the mean reward of the choice by the judging member, from its prompt's mean, in its own standard deviations
    over the candidates (Eisenstein et al. 2023 call what the others see less of underspecification).
    """
    groups: dict[str, list[tuple[int, int]]] = {"self": [(i, i) for i in range(len(tables))]}
    for i, k in permutations(range(len(tables)), 2):
        kind = "same_backbone" if members[i].backbone == members[k].backbone else "other_backbone"
        groups.setdefault(kind, []).append((i, k))
    standard = [_standard(table) for table in tables]
    rows = []
    for n in sizes:
        agreed = {"self": [1.0], "same_backbone": [], "other_backbone": []}
        for pair in pairs:
            agreed["same_backbone" if pair["same_backbone"] else "other_backbone"].append(pair["same_best_of"][str(n)])
        same_choice = {kind: float(np.mean(values)) for kind, values in agreed.items() if values}
        worth = {
            kind: float(np.mean([expected_best(standard[i], standard[k], n)[1] for i, k in couples]))
            for kind, couples in groups.items()
        }
        rows.append(
            {"n": n, "same_choice": {**same_choice, "chance": 1 / n}, "worth": worth, **_divergences(tables, n)}
        )
    return rows


def optimisation_on(proxies: Mapping[str, Array], gold: Array) -> dict[str, Any]:
    """Return what the gold reward becomes as each proxy is optimised: along the exact KL, and by best of n.

    proxies: rewards [B, N] by name. A number is the gain over the uniform policy on the candidates, each reward in its
    standard deviations; a curve ends where its proxy's divergence does.
    """
    highest = float(np.log(gold.shape[1]))
    grid = (np.linspace(0.05, 0.95, POINTS) * highest).tolist()
    sizes = [2**k for k in range(1, 10) if 2**k <= gold.shape[1]]
    found = {}
    for name, table in proxies.items():
        proxy = _standard(table)
        curve = optimised_to(proxy, gold, grid)
        points = zip(curve.divergence.tolist(), curve.proxy.tolist(), curve.gold.tolist(), strict=True)
        best = {n: expected_best(proxy, gold, n) for n in sizes}
        found[name] = {
            "curve": [{"divergence": point[0], "proxy": point[1], "gold": point[2]} for point in points],
            "peak": curve.peak if len(curve.gold) else None,
            "best_of_n": [{"n": n, **_divergences([table], n), "proxy": best[n][0], "gold": best[n][1]} for n in sizes],
        }
    return found


def _divergences(tables: Sequence[Array], n: int) -> dict[str, float]:
    """Return KL(best of n || uniform on the candidates): the formula, and what it is, mean over prompts and rewards."""
    rows = [row for table in tables for row in table]
    exact = [best_of_n_divergence_exact(np.full(len(row), 1.0 / len(row)), row, n) for row in rows]
    return {"divergence_bound": best_of_n_divergence(n), "divergence": float(np.mean(exact))}


def _sizes(responses: Responses) -> list[int]:
    return [2**k for k in range(1, 10) if 2**k <= len(responses.texts[0])]


def _standard(scores: Array) -> Array:
    """Return scores [B, N] from their prompt's mean, in standard deviations; zeros where all are alike."""
    centred = scores - scores.mean(axis=1, keepdims=True)
    deviation = float(centred.std())
    is_flat = deviation <= 1e-12 * float(np.abs(scores).max(initial=0.0))
    return np.zeros_like(centred) if is_flat else np.asarray(centred / deviation)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
