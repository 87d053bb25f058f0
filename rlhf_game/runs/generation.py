"""The first stage: draw or find the responses. It is given a ``Source``, in which there is nothing of any group."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, final

from rlhf_game.errors import RunError
from rlhf_game.runs.asked import ask_candidates, open_responder, sample_of
from rlhf_game.runs.candidates import merge
from rlhf_game.runs.config import CandidatesSpec, Source, TrieSpec
from rlhf_game.runs.directory import Progress, RunFolder, parquet_bytes, read_parquet, versions
from rlhf_game.runs.prompts import PromptsSpec
from rlhf_game.runs.prompts_game import find_prompts, open_chats, prompts_provenance
from rlhf_game.runs.tries import find_responses

if TYPE_CHECKING:
    from rlhf_game.training_backends.models import LanguageModel
    from rlhf_game.training_backends.sampling import Sampling


@final
@dataclass(frozen=True)
class Drawn:
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


def generate(source: Source, folder: RunFolder, progress: Progress) -> None:
    """Write candidates.parquet; pieces of an interrupted generation are used, the same bytes come out."""
    if folder.candidates.exists():
        return
    if isinstance(source.outcomes, PromptsSpec):
        _find_prompts(source, source.outcomes, folder, progress)
        return
    if source.model.endpoint is not None:
        _ask(source, folder, progress)
        return
    from rlhf_game.training_backends import load_language_model

    progress("load the language model", 0, 1)
    named = source.model
    model = load_language_model(
        named.name, revision=named.revision, device=named.device, dtype=named.dtype, base=source.base
    )
    progress("load the language model", 1, 1)
    provenance = drawn_provenance(source, identity_of(source, model))
    check_resumed(folder, provenance)
    if isinstance(source.outcomes, TrieSpec):
        columns, missing = find_responses(source, model, source.outcomes, folder, progress)
        provenance["missing"] = missing
    else:
        assert isinstance(source.outcomes, CandidatesSpec)  # a policy that is trained has a pipeline of its own
        columns = _draw(source, model, source.outcomes, folder, progress)
    folder.write(folder.candidates, parquet_bytes(columns, provenance))
    folder.drop_parts()


def _find_prompts(source: Source, outcomes: PromptsSpec, folder: RunFolder, progress: Progress) -> None:
    chats = open_chats(source, outcomes, folder.path)
    provenance = prompts_provenance(source, outcomes, chats)
    check_resumed(folder, provenance)
    columns, found = find_prompts(source, outcomes, chats, progress)
    folder.write(folder.candidates, parquet_bytes(columns, {**provenance, "system_prompts": found}))
    folder.drop_parts()


def _ask(source: Source, folder: RunFolder, progress: Progress) -> None:
    """Draw candidates from an endpoint; the answers that are kept are the pieces of an interrupted generation."""
    assert isinstance(source.outcomes, CandidatesSpec)  # nothing else is asked of an endpoint here
    responder = open_responder(source, folder.path)
    provenance = drawn_provenance(source, responder.model.identity)
    check_resumed(folder, provenance)
    replies = ask_candidates(source, source.outcomes, responder, progress)
    places = [(b, j) for b in range(len(source.prompts)) for j in range(source.outcomes.per_prompt)]
    drawn = dict(zip(places, map(sample_of, replies), strict=True))
    folder.write(folder.candidates, parquet_bytes(_columns(source, source.outcomes, drawn), provenance))
    folder.drop_parts()


def _draw(
    source: Source, model: "LanguageModel", outcomes: CandidatesSpec, folder: RunFolder, progress: Progress
) -> dict[str, list[Any]]:
    from rlhf_game.training_backends.sampling import plan_batches, sample_batch

    encoded = [model.encode_prompt(prompt, source.system) for prompt in source.prompts]
    batches = plan_batches([len(ids) for ids in encoded], outcomes.per_prompt, outcomes.batch_size)
    drawn: dict[tuple[int, int], dict[str, Any]] = {}
    for number, batch in enumerate(batches):
        progress("draw candidates", number, len(batches))
        part = folder.part("candidates", number)
        found = part.read()
        if found is None:
            samples = sample_batch(model, encoded, batch, seed=source.seed, sampling=_sampling(outcomes))
            found = [asdict(sample) for sample in samples]
            part.write(found)
        drawn.update(zip(batch, found, strict=True))
    progress("draw candidates", len(batches), len(batches))
    return _columns(source, outcomes, drawn)


def read_drawn(folder: RunFolder) -> tuple[Drawn, dict[str, Any]]:
    """Return the candidates that were drawn, and where they come from."""
    columns, provenance = read_parquet(folder.candidates)
    ids = tuple(columns["token_ids"]) if "token_ids" in columns else None
    return Drawn(tuple(columns["prompt"]), tuple(columns["text"]), tuple(columns["weight"]), ids), provenance


def _sampling(outcomes: CandidatesSpec) -> "Sampling":
    from rlhf_game.training_backends.sampling import Sampling

    return Sampling(outcomes.max_new_tokens, outcomes.temperature, outcomes.top_k, outcomes.top_p)


def identity_of(source: Source, model: "LanguageModel") -> dict[str, Any]:
    """Return what draws on this machine: the weights, and how they are run."""
    return {**model.provenance, "dtype": source.model.dtype, "device": str(model.model.device)}


def drawn_provenance(source: Source, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return where draws of a model come from: what it is, what was asked, the seed, the versions."""
    drawn_by = {
        "prompts": source.prompts,
        "system": source.system,
        "outcomes": source.outcomes.model_dump(mode="json"),
        "seed": source.seed,
    }
    sha256 = hashlib.sha256(json.dumps(drawn_by, sort_keys=True).encode()).hexdigest()
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
    source: Source, outcomes: CandidatesSpec, drawn: dict[tuple[int, int], dict[str, Any]]
) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in ("prompt", "prompt_text", "text", "count", "weight")}
    known = [sample.keys() - {name for name in sample if sample[name] is None} for sample in drawn.values()]
    of_first = [name for name in ("log_probability", "is_finished", "token_ids") if any(name in keys for keys in known)]
    columns.update({name: [] for name in of_first})
    for b, prompt in enumerate(source.prompts):
        samples = [drawn[b, j] for j in range(outcomes.per_prompt)]
        first = {sample["text"]: sample for sample in reversed(samples)}
        for draft in merge([sample["text"] for sample in samples]):
            row = {"prompt": b, "prompt_text": prompt, **asdict(draft)}
            row.update({name: first[draft.text][name] for name in of_first})
            for name, values in columns.items():
                values.append(row[name])
    return columns
