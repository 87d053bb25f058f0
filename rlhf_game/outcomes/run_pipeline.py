"""``rlhf-game run``: draw candidates, score them, settle; each stage is done once and an interrupted one goes on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

from rlhf_game.engines import Engine
from rlhf_game.errors import InputError
from rlhf_game.files.build import settle
from rlhf_game.files.games import Game, read_game
from rlhf_game.files.parts import moved
from rlhf_game.files.receipts import Receipt, lay_out, read_receipts, receipt_of
from rlhf_game.files.run_folder import Progress, RunFolder, open_folder, unwatched, versions
from rlhf_game.files.seals import Seal
from rlhf_game.files.tables import Table, digest, from_lists
from rlhf_game.outcomes.draws.draws_pipeline import DrawsRun, run_draws
from rlhf_game.outcomes.draws.draws_spec import DrawsSpec
from rlhf_game.outcomes.finetuned.finetuned_run import FinetunedRun, run_finetuned
from rlhf_game.outcomes.finetuned.finetuned_spec import FinetunedSpec
from rlhf_game.outcomes.generation import DrawnCandidates, generate, read_drawn
from rlhf_game.outcomes.over_members import over_members
from rlhf_game.outcomes.prompts.prompts_game import SystemPrompt, over_questions, settled_prompts, value_prompts
from rlhf_game.outcomes.run_config import Configuration, RunConfig
from rlhf_game.outcomes.scoring import counted, member_rewards, read_rewards, score
from rlhf_game.outcomes.sealing import committed, keep_seal

UNIT = [0.0, 1.0]
"""The range of every calibration, and so of every reward of every response, found or not."""


@final
@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A finished run."""

    folder: Path
    prompts: tuple[str, ...]
    drawn: DrawnCandidates
    game: Game
    receipt: Receipt
    system_prompts: tuple[SystemPrompt, ...] = ()
    """The outcomes, where they are system prompts."""


def run(
    configuration: Configuration,
    path: Path,
    progress: Progress | None = None,
    *,
    engine: Engine | None = None,
    seal: Seal | None = None,
) -> FinishedRun | FinetunedRun | DrawsRun:
    """Do what is left of the run in the folder ``path``, and return it finished.

    engine: where trainings and scorings that do not need each other are done. None: here, but for trainings where there
    are several GPUs: then in a process for each. seal: what the reports were committed to by.
    Raises InputError when the configuration is wrong or is not the folder's own, or a file in the folder is not as the
    run wrote it; RunError when the folder is in use, or a reward or a training fails.
    """
    if not isinstance(configuration.fields.outcomes, FinetunedSpec | DrawsSpec):
        return run_over_texts(configuration, path, progress, engine, seal)
    with open_folder(path, configuration) as folder:
        keep_seal(configuration, folder, seal)
        if isinstance(configuration.fields.outcomes, DrawsSpec):
            return run_draws(configuration, folder, progress)
        return run_finetuned(configuration, folder, progress or unwatched, engine)


def run_over_texts(
    configuration: Configuration,
    path: Path,
    progress: Progress | None = None,
    engine: Engine | None = None,
    seal: Seal | None = None,
) -> FinishedRun:
    """Do what is left of a run whose outcomes are texts: candidates, a trie or system prompts (see ``run``)."""
    watch = progress or unwatched
    with open_folder(path, configuration) as folder:
        keep_seal(configuration, folder, seal)
        folder.check()
        generate(configuration.source, folder, watch)  # the reports are not among what it is given
        drawn, origin = read_drawn(folder)
        score(configuration, drawn, folder, watch, engine)
        watch("settle", 0, 1)
        _write_game(configuration, drawn, origin, folder)
        game = read_game(folder.game, trusted=True)
        _write_receipt(game, configuration, drawn, origin, folder)
        watch("settle", 1, 1)
        (receipt,) = read_receipts(folder.receipt)
        return FinishedRun(path, configuration.source.words, drawn, game, receipt, settled_prompts(origin, receipt))


def _write_game(
    configuration: Configuration, drawn: DrawnCandidates, origin: dict[str, Any], folder: RunFolder
) -> None:
    if folder.game.exists():
        return
    rewards, scored = read_rewards(folder)
    prompts = configuration.source.words
    document = game_document(configuration.fields, prompts, drawn, origin, rewards)
    for role in ("regularizer", "payment", "training"):  # a path starts from another folder there
        if role in document:
            document[role] = moved(role, document[role], configuration.source.base, folder.path)
    provenance = {"prompts": prompts, "candidates": origin, "scores": scored, **document.pop("provenance")}
    folder.write(folder.game, lay_out({**document, "provenance": provenance}).encode())


def game_document(
    fields: RunConfig,
    prompts: Sequence[str],
    drawn: DrawnCandidates,
    origin: Mapping[str, Any],
    rewards: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """Return what game.json says, given the candidates and each group's rewards of them, but for most provenance."""
    provenance: dict[str, Any] = {}
    if "system_prompts" in origin:
        texts, valuations, errors = value_prompts(origin, len(prompts), rewards)
        reference: list[Any] = [1.0 / len(texts)] * len(texts)
        outcomes: list[Any] = texts
        values: dict[str, list[Any]] = dict(valuations)
        provenance["standard_errors"] = errors
    else:
        reference, outcomes = drawn.by_prompt(drawn.weights), drawn.by_prompt(drawn.texts)
        values = {name: drawn.by_prompt(reward) for name, reward in rewards.items()}
    space = {"space": "table", "reference": reference, "outcomes": outcomes, "regularizer": fields.regularizer}
    document: dict[str, Any] = {
        **({**space, "strength": fields.strength} if fields.strength > 0 else {"space": "menu", "outcomes": outcomes}),
        "normalization": fields.normalization,
        "payment": fields.payment,
        **({} if fields.training is None else {"training": fields.training}),
        "groups": [{"name": group.name, "size": group.size, "reward": values[group.name]} for group in fields.groups],
        "provenance": provenance,
    }
    if "missing" in origin:
        document |= {"missing": origin["missing"], "bounds": UNIT}
    if "effective_sample_size" in origin:
        document["effective_sample_size"] = origin["effective_sample_size"]
    if fields.weights is not None:
        document["weights"] = fields.weights
    return document


def spreads(
    config: RunConfig,
    game: Game,
    prompts: Sequence[str],
    drawn: DrawnCandidates,
    origin: Mapping[str, Any],
    folder: RunFolder,
) -> dict[str, Any]:
    """Return how far the money depends on questions, over system prompts, and on the members of ensembles, or None."""
    rewards = read_rewards(folder)[0]

    def table_of(name: str, own: Sequence[float]) -> Table:
        document = game_document(config, prompts, drawn, origin, {**rewards, name: own})
        (reward,) = (group["reward"] for group in document["groups"] if group["name"] == name)
        return from_lists(reward)

    found = {"over_members": _members_spread(config, game, table_of, folder)}
    if "system_prompts" in origin:
        found["over_questions"] = over_questions(game, origin, len(prompts), rewards, config.seed)
    return found


def _members_spread(
    config: RunConfig, game: Game, table_of: Callable[[str, Sequence[float]], Table], folder: RunFolder
) -> dict[str, Any] | None:
    """Return the bills under the members of ensembles (see over_members); None where no group has one.

    table_of: gives the table of a group in the game, from its rewards. Where a member cannot be a report (its own map
    or the domain refuses it), ``unknown`` says why.
    """
    try:
        tables = {name: [table_of(name, own) for own in each] for name, each in member_rewards(config, folder).items()}
        return over_members(replace(game, name="a member"), tables, config.seed) if tables else None
    except InputError as error:
        return {"unknown": str(error)}


def _write_receipt(
    game: Game, configuration: Configuration, drawn: DrawnCandidates, origin: dict[str, Any], folder: RunFolder
) -> None:
    if folder.receipt.exists():
        return
    files = {path.name: digest(path) for path in (folder.candidates, folder.scores)}
    provenance = {
        "config_sha256": configuration.sha256,
        "files": files,
        "model": origin["model"],
        "seed": configuration.source.seed,
        "versions": versions(),
        **counted(folder),
    }
    receipt = receipt_of(game, settle(game))
    if found := settled_prompts(origin, receipt):
        provenance["system_prompts"] = [asdict(one) for one in found]
    over = spreads(configuration.fields, game, configuration.source.words, drawn, origin, folder)
    provenance |= {what: spread for what, spread in over.items() if spread is not None}
    written = committed(configuration, folder, receipt.with_provenance(provenance))
    folder.workspace.finish(folder.receipt, written.text().encode())
