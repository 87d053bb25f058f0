"""``settle --policy``: the bill of any checkpoint, whoever trained it, as of a run with outcomes finetuned."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_game.errors import InputError
from rlhf_game.files.documents import kind
from rlhf_game.outcomes.finetuned.finetuned_spec import OF_DRAWS, FinetunedSpec
from rlhf_game.outcomes.run_config import Configuration, parse_config, read_document


def read_checkpoint(
    groups: str | os.PathLike[str], policy: str, reference: str | None, settings: Sequence[str] = ()
) -> Configuration:
    """Return the run that settles a checkpoint: nothing is trained in it.

    groups: a run's configuration (prompts, strength, groups, ...) whose ``outcomes`` say how to draw, if anything.
    policy, reference: folders from here, or names; without a reference the configuration names the model. Raises
    InputError that names file and field.
    """
    document, name = read_document(groups, "run", settings)
    if reference is not None:
        given = document.get("model")
        document["model"] = {**(given if isinstance(given, Mapping) else {}), "name": here(reference)}
    elif document.get("model") is None:
        raise InputError(f"--reference: must name the untouched model, or {name} its model; found neither")
    document["outcomes"] = {**outcomes_of(document, name, "--policy"), "policy": here(policy)}
    return parse_config(document, name, Path(groups).parent)


def outcomes_of(document: Mapping[str, Any], name: str, option: str) -> dict[str, Any]:
    """Return how a configuration draws, of kind finetuned, without what it says of a training, which is over.

    Raises InputError where it is of another kind.
    """
    outcomes = document.get("outcomes", {})
    if not isinstance(outcomes, Mapping) or outcomes.get("kind", "finetuned") != "finetuned":
        found = outcomes.get("kind") if isinstance(outcomes, Mapping) else kind(outcomes)
        raise InputError(f"{name}: outcomes: must be those of kind finetuned with {option}, found {found}")
    of_training = FinetunedSpec.model_fields.keys() - OF_DRAWS
    return {**{key: value for key, value in outcomes.items() if key not in of_training}, "kind": "finetuned"}


def here(name: str) -> str:
    """Return a folder or file by its whole path, since a configuration's paths start from its own folder."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name
