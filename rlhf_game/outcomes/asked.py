"""Candidates from an endpoint: nobody needs its probabilities, because how often it says something is its weight."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

from rlhf_game.chat import Chat, Ledger, Reply, Request
from rlhf_game.chat.chat_specs import dry_chat, open_chat
from rlhf_game.chat.requests import ask_once
from rlhf_game.files.conversations import Text
from rlhf_game.files.run_folder import CALLS, Progress
from rlhf_game.outcomes.run_config import CandidatesSpec, GenerationInputs


def open_responder(source: GenerationInputs, folder: Path) -> Chat:
    """Return the endpoint that answers. folder: the run's, where every answer is kept as soon as it is there."""
    return open_chat(source.model, source.base, folder / CALLS, seed=source.seed)


def ask_candidates(
    source: GenerationInputs, outcomes: CandidatesSpec, responder: Chat, progress: Progress
) -> list[Reply]:
    """Return ``per_prompt`` answers to each prompt, prompt after prompt; those that are kept are not asked for."""
    return responder.ask(_requests(source, outcomes), "responder", progress)


def sample_of(reply: Reply) -> dict[str, Any]:
    """Return what is known of an answer as of a sample of a model on this machine."""
    return {"text": reply.text, "log_probability": reply.log_probability, "is_finished": reply.is_finished}


def count_candidates(source: GenerationInputs, outcomes: CandidatesSpec, ledger: Ledger, calls: Path) -> list[str]:
    """Count in ``ledger`` what drawing would still ask, and return the answers as a dry run has them."""
    responder = dry_chat(source.model, source.base, calls, ledger, seed=source.seed)
    return [reply.text for reply in responder.ask(_requests(source, outcomes), "responder")]


def _requests(source: GenerationInputs, outcomes: CandidatesSpec) -> list[Request]:
    """Return the requests. Each is a draw of its own, also where a prompt comes twice."""
    asked: Counter[Text] = Counter()
    requests: list[Request] = []
    for prompt in source.prompts:
        for _ in range(outcomes.per_prompt):
            number = f"{source.seed} {asked[prompt]}"
            requests.append(
                ask_once(
                    prompt,
                    source.system,
                    temperature=outcomes.temperature,
                    max_tokens=outcomes.max_new_tokens,
                    draw=int.from_bytes(hashlib.sha256(number.encode()).digest()[:6], "big"),
                    wants_log_probability=True,
                    pretend=f"{len(requests)} " + "word" * outcomes.max_new_tokens,
                )
            )
            asked[prompt] += 1
    return requests
