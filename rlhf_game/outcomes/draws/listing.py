"""The exact game that draws are of, where all responses of the model can be listed: what ``audit`` plays.

A report's utility in a run of draws is, in expectation over the tape, that of the affine rule over all texts. So where
these can be listed, what lies gain on the table of them is what they gain in expectation from a tape.
"""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from rlhf_game.errors import InputError
from rlhf_game.files.documents import parse_json, read_text
from rlhf_game.outcomes.draws.draws_spec import DrawsSpec
from rlhf_game.outcomes.generation import open_model
from rlhf_game.outcomes.run_config import Configuration, TrieSpec
from rlhf_game.outcomes.run_pipeline import run_over_texts

if TYPE_CHECKING:
    from rlhf_game.training_backends.lm.models import LanguageModel

MOST: Final = 200_000
"""Sequences of tokens that are listed for a prompt at most."""
ROUNDING: Final = 1e-9
"""Of the mass that a complete list has."""


def exact_game(configuration: Configuration) -> dict[str, Any]:
    """Return the exact game of a configuration with outcomes draws, as a game file says it.

    Raises InputError when the outcomes are others, come from an endpoint or are not drawn from the model's own
    distribution, or when there are too many responses to list.
    """
    spec, model = configuration.fields.outcomes, configuration.fields.model
    if not isinstance(spec, DrawsSpec) or model is None:
        raise InputError(f"outcomes: must be draws for their exact game to be audited, found {spec.kind}")
    fault = "must be a model on this machine" if model.endpoint is not None else None
    if (spec.temperature, spec.top_k, spec.top_p) != (1.0, 0, 1.0):
        fault = "must be drawn with temperature 1, top_k 0 and top_p 1"
    if fault is None:
        sequences = vocabulary(open_model(model, configuration.source.base)) ** spec.max_new_tokens
        if sequences > MOST:
            fault = f"must have at most {MOST} responses, found {sequences:.3g} of {spec.max_new_tokens} tokens"
    if fault is not None:
        raise InputError(f"outcomes: {fault}, for all of them to be listed; nothing was audited")
    trie = TrieSpec(kind="trie", mass=1.0, max_tokens=spec.max_new_tokens, max_nodes=MOST)
    fields = configuration.fields.model_copy(update={"outcomes": trie})
    listed = replace(configuration, fields=fields, source=replace(configuration.source, outcomes=trie))
    with TemporaryDirectory() as folder:
        run_over_texts(listed, Path(folder))
        document: dict[str, Any] = parse_json(read_text(Path(folder) / "game.json"), "game.json")
    if max(document.pop("missing")) > ROUNDING:
        raise InputError("outcomes: must be responses that can all be listed; some were not found")
    document.pop("bounds")
    for group in document["groups"]:
        most = spec.ceilings.get(group["name"], 1.0)
        group["reward"] = [[min(reward, most) for reward in rewards] for rewards in group["reward"]]
    return document


def vocabulary(model: "LanguageModel") -> int:
    """Return how many tokens may come next."""
    return int(model.model.get_output_embeddings().weight.shape[0])
