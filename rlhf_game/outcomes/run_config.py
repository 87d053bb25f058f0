"""The configuration of a run, read and checked; ``GenerationInputs`` is the part of it that generation may see."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, final

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator
from pydantic_core import PydanticCustomError

from rlhf_game.chat.chat_specs import ModelSpec, SomeModel
from rlhf_game.errors import InputError, boundary
from rlhf_game.files.conversations import Text
from rlhf_game.files.document_kinds import check_kind
from rlhf_game.files.documents import parse_json, parse_yaml, read_text, shown
from rlhf_game.files.names import check_names
from rlhf_game.files.parts import SomePayment, SomeRegularizer, SomeTraining, sources
from rlhf_game.files.prompt_rows import Prompts, prompts_of
from rlhf_game.files.schema import Name, Nonnegative, Positive, Salt, Strict, parse_model
from rlhf_game.files.settings import set_fields
from rlhf_game.files.tables import digest
from rlhf_game.mechanism.reports import LARGEST_SIZE
from rlhf_game.outcomes.draws.draws_spec import DrawsSpec
from rlhf_game.outcomes.finetuned.finetuned_spec import FinetunedSpec
from rlhf_game.outcomes.given_rows import Given, GivenRows, GivenSpec, read_given
from rlhf_game.outcomes.prompts.prompts_spec import PromptsSpec, read_examples, read_texts
from rlhf_game.outcomes.served_draws import ServerSpec
from rlhf_game.registry import source_of
from rlhf_game.rewards.calibration_specs import SomeCalibration, tag_of
from rlhf_game.rewards.nested import nested, refuse_rank
from rlhf_game.rewards.own_rewards import ColumnSpec
from rlhf_game.rewards.reward_specs import SomeReward

SUFFIXES = (".yaml", ".yml", ".json")
COLUMNS = re.compile("raw:|member [0-9]+:")
"""How further columns of a group's scores begin in scores.parquet."""


@final
class ProposalSpec(Strict):
    """What candidates are drawn from in place of the reference: it under a system prompt, or another model."""

    system: Name | None = None
    """A system prompt of the same model."""
    model: Annotated[SomeModel | None, Field(validate_default=True)] = None
    """Another model with the same tokens."""

    @field_validator("model")
    @classmethod
    def _one(cls, model: ModelSpec | None, info: Any) -> ModelSpec | None:
        if (model is None) == (info.data.get("system") is None):
            raise PydanticCustomError("one", "must be given where system is not, and only there")
        if model is not None and model.endpoint is not None:
            raise PydanticCustomError("endpoint", "must be on this machine: its probabilities are needed")
        return model


@final
class CandidatesSpec(Strict):
    """Outcomes are responses sampled from the reference, or from a proposal with weights that make up for it."""

    kind: Literal["candidates"]
    per_prompt: Annotated[int, Field(ge=1, le=1_000_000)]
    """Responses drawn to each prompt."""
    max_new_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """The most tokens of a response."""
    temperature: Positive = 1.0
    """Of the reference; 1 is the model's own distribution."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Only the likeliest k tokens; 0: all."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Only the likeliest tokens that together have this probability."""
    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Responses at a time on this machine."""
    proposal: ProposalSpec | None = None
    """What they are drawn from in place of the reference."""
    server: ServerSpec | None = None
    """What generates them elsewhere: it serves the model, or the proposal's."""


@final
class TrieSpec(Strict):
    """Outcomes are the likeliest whole responses of the reference, found without sampling."""

    kind: Literal["trie"]
    mass: Annotated[float, Field(gt=0, le=1)] = 0.99
    """The probability that the responses found have together, of each prompt."""
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 8
    """The most tokens of a response."""
    max_nodes: Annotated[int, Field(ge=1, le=1_000_000)] = 2_000
    """Beginnings of responses that are expanded at most, of each prompt."""
    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Beginnings at a time on this machine."""


def _candidates_by_default(value: Any) -> Any:
    return {"kind": "candidates", **value} if isinstance(value, dict) and "kind" not in value else value


OutcomesSpec: TypeAlias = Annotated[
    Annotated[
        Annotated[CandidatesSpec, Tag("<candidates>")]
        | Annotated[TrieSpec, Tag("<trie>")]
        | Annotated[PromptsSpec, Tag("<prompts>")]
        | Annotated[FinetunedSpec, Tag("<finetuned>")]
        | Annotated[DrawsSpec, Tag("<draws>")]
        | Annotated[GivenSpec, Tag("<given>")],
        Discriminator(
            tag_of,
            custom_error_type="outcomes",
            custom_error_message="must have the kind candidates, trie, prompts, finetuned, draws or given",
        ),
    ],
    BeforeValidator(_candidates_by_default),
]


@final
class GroupSpec(Strict):
    """One group: its reward, the map to [0, 1], its size."""

    name: Name
    """What the group is called; no two are called alike."""
    size: Annotated[int, Field(ge=1, le=LARGEST_SIZE)] = 1
    """How many members it has."""
    reward: SomeReward
    """What scores a response, for one member."""
    calibration: SomeCalibration | None = None
    """From scores to [0, 1], fixed before any response is seen."""
    salt: Salt | None = None
    """What its report is sealed under, before it is revealed."""


@final
class RunConfig(Strict):
    """A whole run."""

    model: SomeModel | None = None
    """None, and no prompts either, only with outcomes given."""
    prompts: Prompts | None = None
    """What users ask: texts or lists of messages, or a file of them."""
    system: Name | None = None
    """What the model is told before every prompt."""
    outcomes: OutcomesSpec
    """What can be delivered: responses, system prompts, a trained model."""
    regularizer: SomeRegularizer = "kl"
    """What measures how far the policy is from the reference."""
    strength: Nonnegative
    """0 only with outcomes prompts: the game is then a menu of them."""
    training: SomeTraining = None
    """The training rule; default social welfare, with weights the affine maximiser."""
    payment: SomePayment = "affine"
    """The payment rule: affine, none, revenue, participation, or one's own."""
    normalization: Literal["none", "sum", "max"] = "none"
    """The declared domain of rewards: sum or max 1 on each prompt; a reward outside it is refused."""
    weights: dict[Name, Positive] | None = None
    """mu of each group in an affine maximiser; 1 where none is said."""
    groups: Annotated[list[GroupSpec], Field(min_length=1)]
    """Whose rewards the model is trained on."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of everything that comes before the reports."""
    settlement_seed: Annotated[int | None, Field(ge=0, lt=2**63)] = None
    """Of the draws that are made after the reports; None: taken then, and kept in the folder."""

    @property
    def shares(self) -> dict[str, float]:
        """mu size of each group, by its name."""
        weights = self.weights or {}
        return {group.name: weights.get(group.name, 1.0) * group.size for group in self.groups}


@final
@dataclass(frozen=True)
class GenerationInputs:
    """All that generation may look at: nothing of the groups is in it."""

    language_model: ModelSpec | None
    prompts: tuple[Text, ...]
    columns: Mapping[str, tuple[Any, ...]]
    """Further columns of the prompts, [B] each, for rewards."""
    system: str | None
    outcomes: OutcomesSpec
    seed: int
    base: Path
    given: Given | None = None
    """The rows, where outcomes are given."""

    @property
    def model(self) -> ModelSpec:
        """The language model; where outcomes are given there is none."""
        assert self.language_model is not None
        return self.language_model

    @property
    def words(self) -> tuple[str, ...]:
        """The words of each prompt, for people: of a conversation a transcript, [B]."""
        return tuple(map(str, self.prompts))


@final
@dataclass(frozen=True)
class Configuration:
    """A configuration with what it refers to."""

    fields: RunConfig
    source: GenerationInputs
    files: Mapping[str, str]
    """The sha256 of each file that is part of the configuration."""
    rows: GivenRows | None = None
    """The rows of outcomes given, with the reports' numbers."""

    def document(self) -> dict[str, Any]:
        """Return the canonical content: what config.json holds and what must not change in a run directory."""
        content = self.fields.model_dump(mode="json", exclude_none=True)
        return {**content, "files": dict(self.files)} if self.files else content

    @property
    def sha256(self) -> str:
        """Of the canonical content."""
        return hashlib.sha256(json.dumps(self.document(), sort_keys=True).encode()).hexdigest()


def read_config(path: str | os.PathLike[str], settings: Sequence[str] = ()) -> Configuration:
    """Return the configuration of a .yaml or .json file. settings: fields to set, each ``path=value``.

    Raises InputError that names file and field.
    """
    document, name = read_document(path, "run", settings)
    return parse_config(document, name, Path(path).parent)


def is_run(path: Path) -> bool:
    """Return whether a file configures a run; a game's outcomes are labels. Raises InputError when it is no mapping."""
    return path.suffix.lower() != ".jsonl" and isinstance(read_document(path, "run or a game")[0].get("outcomes"), dict)


def read_document(path: str | os.PathLike[str], of: str, settings: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """Return what a .yaml or .json configuration says, and the file's name for messages. of: what it configures.

    settings: fields to set, each ``path=value``. Raises InputError that names the file when it is of another kind or no
    mapping.
    """
    name, suffix = shown(os.fspath(path), 200), Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(
            f"{name}: must be a configuration ending in {', '.join(SUFFIXES)}, found {suffix or 'no ending'!r}"
        )
    text = read_text(path)
    document = parse_json(text, name) if suffix == ".json" else parse_yaml(text, name)
    check_kind(document, of, name)
    document.pop("files", None)  # of a config.json that this package wrote
    document.pop("$schema", None)  # for editors
    return set_fields(document, settings, name), name


def parse_config(document: dict[str, Any], name: str, base: Path) -> Configuration:
    """Return the configuration of a parsed document; name: for messages; base: the folder that paths start from."""
    fields = parse_model(RunConfig, document, name)
    check_config(fields, name)
    _check_asked(fields, name)
    try:
        rows = _read_given(fields, base)
        prompts, columns = prompts_of(fields.prompts or [], base) if rows is None else (rows.given.prompts, {})
        if isinstance(fields.outcomes, PromptsSpec):
            read_texts(fields.outcomes.seeds, base)
            read_examples(fields.outcomes.examples, base)
        files = {file: hash_of(file, base) for file in _files(fields)}
        for i, group in enumerate(fields.groups):
            files |= hashes_of_code(group.reward.code(), base, f"groups[{i}].reward")
        files = dict(sorted(files.items()))
        named = {"regularizer": fields.regularizer, "training": fields.training, "payment": fields.payment}
        for role, digests in sources(named, base, trusted=True).items():
            files |= {f"{role}: {file}": sha256 for file, sha256 in digests.items()}
        named_models = [model for group in fields.groups for model in group.reward.models()]
        if isinstance(fields.outcomes, FinetunedSpec) and fields.outcomes.policy is not None:
            files |= hash_of_policy(fields.outcomes.policy, base)
        files |= hashes_of_models(named_models, base)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    source = GenerationInputs(
        fields.model, prompts, columns, fields.system, fields.outcomes, fields.seed, base, rows and rows.given
    )
    return Configuration(fields, source, files, rows)


def _read_given(fields: RunConfig, base: Path) -> GivenRows | None:
    """Return the rows of outcomes given, with a number in every column that a reward takes; else None."""
    rows = read_given(fields.outcomes, base) if isinstance(fields.outcomes, GivenSpec) else None
    for i, group in enumerate(fields.groups):
        for one in nested(group.reward, f"groups[{i}].reward"):
            if not isinstance(one.reward, ColumnSpec):
                continue
            if rows is None:
                raise InputError(f"{one.place}: must be with outcomes given only, found {fields.outcomes.kind}")
            try:
                rows.check_numbers(one.reward.column)
            except InputError as error:
                raise InputError(f"{one.place}.column: {error}") from None
    return rows


def check_config(fields: RunConfig, name: str) -> None:
    """Raise InputError when fields do not go together, but for what is asked of a model."""
    try:
        check_names([group.name for group in fields.groups], fields.weights or ())
        for i, group in enumerate(fields.groups):
            if group.name in ("prompt", "prompt_index", "response") or COLUMNS.match(group.name):
                raise InputError(
                    f"groups[{i}].name: must be no name of another column of scores.parquet, found {group.name!a}"
                )
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    if fields.payment == "revenue" and fields.normalization == "none":
        raise InputError(f"{name}: payment: revenue must come with normalization sum or max, found none")
    if isinstance(fields.outcomes, TrieSpec | FinetunedSpec | DrawsSpec):
        _check_open(fields, name)
    _check_prompts(fields, name)


def _check_asked(fields: RunConfig, name: str) -> None:
    """Ask for a model and prompts, but where all that was asked and said is given."""
    asked = {"model": fields.model, "prompts": fields.prompts}
    if isinstance(fields.outcomes, FinetunedSpec) and fields.outcomes.draws is not None:
        raise InputError(f"{name}: outcomes.draws: must be given as settle --draws FILE, found it here")
    if isinstance(fields.outcomes, GivenSpec):
        for field in (key for key, value in {**asked, "system": fields.system}.items() if value is not None):
            raise InputError(f"{name}: {field}: must not be here: what was asked and said is in the rows, found it")
        return
    for field in (key for key, value in asked.items() if value is None):
        raise InputError(f"{name}: {field}: must be given, found nothing")


def _check_open(fields: RunConfig, name: str) -> None:
    """Refuse what has no meaning where there are responses that were not found or drawn."""
    outcomes, fault = fields.outcomes.kind, None
    sizes = {one.name: one.size for one in fields.groups}
    if isinstance(fields.outcomes, FinetunedSpec):
        fault = fields.outcomes.fault(sizes)
    elif isinstance(fields.outcomes, DrawsSpec) and fields.strength > 0:
        fault = fields.outcomes.fault(sizes, fields.weights or {}, fields.strength)
    if fault is not None:
        raise InputError(f"{name}: outcomes.{fault}")
    for field, value, wanted in (
        ("regularizer", fields.regularizer, ("kl",)),
        ("normalization", fields.normalization, ("none",)),
        ("payment", fields.payment, ("affine", "none")),
    ):
        if value not in wanted:
            raise InputError(f"{name}: {field}: must be {' or '.join(wanted)} with outcomes {outcomes}, found {value}")
    rule = fields.training.get("rule") if isinstance(fields.training, dict) else fields.training
    if rule not in (None, "social_welfare", "affine"):
        raise InputError(
            f"{name}: training: must be social_welfare or affine with outcomes {outcomes}, found {shown(str(rule))}"
        )
    why = f" with outcomes {outcomes}: a rank among the responses that were found says nothing about the others"
    for i, group in enumerate(fields.groups):
        refuse_rank(group.reward, f"{name}: groups[{i}].reward", why, group.calibration)


def _check_prompts(fields: RunConfig, name: str) -> None:
    """Refuse what has no meaning for system prompts, and elsewhere what has one only for them."""
    outcomes = fields.outcomes
    endpoint = None if fields.model is None else fields.model.endpoint
    if not isinstance(outcomes, PromptsSpec):
        if fields.strength == 0:
            raise InputError(f"{name}: strength: must be > 0 (0 is for outcomes prompts), found 0.0")
        if endpoint is not None and isinstance(outcomes, DrawsSpec | CandidatesSpec):
            needing = ("proposal", "server") if isinstance(outcomes, CandidatesSpec) else ("server",)
            for key in (key for key in needing if getattr(outcomes, key) is not None):
                raise InputError(
                    f"{name}: outcomes.{key}: must not be here with an endpoint: it needs probabilities of a model "
                    "that is on this machine too, found one"
                )
            for key, value, nothing in (("top_k", outcomes.top_k, 0), ("top_p", outcomes.top_p, 1.0)):
                if value != nothing:
                    raise InputError(
                        f"{name}: outcomes.{key}: must not be here with an endpoint (say it in its options), found "
                        f"{value}"
                    )
        elif endpoint is not None:
            raise InputError(
                f"{name}: model.endpoint: must not be here, where the model's own probabilities are needed (it may be "
                "with outcomes candidates, prompts or draws), found an endpoint"
            )
        return
    if fields.system is not None:
        raise InputError(f"{name}: system: must not be here: the outcomes are system prompts, found a text")
    if outcomes.temperature == 0 and outcomes.per_prompt > 1:
        raise InputError(
            f"{name}: outcomes.per_prompt: must be 1 at temperature 0, where all responses are the same, found "
            f"{outcomes.per_prompt}"
        )


def _files(fields: RunConfig) -> list[str]:
    named = [file for group in fields.groups for file in group.reward.files()]
    if isinstance(fields.outcomes, PromptsSpec):
        named += fields.outcomes.files()
    if isinstance(fields.outcomes, GivenSpec):
        named.append(fields.outcomes.file)
    return sorted({*named, *([fields.prompts] if isinstance(fields.prompts, str) else [])})


def hash_of(file: str, base: Path) -> str:
    """Return the SHA-256 of a file that a configuration names; raise InputError when there is none."""
    path = base / file
    with boundary("must name a readable file, found", InputError):
        if not path.is_file():
            raise InputError(f"must name a file that exists, found none at {shown(str(path), 200)}")
        return digest(path)


def hashes_of_code(targets: Iterable[str], base: Path, field: str) -> dict[str, str]:
    """Return the SHA-256 of the files of functions, and of the modules of their folders that these import.

    Files of this configuration's folder are called as they are from there. Raises InputError that begins with the field
    when a function has no source.
    """
    found: dict[str, str] = {}
    for target in targets:
        try:
            found |= source_of(target, base).document(base)
        except InputError as error:
            raise InputError(f"{field}: {error}") from None
    return found


def hash_of_policy(policy: str, base: Path) -> dict[str, str]:
    """Return the SHA-256 of the weights of a checkpoint. Raises InputError when it is no folder with weights."""
    place = base / Path(policy).expanduser()
    saved = sorted(place.glob("checkpoint-*/*.safetensors"), key=lambda file: file.stat().st_mtime)
    if saved and not any(place.glob("*.safetensors")):
        raise InputError(
            f"outcomes.policy: must be one checkpoint, found {len({file.parent for file in saved})} in "
            f"{shown(policy)}, the last of them {saved[-1].parent.name}"
        )
    try:
        found = hashes_of_models([policy], base)
    except InputError as error:
        raise InputError(f"outcomes.policy: {str(error).removeprefix('model: ')}") from None
    if not found:
        raise InputError(f"outcomes.policy: must be a folder with a model or an adapter, found none at {shown(policy)}")
    return found


def hashes_of_models(models: Iterable[str], base: Path) -> dict[str, str]:
    """Return the SHA-256 of the weights of those models that are folders; a name on the hub or of a wheel has none.

    Raises InputError when there are no weights in a folder.
    """
    from rlhf_game.training_backends.lm.checkpoints import find_checkpoint, model_folder

    folders = {model: model_folder(model, base) for model in models}
    return {model: str(find_checkpoint(str(path)).sha256) for model, path in folders.items() if path.is_dir()}
