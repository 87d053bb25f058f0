"""``settle --draws``: the bill of a checkpoint whose draws somebody made, from a file of them."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.files.conversations import Text, filled, response_of, text_of
from rlhf_game.files.documents import kind, shown
from rlhf_game.files.policies import folder_digest
from rlhf_game.files.rows import number_of, read_rows
from rlhf_game.files.run_folder import Progress, RunFolder, parquet_bytes, versions
from rlhf_game.files.sampled import FINAL, REFERENCE
from rlhf_game.files.schema import parse_model
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.sampled.evidence import other_law
from rlhf_game.outcomes.checkpoint_bill import here, outcomes_of
from rlhf_game.outcomes.finetuned.finetuned_draws import load_given, load_reference, place_of_policy, samples_file
from rlhf_game.outcomes.finetuned.finetuned_run import FinetunedRun, settle_draws
from rlhf_game.outcomes.finetuned.finetuned_training import spec_of
from rlhf_game.outcomes.log_probabilities import check_total, is_near, log_probability_of, slack
from rlhf_game.outcomes.run_config import (
    Configuration,
    GenerationInputs,
    RunConfig,
    check_config,
    hash_of_policy,
    read_document,
)
from rlhf_game.outcomes.scoring import RAW
from rlhf_game.outcomes.served_draws import other_samplings
from rlhf_game.rewards.reward_specs import calibration_of

if TYPE_CHECKING:
    from rlhf_game.training_backends.lm.models import LanguageModel

STEPS: Final = ("step", "global_step", "training_step", "policy_version", "param_version")
"""Columns of rollouts that say after how many updates a policy drew a row."""
OF_A_TRAINING: Final = frozenset({*STEPS, "epoch"})
"""Columns that only rollouts of a training have: they are draws of one policy after the other."""
SOURCES: Final = {"policy": FINAL, "reference": REFERENCE}
LOGS: Final = ("log_policy", "log_reference")
OWN: Final = frozenset({"prompt", "response", "source", *LOGS, "token_ids", "is_finished"})
"""Columns that say something else than a group's rewards."""


@final
@dataclass(frozen=True)
class _Row:
    where: str
    prompt: Text
    response: Text
    policy: str
    log_policy: float | None
    log_reference: float | None
    token_ids: list[int] | None
    is_finished: bool
    """Whether it ended by itself; asked for where there are no token_ids."""
    scores: tuple[float, ...]
    """Of each group, as the file has them."""


@final
@dataclass(frozen=True, eq=False)
class GivenDraws:
    """A file's draws, and the run that settles them."""

    name: str
    configuration: Configuration
    rows: tuple[_Row, ...]


def read_given_draws(
    draws: Path, groups: str | os.PathLike[str], policy: str | None, reference: str | None, settings: Sequence[str] = ()
) -> GivenDraws:
    """Return the draws of a file, and the configuration of the run that settles them.

    groups: as for ``read_checkpoint``; a group's rewards are the numbers in the column of its name. policy, reference:
    where both are named, log probabilities are computed anew under them. Raises InputError that names file and field,
    also where the rows are rollouts of a training.
    """
    document, name = read_document(groups, "run", settings)
    if (policy is None) != (reference is None):
        raise InputError(f"--{'reference' if reference is None else 'policy'}: must be given where the other is")
    outcomes = {**outcomes_of(document, name, "--draws"), "draws": str(draws.resolve())}
    document["outcomes"] = outcomes if policy is None else {**outcomes, "policy": here(policy)}
    document["model"] = None if reference is None else {"name": here(reference)}
    document["prompts"] = None
    fields = fields_of_columns(document, name, OWN | OF_A_TRAINING)
    base = Path(groups).parent
    found, sha256 = read_rows(draws, "draws")
    rows = tuple(_row(where, row, [group.name for group in fields.groups], policy is not None) for where, row in found)
    prompts = tuple(dict.fromkeys(row.prompt for row in rows))
    files = {"draws": sha256} | ({} if policy is None else hash_of_policy(here(policy), base))
    _check_logs(rows, shown(str(draws), 200))
    source = GenerationInputs(fields.model, prompts, {}, fields.system, fields.outcomes, fields.seed, base)
    _check_sources(rows, prompts, shown(str(draws), 200))
    return GivenDraws(shown(str(draws), 200), Configuration(fields, source, files), rows)


def fields_of_columns(document: dict[str, Any], name: str, taken: frozenset[str]) -> RunConfig:
    """Return a configuration whose groups' rewards are the columns of their names.

    taken: names of columns that say something else. Raises InputError that names the file and the field, also where a
    group says another reward: it would not be asked.
    """
    for i, group in enumerate(document["groups"] if isinstance(document.get("groups"), list) else ()):
        if isinstance(group, dict) and isinstance(group.get("name"), str):
            own = {"column": group["name"]}
            if group.get("reward") not in (None, own, {"kind": "column", **own}):
                raise InputError(
                    f"{name}: groups[{i}].reward: must be left out, as rewards are in the column "
                    f"{shown(group['name'])!r} of the rows, found {kind(group['reward'])}"
                )
            group["reward"] = own
    fields = parse_model(RunConfig, document, name)
    check_config(fields, name)
    for i, group in enumerate(fields.groups):
        if group.name in taken:
            raise InputError(f"{name}: groups[{i}].name: must be a column of rewards, found {group.name!r}")
    return fields


def _row(where: str, row: Any, names: Sequence[str], is_named: bool) -> _Row:
    """Return a row. is_named: whether the models are, so that it need not bring log probabilities."""
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: must be a mapping with prompt and response, found {kind(row)}")
    logged = next((column for column in row if column in OF_A_TRAINING and row[column] is not None), None)
    if logged is not None:
        raise InputError(
            f"{where}: {logged}: must not be here: rollouts of a training are draws of one policy after the other, "
            "which give curves (report FILE --groups FILE) but never a certificate; draw anew from the checkpoint"
        )
    for column in ("prompt", "response", "source", *names):
        if row.get(column) is None:
            raise InputError(f"{where}: {shown(column)}: must be given, found nothing")
    if row["source"] not in tuple(SOURCES):
        raise InputError(f"{where}: source: must be policy or reference, found {shown(str(row['source']))!r}")
    logs = {key: log_probability_of(row[key], f"{where}: {key}") for key in LOGS if row.get(key) is not None}
    lacking = next((key for key in LOGS if key not in logs), None)
    if row["source"] == "policy" and lacking is not None and not is_named:
        raise InputError(f"{where}: {lacking}: must be given unless --policy and --reference are, found nothing")
    return _Row(
        where,
        filled(text_of(row["prompt"], f"{where}: prompt"), f"{where}: prompt"),
        response_of(row["response"], f"{where}: response"),
        SOURCES[row["source"]],
        logs.get("log_policy"),
        logs.get("log_reference"),
        _ids(row.get("token_ids"), f"{where}: token_ids"),
        _is_finished(row.get("is_finished"), f"{where}: is_finished"),
        tuple(number_of(row[name], f"{where}: {shown(name)}") for name in names),
    )


def _is_finished(value: Any, where: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise InputError(f"{where}: must be true or false, found {kind(value)}")
    return value is not False


def _ids(value: Any, where: str) -> list[int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(type(one) is int and one >= 0 for one in value):
        raise InputError(f"{where}: must be a list of integers >= 0, found {kind(value)}")
    return value


def _check_logs(rows: Sequence[_Row], name: str) -> None:
    """Raise InputError where the same tokens have two log probabilities under one model, or texts more than 1 of all.

    Without token_ids nothing else is known: the same text may be other tokens.
    """
    for column in LOGS:
        known: dict[Any, float] = {}
        of_texts: dict[Text, dict[str, float]] = {}
        for row in rows:
            said = getattr(row, column)
            if said is None:
                continue
            of_texts.setdefault(row.prompt, {}).setdefault(str(row.response), said)
            if row.token_ids is None:
                continue
            before = known.setdefault((row.prompt, tuple(row.token_ids)), said)
            if not is_near(said, before):
                raise InputError(
                    f"{row.where}: {column}: must be that of the same response before it, {before:g}, found {said:g}"
                )
        for logs in of_texts.values():
            check_total(logs.values(), f"{name}: {column}")


def _check_sources(rows: Sequence[_Row], prompts: Sequence[Text], name: str) -> None:
    """Raise InputError unless every prompt has draws of both, as many as every other."""
    found = Counter((row.policy, row.prompt) for row in rows)
    for policy in (REFERENCE, FINAL):
        counts = [found[policy, prompt] for prompt in prompts]
        source = next(source for source, label in SOURCES.items() if label == policy)
        if not counts or min(counts) < 4 or len(set(counts)) > 1:
            raise InputError(
                f"{name}: source: must be {source} in as many rows of each prompt, at least 4 (two settle and two "
                f"choose), found {', '.join(map(str, counts[:8])) or 'no rows'}"
            )


def settle_given(given: GivenDraws, folder: RunFolder, watch: Progress) -> FinetunedRun:
    """Settle the draws in an open folder. Raises InputError where they are not draws of the checkpoint."""
    configuration = given.configuration
    if not samples_file(folder).exists():
        _write(given, folder, watch)
    return settle_draws(configuration, folder, watch)


def _write(given: GivenDraws, folder: RunFolder, watch: Progress) -> None:
    """Write samples.parquet and scores.parquet, as a run with outcomes finetuned does."""
    configuration, rows = given.configuration, given.rows
    spec, source = spec_of(configuration), configuration.source
    origin: dict[str, Any] = {"model": None, "seed": source.seed, "versions": versions(), "settlement_seed": None,
                              "seed_from": "draws", "policy_sha256": None, "trainings": []}  # fmt: skip
    names: list[str] = []
    policy, reference = (np.array([[getattr(row, column) for row in rows]], dtype=float) for column in LOGS)
    if spec.policy is not None:
        model = load_reference(source, watch)
        tuned = load_given(source, spec.policy, model)
        names, (policy, reference) = _recomputed(configuration, rows, (tuned, model), watch)
        origin["model"] = dict(model.provenance)
        origin["policy_sha256"] = folder_digest(place_of_policy(source, spec, folder))
    _check_laws(given, names, {FINAL: policy, REFERENCE: reference})
    places = {prompt: b for b, prompt in enumerate(source.prompts)}
    is_reference = np.array([row.policy == REFERENCE for row in rows])
    own, under = np.nan_to_num([np.where(is_reference, reference[0], policy[0]), reference[0]]).tolist()
    samples = {
        "policy": [row.policy for row in rows],
        "prompt": [places[row.prompt] for row in rows],
        "prompt_text": [str(row.prompt) for row in rows],
        "text": [str(row.response) for row in rows],
        "log_probability": own,
        "log_reference": under,
        "token_ids": [list(row.token_ids or ()) for row in rows],
    }
    folder.write(folder.scores, parquet_bytes(*_scores(given, places)))
    folder.write(samples_file(folder), parquet_bytes(samples, origin))


def _check_laws(given: GivenDraws, names: Sequence[str], known: Mapping[str, Array]) -> None:
    """Raise InputError where the rows of a source are no draws of its model, by what they are evidence for instead.

    Nothing is known of a source unless the tokens of all its rows are: by token_ids, or a log probability that somebody
    knew. known: log probabilities of all rows under each model, [1 + names, rows], asked as is said and in other ways;
    NaN where there is none.
    """
    for (source, label), column, other in zip(SOURCES.items(), LOGS, reversed(SOURCES), strict=True):
        at = [k for k, row in enumerate(given.rows) if row.policy == label]
        rows, mine, theirs = [given.rows[k] for k in at], known[label][:, at], known[SOURCES[other]][0, at]
        if np.isnan(mine[0]).any() or not all(row.token_ids or getattr(row, column) is not None for row in rows):
            continue
        most = mine[0] + slack(mine[0])
        others = dict(zip(names, mine[1:], strict=True))
        others |= {} if np.isnan(theirs).any() else {f"draws of the {other}": theirs}
        found = other_law([_draw(row, one) for row, one in zip(rows, mine[0].tolist(), strict=True)], most, others)
        if found is not None:
            raise InputError(
                f"{given.name}: source: must be {source} in rows that are independent draws of it, found {found}"
            )


def _draw(row: _Row, log_probability: float) -> tuple[Text, Any]:
    """Return prompt and outcome of a row; texts of one log probability are taken for the same tokens."""
    said = tuple(row.token_ids) if row.token_ids else (str(row.response), round(log_probability, 3))
    return row.prompt, said


def _recomputed(
    configuration: Configuration,
    rows: Sequence[_Row],
    models: tuple["LanguageModel", "LanguageModel"],
    watch: Progress,
) -> tuple[list[str], list[Array]]:
    """Return other ways of drawing, and the log probabilities of all rows under policy and reference, [1 + ways, rows].

    Raises InputError where the file says another thing.
    """
    from rlhf_game.outcomes.finetuned.finetuned_training import main_task, policy_training
    from rlhf_game.training_backends.lm.sampling import check_length, log_probabilities_under

    sampling = policy_training(main_task(configuration, spec_of(configuration), Path())).sampling
    system, reference = configuration.source.system, models[1]
    check_length(reference, reference.encode_prompts(configuration.source.prompts, system), sampling.max_new_tokens)
    asked, said = zip(*(_tokens(row, reference, system, sampling.max_new_tokens) for row in rows), strict=True)
    found, others = [], other_samplings(sampling)
    for column, model in zip(LOGS, models, strict=True):
        watch(f"compute {column}", 0, 1)
        found.append(log_probabilities_under(model, asked, said, [sampling, *others.values()]))
        for row, now in zip(rows, found[-1][0].tolist(), strict=True):
            before = getattr(row, column)
            if before is not None and not is_near(before, now):
                raise InputError(
                    f"{row.where}: {column}: must be that of the named checkpoint, {now:.6g} nats, found {before:.6g}: "
                    "a draw of another policy (or of an earlier step) gives no certificate"
                )
    return list(others), found


def _tokens(row: _Row, model: "LanguageModel", system: str | None, longest: int) -> tuple[list[int], list[int]]:
    """Return the token ids of a row's prompt and response.

    Raises InputError where the response is nothing that the model can say: other words than those of its tokens, more
    tokens than ``longest``, or tokens that neither end nor were cut there.
    """
    from rlhf_game.training_backends.lm.sampling import is_whole

    prompt, known = model.encode_exchange(row.prompt, row.response, system)
    was_cut = row.token_ids is None and not row.is_finished and known[-1:] and known[-1] in model.end_ids
    ids = row.token_ids or (known[:-1] if was_cut else known)
    unknown = next((one for one in ids if one >= model.vocabulary), None)
    if unknown is not None:
        raise InputError(f"{row.where}: token_ids: must be of the model's {model.vocabulary} tokens, found {unknown}")
    text, meant = model.decode(ids), row.response if isinstance(row.response, str) else model.decode(known)
    if text != meant:
        raise InputError(f"{row.where}: response: must be what its tokens say, {shown(text)!a}, found {shown(meant)!a}")
    if not row.token_ids and len(ids) > longest:
        raise InputError(
            f"{row.where}: response: must be of at most {longest} tokens (outcomes.max_new_tokens) with the one that "
            f"ends it, found {len(ids)}; of one that was cut say is_finished: false, or its token_ids"
        )
    is_drawn = is_whole(ids, model.end_ids, longest) if row.token_ids else 0 < len(ids) <= longest
    if not is_drawn:
        raise InputError(
            f"{row.where}: token_ids: must end with a token that ends a response, or be cut after {longest} tokens "
            f"(outcomes.max_new_tokens), found {len(ids)} of them"
        )
    return prompt, ids


def _scores(given: GivenDraws, places: Mapping[Text, int]) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Return the columns of scores.parquet, a row for each distinct response, and where they come from."""
    fields = given.configuration.fields
    distinct: dict[tuple[int, str], _Row] = {}
    for row in given.rows:
        first = distinct.setdefault((places[row.prompt], str(row.response)), row)
        if first.scores != row.scores:
            k = next(k for k, pair in enumerate(zip(first.scores, row.scores, strict=True)) if pair[0] != pair[1])
            raise InputError(
                f"{row.where}: {shown(fields.groups[k].name)}: must be the reward of the same response before it, "
                f"{first.scores[k]}, found {row.scores[k]}"
            )
    columns: dict[str, list[Any]] = {
        "prompt_index": [b for b, _ in distinct],
        "prompt": [str(row.prompt) for row in distinct.values()],
        "response": [text for _, text in distinct],
    }
    for i, group in enumerate(fields.groups):
        raw = np.array([row.scores[i] for row in distinct.values()])
        try:
            rewards = calibration_of(group.reward, group.calibration)(raw, columns["prompt_index"])
        except InputError as error:
            raise InputError(f"groups[{i}].calibration: {error}") from error
        columns |= {f"{RAW}{group.name}": raw.tolist(), group.name: [float(one) for one in rewards]}
    rewards_of = {group.name: {"reward": group.reward.model_dump(mode="json"), "from": None} for group in fields.groups}
    origin = {"config_sha256": given.configuration.sha256, "rewards": rewards_of, "versions": versions()}
    return columns, origin
