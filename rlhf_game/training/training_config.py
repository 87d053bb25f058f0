"""The configuration of a training, read and checked; each ``kind`` has a module of its own."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from rlhf_game.errors import InputError
from rlhf_game.files.documents import kind
from rlhf_game.files.parts import PLACES, hashes_of_parts
from rlhf_game.files.schema import parse_model
from rlhf_game.outcomes.run_config import hash_of, hashes_of_code, hashes_of_models, read_document
from rlhf_game.registry import find, names
from rlhf_game.rewards.nested import rewards_in
from rlhf_game.training.kinds import TrainingFields


@final
@dataclass(frozen=True)
class TrainingConfiguration:
    """A configuration with what it refers to."""

    fields: TrainingFields
    base: Path
    files: Mapping[str, str]
    """The sha256 of each file that is part of the configuration, and of the weights in each folder that is."""

    def document(self) -> dict[str, Any]:
        """Return the canonical content: what config.json holds and what must not change in a folder."""
        return {**self.fields.model_dump(mode="json", exclude_none=True), "files": dict(self.files)}


def read_training(path: str | os.PathLike[str], settings: Sequence[str] = ()) -> TrainingConfiguration:
    """Return the configuration of a .yaml or .json file. settings: fields to set, each ``path=value``.

    Raises InputError that names file and field.
    """
    document, name = read_document(path, "training", settings)
    wanted = document.get("kind")
    base = Path(path).parent
    if not isinstance(wanted, str) or not (wanted in names("train") or ":" in wanted):
        raise InputError(f"{name}: kind: must be {', '.join(names('train'))} or code ({PLACES}), found {kind(wanted)}")
    try:
        part: type[TrainingFields] = find("train", wanted, base)
        files = hashes_of_parts([("train", wanted)], base)
    except InputError as error:
        raise InputError(f"{name}: kind: {error}") from None
    fields = parse_model(part, document, name)
    fields.check(name)
    for field, file in fields.files().items():
        try:
            files[file] = hash_of(file, base)
        except InputError as error:
            raise InputError(f"{name}: {field}: {error}") from None
    for field, model in fields.models().items():
        try:
            files |= hashes_of_models([model], base)
        except InputError as error:
            raise InputError(f"{name}: {field}: {error}") from None
    for place, reward in rewards_in(fields):
        try:
            files |= hashes_of_code(reward.code(), base, place)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    return TrainingConfiguration(fields, base, files)
