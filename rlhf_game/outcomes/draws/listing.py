"""What ``audit`` plays of draws: the exact game where all responses of the model can be listed, else the tape's.

A report's utility in a run of draws is, in expectation over the tape, that of the affine rule over all texts. So where
these can be listed, what lies gain on the table of them is what they gain in expectation from a tape. Where they
cannot, the texts that the tape holds are candidates like others: the same rule over them alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal, final

import numpy as np

from rlhf_game.errors import InputError, RunError
from rlhf_game.files.documents import parse_json, read_text
from rlhf_game.files.drawn import MAIN, DrawnGame, read_drawn_game
from rlhf_game.files.games import SUFFIXES
from rlhf_game.files.run_folder import read_parquet
from rlhf_game.files.sampled import space_of
from rlhf_game.outcomes.draws.draws_spec import DrawsSpec
from rlhf_game.outcomes.generation import open_model
from rlhf_game.outcomes.run_config import Configuration, TrieSpec, is_run, read_config
from rlhf_game.outcomes.run_pipeline import run_over_texts
from rlhf_game.outcomes.verifying import configuration_of
from rlhf_game.registry import refusing_code

MOST: Final = 200_000
"""Sequences of tokens that are listed for a prompt at most."""
ROUNDING: Final = 1e-9
"""Of the mass that a complete list has."""


@final
@dataclass(frozen=True, eq=False)
class PlayedDraws:
    """What an audit of draws plays, and where its bounds hold."""

    document: dict[str, Any]
    """As a game file says it."""
    outcomes: Literal["all", "tape"]
    bounds_hold: str
    """What is said beside every bound."""
    said: str
    """In one line: what was audited, and where it is not the exact game, why, and what is proved instead."""
    sha256: str | None = None
    """Of the run's game, if it is one of a run."""

    @property
    def asked(self) -> dict[str, str]:
        """What an audit's document says of it."""
        return {"outcomes": self.outcomes, "bounds_hold": self.bounds_hold, "audited": self.said}


def played(file: Path, *, is_finished: bool, trusted: bool = False, settings: Sequence[str] = ()) -> PlayedDraws | None:
    """Return what an audit plays of a configuration with draws, or of the game file of a finished run with draws.

    None where the file is another game. trusted, settings: see played_run and ``read_config``.
    """
    if is_finished and space_of(file) == "draws":
        if settings:
            raise InputError(f"--set: must come with a game or a configuration, found the finished run {file.parent}")
        return played_run(file.parent, trusted=trusted)
    if file.suffix.lower() in SUFFIXES and is_run(file):
        return _played_exact(read_config(file, settings))
    return None


def played_run(folder: Path, *, trusted: bool = False) -> PlayedDraws:
    """Return the exact game of a finished run with outcomes draws; where there is none, that of the tape's candidates.

    folder: as it was written. trusted: whether code that its configuration names may run, which scores the responses
    that are listed. Paths in it start from the current folder.
    """
    game = read_drawn_game(folder / "game.json")
    try:
        with refusing_code(unless=trusted):
            listed = _played_exact(configuration_of(folder, None))
        _check_weights(listed.document["provenance"]["candidates"]["model"], game)
        return replace(listed, sha256=game.sha256)
    except (InputError, RunError) as error:
        return _played_tape(game, str(error).rstrip("."))


def _check_weights(listed: Mapping[str, Any], game: DrawnGame) -> None:
    """Raise InputError when the model whose responses were listed is not the one that the tape was drawn from."""
    drawn = read_parquet(game.folder / game.fields.tape.file)[1]["model"]
    for key in ("sha256", "revision"):
        if listed.get(key) != drawn.get(key):
            raise InputError(
                f"model: {drawn.get('model')} must be the model that the run drew from, {key} {drawn.get(key)}, found "
                f"{listed.get(key)}"
            )


def _played_exact(configuration: Configuration) -> PlayedDraws:
    return PlayedDraws(
        exact_game(configuration),
        "all",
        "in expectation over draws",
        "audited: the exact game over all responses; what a lie gains in it is what it gains in expectation over draws",
    )


def _played_tape(game: DrawnGame, why: str) -> PlayedDraws:
    """Return the game over the distinct whole texts among a tape's proposals, with how often each was proposed."""
    fields, columns = game.fields, read_parquet(game.folder / game.fields.tape.file)[0]
    rows: list[dict[str, list[int]]] = [{} for _ in range(fields.prompts)]  # of each prompt's texts
    for k, part in enumerate(columns["part"]):
        if part == MAIN and columns["is_whole"][k]:
            rows[columns["prompt"][k]].setdefault(columns["response"][k], []).append(k)
    counts = [np.array([len(alike) for alike in of.values()]) for of in rows]
    document = {
        "space": "table",
        "reference": [(of / of.sum()).tolist() for of in counts],
        "outcomes": [list(of) for of in rows],
        "regularizer": fields.regularizer,
        "strength": fields.strength,
        "normalization": "none",
        "payment": fields.payment,
        "groups": [
            {
                "name": group.name,
                "size": group.size,
                "reward": [
                    [min(columns[f"reward:{group.name}"][alike[-1]], group.ceiling) for alike in of.values()]
                    for of in rows
                ],
            }
            for group in fields.groups
        ],
        **({} if fields.weights is None else {"weights": fields.weights}),
    }
    texts = sum(map(len, rows))
    said = (
        f"not audited: the exact game, for {why}. What is proved of it is the rule, by theorem, and what the receipt "
        f"certifies, in expectation over draws. Audited instead: the rule over the {texts} texts on the tape "
        "alone, as if they had been candidates; that says nothing about texts that are not on it"
    )
    return PlayedDraws(document, "tape", "on the tape's texts alone", said, game.sha256)


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
    if 2**spec.max_new_tokens > MOST:  # of any vocabulary: the model need not be loaded to know it
        fault = fault or f"must have at most {MOST} responses, found those of {spec.max_new_tokens} tokens"
    if fault is None:
        sequences = open_model(model, configuration.source.base).vocabulary ** spec.max_new_tokens
        if sequences > MOST:
            fault = f"must have at most {MOST} responses, found {sequences:.3g} of {spec.max_new_tokens} tokens"
    if fault is not None:
        raise InputError(f"outcomes: {fault}, for all of them to be listed")
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
