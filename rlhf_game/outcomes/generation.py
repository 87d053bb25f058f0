"""The first stage: draw or find the responses. Its ``GenerationInputs`` hold nothing of any group."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from rlhf_game.chat.chat_specs import ModelSpec
from rlhf_game.errors import InputError, RunError
from rlhf_game.files.conversations import document_of
from rlhf_game.files.run_folder import Progress, RunFolder, parquet_bytes, read_parquet, versions
from rlhf_game.mechanism.draws.importance import effective_sample_size, normalized_weights
from rlhf_game.outcomes.asked import ask_candidates, open_responder, sample_of
from rlhf_game.outcomes.candidates import merge
from rlhf_game.outcomes.given_rows import Given
from rlhf_game.outcomes.prompts.prompts_game import find_prompts, open_chats, prompts_provenance
from rlhf_game.outcomes.prompts.prompts_spec import PromptsSpec
from rlhf_game.outcomes.run_config import CandidatesSpec, GenerationInputs, TrieSpec
from rlhf_game.outcomes.served_draws import drawn_batch
from rlhf_game.outcomes.tries import find_responses

if TYPE_CHECKING:
    from rlhf_game.training_backends.lm.models import LanguageModel
    from rlhf_game.training_backends.lm.sampling import Sampling


NAMES: Final = {"prompt": "prompt_index", "prompt_text": "prompt", "text": "response"}
"""What columns of candidates are called in candidates.parquet."""


@final
@dataclass(frozen=True)
class DrawnCandidates:
    """The candidates of a run: one entry per distinct response, prompt after prompt."""

    prompts: tuple[int, ...]
    texts: tuple[str, ...]
    weights: tuple[float, ...]
    token_ids: tuple[list[int], ...] | None = None
    """Of each text as it was drawn, where a model's tokens were kept."""

    def by_prompt(self, values: Sequence[Any]) -> list[list[Any]]:
        """Return one value per candidate as a list per prompt."""
        rows: list[list[Any]] = [[] for _ in range(self.prompts[-1] + 1)]
        for prompt, value in zip(self.prompts, values, strict=True):
            rows[prompt].append(value)
        return rows


def generate(source: GenerationInputs, folder: RunFolder, progress: Progress) -> None:
    """Write candidates.parquet; pieces of an interrupted generation are used, the same bytes come out."""
    if folder.candidates.exists():
        return
    if isinstance(source.outcomes, PromptsSpec):
        _find_prompts(source, source.outcomes, folder, progress)
        return
    if source.given is not None:
        folder.write(folder.candidates, candidates_bytes(*_given(source.given)))
        return
    if source.model.endpoint is not None:
        _ask(source, folder, progress)
        return
    progress("load the language model", 0, 1)
    model = open_model(source.model, source.base)
    progress("load the language model", 1, 1)
    provenance = drawn_provenance(source, identity_of(source, model))
    check_resumed(folder, provenance)
    if isinstance(source.outcomes, TrieSpec):
        columns, missing = find_responses(source, model, source.outcomes, folder, progress)
        provenance["missing"] = missing
    else:
        assert isinstance(source.outcomes, CandidatesSpec)  # a policy that is trained has a pipeline of its own
        columns, more = _draw(source, model, source.outcomes, folder, progress)
        provenance |= more
    folder.write(folder.candidates, candidates_bytes(columns, provenance))
    folder.drop_parts()


def _given(given: Given) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Return the columns of outcomes that are given, and where they come from."""
    columns: dict[str, list[Any]] = {
        "prompt": list(given.places),
        "prompt_text": [str(given.prompts[place]) for place in given.places],
        "text": [str(response) for response in given.responses],
        "count": list(given.counts),
        "weight": list(given.weights),
    }
    sizes = given.effective_sample_size
    worth = {} if sizes is None else {"effective_sample_size": list(sizes)}
    return columns, {"model": None, "rows": given.origin(), **worth, "versions": versions()}


def _find_prompts(source: GenerationInputs, outcomes: PromptsSpec, folder: RunFolder, progress: Progress) -> None:
    chats = open_chats(source, outcomes, folder.path)
    provenance = prompts_provenance(source, outcomes, chats)
    check_resumed(folder, provenance)
    columns, found = find_prompts(source, outcomes, chats, progress)
    folder.write(folder.candidates, candidates_bytes(columns, {**provenance, "system_prompts": found}))
    folder.drop_parts()


def _ask(source: GenerationInputs, folder: RunFolder, progress: Progress) -> None:
    """Draw candidates from an endpoint; the answers that are kept are the pieces of an interrupted generation."""
    assert isinstance(source.outcomes, CandidatesSpec)  # nothing else is asked of an endpoint here
    responder = open_responder(source, folder.path)
    provenance = drawn_provenance(source, responder.model.identity)
    check_resumed(folder, provenance)
    replies = ask_candidates(source, source.outcomes, responder, progress)
    places = [(b, j) for b in range(len(source.prompts)) for j in range(source.outcomes.per_prompt)]
    drawn = dict(zip(places, map(sample_of, replies), strict=True))
    folder.write(folder.candidates, candidates_bytes(_columns(source, source.outcomes, drawn), provenance))
    folder.drop_parts()


def _draw(
    source: GenerationInputs, model: "LanguageModel", outcomes: CandidatesSpec, folder: RunFolder, progress: Progress
) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Return the columns of candidates.parquet, and what is known of a proposal."""
    from rlhf_game.training_backends.lm.sampling import plan_batches

    writer, system = _proposal(source, model, outcomes)
    encoded = writer.encode_prompts(source.prompts, system)
    batches = plan_batches([len(ids) for ids in encoded], outcomes.per_prompt, outcomes.batch_size)
    drawn: dict[tuple[int, int], dict[str, Any]] = {}
    for number, batch in enumerate(batches):
        progress("draw candidates", number, len(batches))
        part = folder.part("candidates", number)
        found = part.read()
        if found is None:
            samples = drawn_batch(
                outcomes.server, writer, encoded, batch, seed=source.seed, sampling=_sampling(outcomes)
            )
            found = [asdict(sample) for sample in samples]
            if outcomes.proposal is not None:
                _add_reference(found, [b for b, _ in batch], source, model, outcomes)
            part.write(found)
        drawn.update(zip(batch, found, strict=True))
    progress("draw candidates", len(batches), len(batches))
    more = {}
    if outcomes.proposal is not None:
        sizes = effective_sizes(drawn, len(source.prompts), outcomes.per_prompt)
        more = {"proposal": identity_of(source, writer), "effective_sample_size": sizes}
    return _columns(source, outcomes, drawn), more


def open_model(named: ModelSpec, base: Path) -> "LanguageModel":
    """Return the language model that a configuration names."""
    from rlhf_game.training_backends import load_language_model

    return load_language_model(
        named.name,
        revision=named.revision,
        device=named.device,
        dtype=named.dtype,
        base=base,
        folds_system=named.fold_system,
    )


def _proposal(
    source: GenerationInputs, model: "LanguageModel", outcomes: CandidatesSpec
) -> tuple["LanguageModel", str | None]:
    """Return what the candidates are drawn from, and its system prompt."""
    given = outcomes.proposal
    if given is None or given.model is None:
        return model, source.system if given is None else given.system
    other = open_model(given.model, source.base)
    if other.tokenizer.get_vocab() != model.tokenizer.get_vocab() or other.end_ids != model.end_ids:
        raise InputError(
            f"outcomes.proposal.model: must have the tokens of {source.model.name}, found others in {given.model.name}"
        )
    return other, source.system


def _add_reference(
    found: list[dict[str, Any]],
    places: Sequence[int],
    source: GenerationInputs,
    model: "LanguageModel",
    outcomes: CandidatesSpec,
) -> None:
    """Add to samples of a proposal their log probability under the reference."""
    from rlhf_game.training_backends.lm.sampling import log_probabilities

    asked = {b: model.encode_prompt(source.prompts[b], source.system) for b in set(places)}
    scores = log_probabilities(
        model,
        [asked[b] for b in places],
        [list(one["token_ids"]) for one in found],
        sampling=_sampling(outcomes),
        batch_size=outcomes.batch_size,
    )
    for one, score in zip(found, scores.tolist(), strict=True):
        one["log_reference"] = score if np.isfinite(score) else None


def effective_sizes(drawn: Mapping[tuple[int, int], Mapping[str, Any]], prompts: int, per_prompt: int) -> list[float]:
    """Return how many draws of the reference those of a proposal are worth: [B]."""
    return [
        effective_sample_size(normalized_weights(_log_ratios([drawn[b, j] for j in range(per_prompt)])))
        for b in range(prompts)
    ]


def _log_ratios(samples: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return log pi_ref - log pi_gen of each sample; minus infinity where the reference never says it."""
    return [
        -np.inf if one["log_reference"] is None else one["log_reference"] - one["log_probability"] for one in samples
    ]


def candidates_bytes(columns: Mapping[str, Any], provenance: Mapping[str, Any]) -> bytes:
    """Return candidates.parquet: a row is a distinct response, in the order of the game.

    columns: ``prompt`` counts the prompts from 0 (in the file prompt_index), ``prompt_text`` and ``text`` are what was
    asked and answered (in the file prompt and response), ``weight`` the share of the prompt's reference.
    """
    return parquet_bytes({NAMES.get(name, name): values for name, values in columns.items()}, provenance)


def read_drawn(folder: RunFolder) -> tuple[DrawnCandidates, dict[str, Any]]:
    """Return the candidates that were drawn, and where they come from."""
    columns, provenance = read_parquet(folder.candidates)
    ids = tuple(columns["token_ids"]) if "token_ids" in columns else None
    places, texts = tuple(columns["prompt_index"]), tuple(columns["response"])
    return DrawnCandidates(places, texts, tuple(columns["weight"]), ids), provenance


def _sampling(outcomes: CandidatesSpec) -> "Sampling":
    from rlhf_game.training_backends.lm.sampling import Sampling

    return Sampling(outcomes.max_new_tokens, outcomes.temperature, outcomes.top_k, outcomes.top_p)


def identity_of(source: GenerationInputs, model: "LanguageModel") -> dict[str, Any]:
    """Return what draws on this machine: the weights, and how they are run."""
    return {**model.provenance, "dtype": source.model.dtype, "device": str(model.model.device)}


def drawn_provenance(source: GenerationInputs, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return where draws of a model come from: what it is, what was asked, the seed, the versions."""
    drawn_by = {
        "prompts": source.prompts,
        "system": source.system,
        "outcomes": source.outcomes.model_dump(mode="json"),
        "seed": source.seed,
    }
    sha256 = hashlib.sha256(json.dumps(drawn_by, sort_keys=True, default=document_of).encode()).hexdigest()
    return {"model": dict(identity), "seed": source.seed, "source_sha256": sha256, "versions": versions()}


def check_resumed(folder: RunFolder, provenance: dict[str, Any]) -> None:
    """Refuse to go on with other weights or libraries than the pieces that are there were made with."""
    part = folder.part("model", 0)
    before = part.read()
    if before is None:
        part.write(provenance)
    elif before != provenance:
        key = next(key for key in provenance if before.get(key) != provenance[key])
        raise RunError(
            f"{folder.path} was begun with {key} {before.get(key)}, now it is {provenance[key]}; name another folder"
        )


def _columns(
    source: GenerationInputs, outcomes: CandidatesSpec, drawn: dict[tuple[int, int], dict[str, Any]]
) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in ("prompt", "prompt_text", "text", "count", "weight")}
    known = [sample.keys() - {name for name in sample if sample[name] is None} for sample in drawn.values()]
    known_of = ("log_probability", "log_reference", "is_finished", "token_ids")
    of_first = [name for name in known_of if any(name in keys for keys in known)]
    columns.update({name: [] for name in of_first})
    for b, prompt in enumerate(source.prompts):
        samples = [drawn[b, j] for j in range(outcomes.per_prompt)]
        first = {sample["text"]: sample for sample in reversed(samples)}
        ratios = None if outcomes.proposal is None else _log_ratios(samples)
        for draft in merge([sample["text"] for sample in samples], ratios):
            row = {"prompt": b, "prompt_text": str(prompt), **asdict(draft)}
            row.update({name: first[draft.text][name] for name in of_first})
            for name, values in columns.items():
                values.append(row[name])
    return columns
