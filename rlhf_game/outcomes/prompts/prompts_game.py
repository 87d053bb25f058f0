"""The game over system prompts: candidates are found, frozen, and elicit responses; then groups' rewards value them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from rlhf_game.chat import Chat, Ledger
from rlhf_game.chat.chat_specs import dry_chat, open_chat
from rlhf_game.files.build import settle
from rlhf_game.files.conversations import document_of
from rlhf_game.files.games import Game
from rlhf_game.files.receipts import Receipt
from rlhf_game.files.run_folder import CALLS, Progress, unwatched, versions
from rlhf_game.mechanism.sampled.estimates import Estimate
from rlhf_game.outcomes.prompts.prompts_search import Search, response_request
from rlhf_game.outcomes.prompts.prompts_spec import PromptsSpec, answering, read_examples, read_texts
from rlhf_game.outcomes.run_config import GenerationInputs

RESAMPLES: Final = 200
"""Of questions and answers."""
LEVEL: Final = 0.95


def open_chats(source: GenerationInputs, spec: PromptsSpec, folder: Path) -> dict[str, Chat]:
    """Return who answers, writes and judges, with their answers kept in the run's folder."""
    used = answering(spec, source.model)
    opened: dict[str, Chat] = {}
    for model in used.values():
        if repr(model) not in opened:  # who does several things is loaded once
            opened[repr(model)] = open_chat(
                model, source.base, folder / CALLS, seed=source.seed, batch_size=spec.batch_size
            )
    return {role: opened[repr(model)] for role, model in used.items()}


def prompts_provenance(source: GenerationInputs, spec: PromptsSpec, chats: Mapping[str, Chat]) -> dict[str, Any]:
    """Return where the candidates come from."""
    identities = {role: dict(chat.model.identity) for role, chat in chats.items()}
    known_by = [source.prompts, spec.model_dump(mode="json"), source.seed]
    return {
        "model": identities.pop("responder"),
        **identities,
        "seed": source.seed,
        "source_sha256": hashlib.sha256(json.dumps(known_by, sort_keys=True, default=document_of).encode()).hexdigest(),
        "versions": versions(),
    }


def count_prompts(
    source: GenerationInputs, spec: PromptsSpec, ledger: Ledger, calls: Path
) -> tuple[list[str], list[str]]:
    """Count in ``ledger`` what finding the candidates and eliciting responses would ask beyond what ``calls`` keeps.

    Returns the prompt and the text of each response as a dry run has them.
    """
    used = answering(spec, source.model)
    chats = {role: dry_chat(model, source.base, calls, ledger, seed=source.seed) for role, model in used.items()}
    columns, _ = find_prompts(source, spec, chats, unwatched)
    return columns["prompt_text"], columns["text"]


def find_prompts(
    source: GenerationInputs, spec: PromptsSpec, chats: Mapping[str, Chat], progress: Progress
) -> tuple[dict[str, list[Any]], list[dict[str, Any]]]:
    """Search, keep the best candidates, let each elicit its responses; return candidates.parquet's columns, and them.

    A row is a response: to each of the B prompts in turn, under each of the K candidates, ``per_prompt`` of them. An
    interrupted search begins anew and gets every answer that was given already from the folder.
    """
    rng = np.random.default_rng(source.seed)
    examples = read_examples(spec.examples, source.base)
    if len(examples) > spec.sample:
        examples = [examples[k] for k in sorted(rng.choice(len(examples), spec.sample, replace=False).tolist())]
    search = Search(spec, chats, examples, progress)
    best = search.run(read_texts(spec.seeds, source.base), rng)[: spec.keep]
    rows = [
        (b, k, draw) for b in range(len(source.prompts)) for k in range(len(best)) for draw in range(spec.per_prompt)
    ]
    requests = [response_request(spec, best[k].text, source.prompts[b], draw) for b, k, draw in rows]
    replies = chats["responder"].ask(requests, "responder", progress)
    columns: dict[str, list[Any]] = {
        "prompt": [b for b, _, _ in rows],
        "prompt_text": [str(source.prompts[b]) for b, _, _ in rows],
        "candidate": [k for _, k, _ in rows],
        "text": [reply.text for reply in replies],
        "weight": [1.0 / (len(best) * spec.per_prompt)] * len(rows),
        "is_finished": [reply.is_finished for reply in replies],
    }
    return columns, [candidate.document() for candidate in best]


def value_prompts(
    origin: Mapping[str, Any], prompts: int, rewards: Mapping[str, Sequence[float]]
) -> tuple[list[str], dict[str, list[float]], dict[str, list[float] | None]]:
    """Return the K system prompts, each group's valuation of each, and the standard errors of these.

    A group's valuation of a system prompt is the mean of its rewards over prompts and responses. The standard error is
    over prompts, None where there is only one. prompts: how many, B; rewards: one number per row of candidates.parquet.
    """
    texts = [candidate["text"] for candidate in origin["system_prompts"]]
    tables = {
        name: np.asarray(values, dtype=np.float64).reshape(prompts, len(texts), -1).mean(axis=2)
        for name, values in rewards.items()
    }
    errors = {
        name: None if len(table) == 1 else (table.std(axis=0, ddof=1) / np.sqrt(len(table))).tolist()
        for name, table in tables.items()
    }
    return texts, {name: table.mean(axis=0).tolist() for name, table in tables.items()}, errors


def over_questions(
    game: Game, origin: Mapping[str, Any], prompts: int, rewards: Mapping[str, Sequence[float]], seed: int
) -> dict[str, Any] | None:
    """Return how far values, payments and utilities depend on which questions and answers there were; of one, None.

    Percentiles of the bootstrap: questions are drawn anew, and of each the answers under every system prompt, the game
    is settled with the means of these. Approximate, and too short for few questions. prompts, rewards: as for
    value_prompts.
    """
    if prompts < 2:
        return None
    names, rng = [group.name for group in game.fields.groups], np.random.default_rng(seed)
    shape = (len(names), prompts, len(origin["system_prompts"]), -1)
    table = np.array([rewards[name] for name in names], dtype=np.float64).reshape(shape)
    sizes, drawn = np.array([group.size for group in game.fields.groups]), []
    for _ in range(RESAMPLES):
        asked = rng.integers(prompts, size=prompts)
        answers = rng.integers(table.shape[3], size=(prompts, *table.shape[2:]))
        means = np.take_along_axis(table[:, asked], answers[None], axis=3).mean(axis=(1, 3))
        settled = settle(replace(game, rewards=tuple(means)))
        drawn.append([settled.values, settled.payments, settled.utilities])
    exact = settle(game)
    ends = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    values = np.stack([exact.values, exact.payments, sizes * exact.values - exact.payments])
    found = Estimate(values, np.minimum(ends[0], values), np.maximum(ends[1], values), LEVEL).document()
    groups = [
        {"name": name, "value": found[0][i], "payment": found[1][i], "utility": found[2][i]}
        for i, name in enumerate(names)
    ]
    return {"resamples": RESAMPLES, "questions": prompts, "groups": groups}


@final
@dataclass(frozen=True)
class SystemPrompt:
    """A system prompt, settled."""

    text: str
    judge_score: float
    """What the search gave it, before any report was read."""
    ungraded: int
    """Of the grades behind that score, how many are not the judge's but the one declared for answers without any."""
    probability: float
    """In the settled policy."""


def settled_prompts(origin: Mapping[str, Any], receipt: Receipt) -> tuple[SystemPrompt, ...]:
    """Return the system prompts with their probabilities; none where outcomes are something else."""
    found = origin.get("system_prompts", [])
    policy: Any = receipt.policy if found else []
    return tuple(
        SystemPrompt(candidate["text"], candidate["score"], candidate["ungraded"], probability)
        for candidate, probability in zip(found, policy, strict=True)
    )
