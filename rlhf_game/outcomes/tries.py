"""Outcomes of kind trie: the likeliest whole responses of the reference, and the mass of all others."""

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, final

import numpy as np

from rlhf_game.files.run_folder import Progress, RunFolder
from rlhf_game.mechanism.spaces.expansion import Expansion
from rlhf_game.outcomes.run_config import GenerationInputs, TrieSpec

if TYPE_CHECKING:
    from rlhf_game.training_backends.lm.models import LanguageModel


@final
@dataclass(frozen=True)
class DistinctText:
    """A distinct text: all token sequences that spell it are one outcome, since rewards see texts only."""

    text: str
    count: int
    """How many of the sequences that were found spell it."""
    weight: float
    """Its probability given that the response is one of those that were found."""
    log_probability: float
    """Of the text under the reference, in nats (of the sequences that were found)."""
    is_finished: bool
    """Whether its likeliest sequence ended by itself, not at max_tokens."""
    token_ids: list[int]
    """Its likeliest sequence."""


def find_responses(
    source: GenerationInputs, model: "LanguageModel", outcomes: TrieSpec, folder: RunFolder, progress: Progress
) -> tuple[dict[str, list[Any]], list[float]]:
    """Return the columns of candidates.parquet, and the mass that is missing of each prompt, [B].

    Prompts that an interrupted run finished are not expanded again.
    """
    from rlhf_game.training_backends.lm.autoregressive import expand_prompt

    columns: dict[str, list[Any]] = {
        name: [] for name in ("prompt", "prompt_text", *(field.name for field in fields(DistinctText)))
    }
    missing = []
    for b, prompt in enumerate(source.prompts):
        progress("expand the trie", b, len(source.prompts))
        part = folder.part("trie", b)
        found = part.read()
        if found is None:
            expansion = expand_prompt(
                model,
                prompt,
                max_tokens=outcomes.max_tokens,
                mass=outcomes.mass,
                max_nodes=outcomes.max_nodes,
                system=source.system,
                batch_size=outcomes.batch_size,
            )
            responses = [asdict(response) for response in merge_texts(expansion, model)]
            found = {"missing": expansion.missing, "responses": responses}
            part.write(found)
        missing.append(found["missing"])
        for response in found["responses"]:
            for name, value in {"prompt": b, "prompt_text": str(prompt), **response}.items():
                columns[name].append(value)
    progress("expand the trie", len(source.prompts), len(source.prompts))
    return columns, missing


def merge_texts(expansion: Expansion, model: "LanguageModel") -> list[DistinctText]:
    """Return the distinct texts of an expansion, in the order of their likeliest sequences."""
    members: dict[str, list[int]] = {}
    for i, sequence in enumerate(expansion.sequences):
        members.setdefault(model.decode(list(sequence)), []).append(i)
    weights = expansion.conditional
    return [
        DistinctText(
            text=text,
            count=len(found),
            weight=float(weights[found].sum()),
            log_probability=float(np.logaddexp.reduce(expansion.log_probs[found])),
            is_finished=expansion.sequences[found[0]][-1] in model.end_ids,
            token_ids=list(expansion.sequences[found[0]]),
        )
        for text, found in members.items()
    ]
