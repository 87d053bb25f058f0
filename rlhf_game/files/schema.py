"""What a game file may say: one strict model for each kind of space. Checks that need arrays are in ``games``."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, NoReturn, TypeAlias, TypeVar, final

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from rlhf_game.errors import InputError
from rlhf_game.files.document_kinds import check_kind
from rlhf_game.files.documents import kind, shown
from rlhf_game.files.game_checks import check_automaton, check_labels, check_missing, check_prompts
from rlhf_game.files.parts import PLACES, SomePayment, SomeRegularizer, SomeSpace, SomeTraining
from rlhf_game.files.tables import FORMS, shape_of
from rlhf_game.mechanism.reports import LARGEST_SIZE
from rlhf_game.registry import names

LONGEST = 1_000_000
"""Tokens of a sequence of an automaton: each is a step of the computation."""
LARGEST = 1e140
"""Amounts up to here have sums and squares that float64 holds; a strength or a weight is at least its inverse."""


class Strict(BaseModel, ABC):
    """Nothing is converted, nothing extra is let in, nothing is NaN or infinite."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class OurDocument(Strict, ABC):
    """What a reader needs of a document that this package wrote; whatever else is in it is left alone."""

    model_config = ConfigDict(extra="ignore")


@final
class TableFile(Strict):
    """A table kept in a file of its own, relative to the game file."""

    file: Annotated[str, Field(min_length=1)]
    """FILE.npy, FILE.npz:KEY or FILE.parquet:COLUMN, relative to the game file."""


def _form(value: Any) -> str | None:
    if isinstance(value, dict | TableFile):
        return "<file>"
    if not isinstance(value, list):
        return None
    return "<matrix>" if value and isinstance(value[0], list) else "<vector>"


def _moderate(number: float) -> float:
    if number > LARGEST or 0 < number < 1 / LARGEST:
        raise PydanticCustomError("moderate", "must be between {low} and {high}", {"low": 1 / LARGEST, "high": LARGEST})
    return number


def _above_low(high: float, info: ValidationInfo) -> float:
    if high <= info.data.get("low", float("-inf")):
        raise PydanticCustomError("above_low", "must be above low")
    return high


Vector: TypeAlias = Annotated[list[float], Field(min_length=1)]
Matrix: TypeAlias = Annotated[list[Vector], Field(min_length=1)]
Tensor: TypeAlias = Annotated[
    Annotated[Vector, Tag("<vector>")] | Annotated[Matrix, Tag("<matrix>")] | Annotated[TableFile, Tag("<file>")],
    Discriminator(
        _form,
        custom_error_type="tensor",
        custom_error_message=f"must be a list of numbers, a list of such lists, or {{file: {FORMS}}}",
    ),
]
Labels: TypeAlias = Annotated[
    Annotated[list[str], Tag("<vector>")] | Annotated[list[list[str]], Tag("<matrix>")],
    Discriminator(
        _form,
        custom_error_type="labels",
        custom_error_message="must be a list of texts, or a list of such lists",
    ),
]
Model = TypeVar("Model", bound=BaseModel)
Name: TypeAlias = Annotated[str, Field(min_length=1)]
Salt: TypeAlias = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""32 bytes, in hexadecimal."""
Positive: TypeAlias = Annotated[float, Field(gt=0), AfterValidator(_moderate)]
Nonnegative: TypeAlias = Annotated[float, Field(ge=0), AfterValidator(_moderate)]
AboveLow: TypeAlias = Annotated[float, AfterValidator(_above_low)]
"""The upper end of a range whose lower end is the field ``low`` before it."""


@final
class GroupFields(Strict):
    """One group's report."""

    name: Name
    """What the group is called; no two are called alike."""
    size: Annotated[int, Field(ge=1, le=LARGEST_SIZE)] = 1
    """How many members it has."""
    reward: Tensor
    """What each outcome is worth to one member: shaped like the reference, or the file of such a table."""
    salt: Salt | None = None
    """What its report is sealed under, before it is revealed."""


@final
class ModelsFields(Strict):
    """How many models may be trained, and what each costs, in units of affine welfare."""

    at_most: Annotated[int, Field(ge=1, le=LARGEST_SIZE)]
    """How many models, at most."""
    cost: Nonnegative
    """What each costs, in units of affine welfare."""


class CommonFields(Strict, ABC):
    """What games on every space share."""

    normalization: Literal["none", "sum", "max"] = "none"
    """The declared domain of rewards: sum or max 1 on each prompt; a reward outside it is refused."""
    weights: dict[Name, Positive] | None = None
    """mu of each group in an affine maximiser; 1 where none is said."""
    boosts: Tensor | None = None
    """What the provider adds to the score, shaped like the reference; default 0."""
    training: SomeTraining = None
    """The training rule; default social welfare, with weights or boosts the affine maximiser."""
    payment: SomePayment = "affine"
    """The payment rule: affine, none, revenue, participation, or one's own."""
    training_cost: Nonnegative | None = None
    """What it costs to train at all; the reference serves everybody where that is not worth it."""
    models: ModelsFields | None = None
    """Several models, each for some of the groups; default one for all, whatever it costs."""
    fee: Nonnegative | Literal["false_name_proof"] | None = None
    """What every name pays besides, in money; false_name_proof: the least fee at which no owner gains by several."""
    owner_limit: Annotated[int, Field(ge=1, le=LARGEST_SIZE)] | None = None
    """The most members that all names of one owner have together."""
    participation_cost: Nonnegative | None = None
    """What every name that takes part costs, in units of affine welfare; with payment participation."""
    size_limit: Annotated[int, Field(ge=1, le=LARGEST_SIZE)] | None = None
    """The largest size that may be reported; an audit lies up to it."""
    groups: Annotated[list[GroupFields], Field(min_length=1)]
    """The reports: who they are of, their sizes and rewards."""
    provenance: dict[str, Any] | None = None
    """Where the numbers come from; no part of the game, nor of its hash."""

    @property
    def steps(self) -> int:
        """How often a reward is earned along an outcome, at most."""
        return 1

    @property
    def limits(self) -> list[float] | None:
        """What rewards keep to on outcomes that the game does not list; None: it lists all."""
        return None

    @property
    def is_whole_table(self) -> bool:
        """Whether it is a table of outcomes that are all there."""
        return False

    def own_code(self) -> dict[str, Any]:
        """Return the space where code of someone's own may make it."""
        return {}

    def tables(self) -> dict[str, Any]:
        """Return the tables that may be in files of their own, beside rewards and boosts."""
        return {}

    def check_tables(self, reference: Any) -> None:
        """Raise InputError that names the field where tables and labels do not go together."""
        return

    def of_bill(self, space: Any) -> dict[str, Any]:
        """Return what a bill says of the space, which a group can check alone; raise InputError where it cannot."""
        raise InputError("space: must be a table or an automaton, for a bill that is checked alone; found one's own")

    @abstractmethod
    def read_reference(self, read: Callable[[Any, str], Any], rewards: Sequence[Any]) -> Any:
        """Return q. read: a table, with the field that names it. rewards: those of the groups, read already."""

    @abstractmethod
    def make_space(self, reference: Any, regularizer: Any, make: Callable[..., Any]) -> Any:
        """Return the policy space. make: makes a part that a file names, from the fields that are given."""

    def policy_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a policy. shape: of the reference."""
        return shape


class ReferenceFields(CommonFields, ABC):
    """What games share whose reference is a table of probabilities."""

    reference: Tensor
    """q, the probabilities before the training: a row, a row for each prompt, or the file of such a table."""

    def tables(self) -> dict[str, Any]:
        """Return the reference."""
        return {"reference": self.reference}

    def read_reference(self, read: Callable[[Any, str], Any], rewards: Sequence[Any]) -> Any:
        """Return the table."""
        return read(self.reference, "reference")


@final
class TableFields(ReferenceFields):
    """Outcomes in a table, for one prompt or several."""

    space: Literal["table"] = "table"
    outcomes: Labels | None = None
    """Labels of the outcomes, shaped like the reference."""
    prompt_weights: Annotated[list[Nonnegative], Field(min_length=1)] | None = None
    """What each prompt counts; default all alike."""
    missing: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=1)] | None = None
    """Of each prompt, the mass of the outcomes that are not in the table: the receipt then holds intervals."""
    bounds: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """What rewards keep to on every outcome, in the table or not; needed with ``missing``, and only there."""
    effective_sample_size: Annotated[list[Positive], Field(min_length=1)] | None = None
    """Of each prompt, how many draws of the reference its weights are worth; nothing is computed from it."""
    regularizer: SomeRegularizer = "kl"
    """What measures how far the policy is from the reference."""
    strength: Positive
    """lambda, the price of leaving the reference, in units of reward."""

    @property
    def limits(self) -> list[float] | None:
        """The bounds, which come with missing mass."""
        return self.bounds

    @property
    def is_whole_table(self) -> bool:
        """Whether no mass is missing."""
        return self.missing is None

    def check_tables(self, reference: Any) -> None:
        """Check labels, what is said of prompts, and missing mass."""
        check_labels(self.outcomes, shape_of(reference))
        check_prompts(self, reference)
        check_missing(self)

    def of_bill(self, space: Any) -> dict[str, Any]:
        """Return the weights of the prompts."""
        if self.missing is not None:
            raise InputError(
                "space: the bill of a trie holds for responses that are not listed: it cannot be checked alone"
            )
        return {"prompt_weights": space.prompt_weights.tolist()}

    def make_space(self, reference: Any, regularizer: Any, make: Callable[..., Any]) -> Any:
        """Return the table; with missing mass the trie of the outcomes that were found."""
        from rlhf_game.mechanism.spaces.table import Table

        named: dict[str, Any] = {"outcomes": self.outcomes, "prompt_weights": self.prompt_weights}
        if self.missing is not None and self.bounds is not None:
            from rlhf_game.mechanism.spaces.trie import Trie

            return Trie(reference, self.missing, regularizer, bounds=self.bounds, **named)
        return Table(reference, regularizer, normalization=self.normalization, **named)


@final
class MenuFields(CommonFields):
    """A finite menu; ``regularizer`` only names what ``divergence`` measures, for the receipt."""

    space: Literal["menu"]
    divergence: Annotated[list[Nonnegative], Field(min_length=1)] | None = None
    """What each entry of the menu costs, before the strength; default 0."""
    outcomes: Annotated[list[str], Field(min_length=1)] | None = None
    """Names of the entries."""
    regularizer: SomeRegularizer | None = None
    """Only names what ``divergence`` measures, for the receipt."""
    strength: Positive = 1.0
    """lambda, the price of ``divergence``, in units of reward."""

    def check_tables(self, reference: Any) -> None:
        """Check the labels."""
        check_labels(self.outcomes, shape_of(reference))

    def of_bill(self, space: Any) -> dict[str, Any]:
        """Raise InputError."""
        raise InputError(
            "space: the bill of a menu depends on how much the others like the entries that were not chosen: it cannot "
            "be checked alone"
        )

    def read_reference(self, read: Callable[[Any, str], Any], rewards: Sequence[Any]) -> Any:
        """Return the divergence of each entry, zeros where the game gives none."""
        if self.divergence is not None:
            return np.array(self.divergence)
        return np.zeros(len(rewards[0] if self.outcomes is None else self.outcomes))

    def make_space(self, reference: Any, regularizer: Any, make: Callable[..., Any]) -> Any:
        """Return the menu."""
        from rlhf_game.mechanism.spaces.menu import Menu

        return Menu(reference, self.strength, outcomes=self.outcomes, normalization=self.normalization)


@final
class AutomatonFields(ReferenceFields):
    """Sequences of tokens from a finite automaton; -1 in ``next_state`` ends the sequence."""

    space: Literal["automaton"]
    next_state: Annotated[
        list[Annotated[list[Annotated[int, Field(ge=-1, le=2**31)]], Field(min_length=1)]], Field(min_length=1)
    ]
    """The state after each token in each state, [S][T]; -1: the sequence ends."""
    initial: Annotated[int, Field(ge=0, le=2**31)] = 0
    """The state in which sequences begin."""
    horizon: Annotated[int, Field(ge=1, le=LONGEST)]
    """The most tokens of a sequence."""
    regularizer: Literal["kl"] = "kl"
    """KL, of whole sequences."""
    strength: Positive
    """lambda, the price of leaving the reference, in units of reward."""

    @property
    def steps(self) -> int:
        """The horizon."""
        return self.horizon

    def check_tables(self, reference: Any) -> None:
        """Check states and probabilities."""
        check_automaton(self, reference)

    def of_bill(self, space: Any) -> dict[str, Any]:
        """Return the automaton."""
        return {"prompt_weights": [1.0], "next_state": self.next_state, "initial": self.initial}

    def make_space(self, reference: Any, regularizer: Any, make: Callable[..., Any]) -> Any:
        """Return the chain."""
        from rlhf_game.mechanism.spaces.chain import Chain

        return Chain(
            self.next_state,
            np.asarray(reference),
            regularizer,
            horizon=self.horizon,
            initial=self.initial,
            normalization=self.normalization,
        )

    def policy_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape with the step before it."""
        return (self.horizon, *shape)


@final
class OwnFields(CommonFields):
    """A space of someone's own: a place of code, or a mapping with it as ``kind`` and the space's own fields."""

    space: SomeSpace
    """The space: where its code is, or a mapping with that as ``kind``."""
    regularizer: SomeRegularizer | None = None
    """Only names what the space's divergence measures, for the receipt."""
    strength: Positive = 1.0
    """Goes to the space's own field of this name, where it has one."""

    def own_code(self) -> dict[str, Any]:
        """Return the space."""
        return {"space": self.space}

    def read_reference(self, read: Callable[[Any, str], Any], rewards: Sequence[Any]) -> Any:
        """Return zeros: the space has a reference of its own."""
        return np.zeros(shape_of(rewards[0]))

    def make_space(self, reference: Any, regularizer: Any, make: Callable[..., Any]) -> Any:
        """Return the space, told the strength and the domain where it has fields for them."""
        return make("space", self.space, {"strength": self.strength, "normalization": self.normalization})


Fields: TypeAlias = TableFields | MenuFields | AutomatonFields | OwnFields
SPACES: dict[str, type[Fields]] = {"table": TableFields, "menu": MenuFields, "automaton": AutomatonFields}
TEXTS = {"samples": "draws of a trained policy", "draws": "a tape of proposals"}
"""Games that are known through texts of a language model; each has a reader of its own."""


def parse_fields(document: Any, name: str) -> Fields:
    """Return the checked fields of a game; raise InputError that starts with ``name`` and then names the field."""
    check_kind(document, "game", name)
    space = document.get("space", "table")
    content = {key: value for key, value in document.items() if key != "$schema"}
    if isinstance(space, dict) or (isinstance(space, str) and (":" in space or space in names("space"))):
        return parse_model(OwnFields, content, name)
    if isinstance(space, str) and space in TEXTS:
        raise InputError(
            f"{name}: space: must be {' or '.join(SPACES)} here, found {space}: {TEXTS[space]}, which verify reads; "
            "what is proved about its lies is the certificate in the receipt (audit of a run's folder or configuration "
            "with draws plays the exact game where all responses can be listed)"
        )
    if not isinstance(space, str) or space not in SPACES:
        raise InputError(f"{name}: space: must be {', '.join(SPACES)} or code ({PLACES}), found {kind(space)}")
    return parse_model(SPACES[space], content, name)


def parse_model(model: type[Model], document: Any, name: str) -> Model:
    """Return ``document`` as ``model``; raise InputError that starts with ``name`` and then names the field."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        explain(error, name, model)


def explain(error: ValidationError, name: str, model: type[BaseModel], under: tuple[str, ...] = ()) -> NoReturn:
    """Raise what pydantic found as InputError that starts with ``name``. under: the fields that the model stands in."""
    faults = error.errors(include_url=False, include_context=True)
    fault = min(faults, key=lambda one: one["type"] == "missing")  # a misspelt key says more than a missing one
    arms = [one for one in faults if one["loc"][:-1] == fault["loc"][:-1] and one["input"] is fault["input"]]
    last = [part for one in arms for part in one["loc"][-1:]]  # none of a fault of the whole document
    if not any(str(part).startswith("literal[") for part in last):  # fields, not types that one may have
        arms = [fault]
    more = f" (and {len(faults) - len(arms)} more)" if len(faults) > len(arms) else ""
    path = field_path((*under, *(fault["loc"] if len(arms) == 1 else fault["loc"][:-1])))
    said = _either([_sentence(one, model, _close_key(one, faults, model)) for one in arms], fault)
    raise InputError(f"{name}: {path + ': ' if path else ''}{said}{more}")


def _either(sentences: Sequence[str], fault: ErrorDetails) -> str:
    """Return one sentence about a value that may be of several types and is of none of them."""
    if len(sentences) == 1:
        return sentences[0]
    found = f", found {kind(fault['input'])}"
    wanted = [sentence.removesuffix(found).removeprefix("must be ") for sentence in sentences]
    return f"must be {', or '.join(dict.fromkeys(wanted))}{found}"


def _close_key(fault: ErrorDetails, faults: Sequence[ErrorDetails], model: type[BaseModel]) -> str:
    """Return what a misspelt key was probably to be: a key of the document, or one that its mapping lacks; or ''."""
    if fault["type"] != "extra_forbidden":
        return ""
    *above, key = fault["loc"]
    lacking = [str(one["loc"][-1]) for one in faults if one["type"] == "missing" and [*one["loc"][:-1]] == above]
    close = get_close_matches(str(key), lacking if above else list(model.model_fields), 1)
    return f", close to {close[0]}" if close else ""


def field_path(location: tuple[int | str, ...]) -> str:
    """Return pydantic's location of a field as people write it: ``groups[1].reward[3]``."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not (part.startswith("<") and part.endswith(">")):
            name = shown(part) if part.isidentifier() else f"'{shown(part)}'"
            path += f".{name}" if path else name
    return path


_QUOTE = "'"
RENAMED = {"max_steps": "steps"}
"""Keys that libraries or earlier versions have, and what they are called here."""
_SENTENCES = {
    "missing": "must be given, found nothing",
    "string_unicode": "must be text, found half of a surrogate pair",
    "too_short": "must not be empty, found nothing in it",
    "string_too_short": "must not be empty, found nothing in it",
}


def _sentence(fault: ErrorDetails, model: type[BaseModel], close: str) -> str:
    found = kind(fault["input"])
    match fault["type"]:
        case "missing" | "string_unicode" | "too_short" | "string_too_short" as known:
            return _SENTENCES[known]
        case "extra_forbidden":
            if (name := fault["loc"][-1]) in RENAMED:
                return f"must be called {RENAMED[str(name)]} here, found {name}"
            if len(fault["loc"]) == 1:
                return f"must be one of the keys {', '.join(sorted(model.model_fields))}; found another key{close}"
            return f"must not be here: unknown key{close}, found {found}"
        case "string_type":
            return f"must be text (put it in quotes), found {found}"
        case "int_type" | "int_from_float" | "int_parsing" | "int_parsing_size":
            return f"must be an integer, found {found}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"must be a mapping, found {found}"
        case "union_tag_not_found":
            return f"must say its {fault['ctx']['discriminator'].strip(_QUOTE)}, found {found}"
        case "union_tag_invalid":
            key, kinds = (fault["ctx"][part].replace(_QUOTE, "") for part in ("discriminator", "expected_tags"))
            return f"must have the {key} {kinds}, found {kind(fault['input'][key])}"
    wanted = fault["msg"].replace("Input should be ", "must be ").replace("a valid ", "a ")
    return f"{wanted[0].lower()}{shown(wanted[1:], 400)}, found {found}"
