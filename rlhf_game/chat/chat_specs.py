"""What a configuration may say about a language model that is asked: on this machine, or behind an endpoint."""

import re
from abc import ABC
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, final

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from rlhf_game.chat import REPLIES, Chat, ChatModel, Endpoint, Ledger, LocalModel, Prices
from rlhf_game.chat.keys import is_address
from rlhf_game.files.hints import OrText
from rlhf_game.files.schema import AboveLow, Name, Nonnegative, Positive, Strict

_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")


def _hide_what_is_no_variable(value: Any) -> Any:
    """Let a key that was written where its variable's name belongs not reach the message."""
    return "[hidden]" if isinstance(value, str) and not _VARIABLE.fullmatch(value) else value


def _check_variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise PydanticCustomError(
            "variable", "must be the name of the environment variable that holds the key (capitals, digits and _)"
        )
    return name


def _hide_passwords(value: Any) -> Any:
    return "[hidden]" if isinstance(value, str) and re.match(r"\w+://[^/]*@", value) else value


def _check_address(url: str) -> str:
    if not is_address(url):
        raise PydanticCustomError("address", "must start with http:// or https:// and hold no user and no password")
    return url


KeyName: TypeAlias = Annotated[str, AfterValidator(_check_variable), BeforeValidator(_hide_what_is_no_variable)]
WebAddress: TypeAlias = Annotated[str, AfterValidator(_check_address), BeforeValidator(_hide_passwords)]
Retries: TypeAlias = Annotated[int, Field(ge=0, le=100)]
Workers: TypeAlias = Annotated[int, Field(ge=1, le=1000)]


class GradingFields(Strict, ABC):
    """From where to where grades go, and what counts where an answer has none."""

    low: float = 1.0
    """The grade that becomes 0."""
    high: AboveLow = 10.0
    """The grade that becomes 1."""
    ungraded: Literal["fail"] | float = "fail"
    """fail, or the grade that counts where there is none, also when it was asked for again."""

    @field_validator("ungraded")
    @classmethod
    def _on_the_scale(cls, ungraded: Literal["fail"] | float, info: Any) -> Literal["fail"] | float:
        low, high = info.data.get("low", float("-inf")), info.data.get("high", float("inf"))
        if ungraded != "fail" and not low <= ungraded <= high:
            raise PydanticCustomError("ungraded", "must be fail or a grade from low to high")
        return ungraded

    @property
    def declared(self) -> float | None:
        """The grade that counts where there is none; None: it is an error."""
        return None if self.ungraded == "fail" else self.ungraded


@final
class PricesSpec(Strict):
    """What a million tokens cost, in any one currency."""

    prompt: Nonnegative
    """Of tokens that are read."""
    completion: Nonnegative
    """Of tokens that are written."""


@final
class ChatEndpointSpec(Strict):
    """An OpenAI-compatible endpoint."""

    url: WebAddress
    """Where /chat/completions is, such as https://api.openai.com/v1."""
    key_env: KeyName | None = None
    """The environment variable that holds the key."""
    timeout: Positive = 60.0
    """Seconds until a request is given up."""
    retries: Retries = 4
    """How often a request that failed is sent again."""
    workers: Workers = 4
    """Requests at the same time."""
    options: dict[str, Any] = {}
    """Further fields of the body of every request."""
    prices: PricesSpec | None = None
    """To estimate what a run costs."""
    cache: Name | None = None
    """The folder that keeps the answers, for several runs to share; the run's own otherwise."""


def _at(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


@final
class ModelSpec(Strict):
    """A language model."""

    name: Name
    """A folder, an installed model, a .gguf file or a name on the hub; at an endpoint what it calls the model."""
    revision: Name | None = None
    """The commit on the hub."""
    device: Name = "auto"
    """Where torch computes: auto, cpu, cuda, cuda:1, ..."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """The precision of its weights."""
    fold_system: bool = False
    """Put a system turn that the model's chat template refuses at the beginning of the first user turn."""
    endpoint: Annotated[ChatEndpointSpec | None, BeforeValidator(_at), OrText()] = None
    """Where it is asked, an address or more about it; None: on this machine."""

    @model_validator(mode="after")
    def _folded_here(self) -> "ModelSpec":
        if self.fold_system and self.endpoint is not None:
            raise PydanticCustomError(
                "fold_system", "must have no fold_system beside an endpoint, which applies its own chat template"
            )
        return self


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


SomeModel: TypeAlias = Annotated[ModelSpec, BeforeValidator(_named), OrText()]


def open_chat(spec: ModelSpec, base: Path, calls: Path, *, seed: int = 0, batch_size: int = 16) -> Chat:
    """Return the language model, asked in a way that keeps answers and accounts in the folder ``calls``."""
    model, retries = _model(spec, base, seed, batch_size), 0 if spec.endpoint is None else spec.endpoint.retries
    return Chat.kept_in(calls, model, cache=_shared(spec, base), prices=_prices(spec), retries=retries)


def dry_chat(spec: ModelSpec, base: Path, calls: Path, ledger: Ledger, *, seed: int = 0) -> Chat:
    """Return a chat that counts what would be asked of the language model beyond what is kept, and asks nothing."""
    kept = _shared(spec, base) or calls / REPLIES
    return Chat.dry(_model(spec, base, seed, 1), ledger, cache=kept, prices=_prices(spec))


def _model(spec: ModelSpec, base: Path, seed: int, batch_size: int) -> ChatModel:
    to = spec.endpoint
    if to is None:
        return LocalModel(spec.name, spec.revision, spec.device, spec.dtype, base, batch_size, seed)
    return Endpoint(spec.name, to.url, to.key_env, to.timeout, to.retries, workers=to.workers, options=to.options)


def _shared(spec: ModelSpec, base: Path) -> Path | None:
    return None if spec.endpoint is None or spec.endpoint.cache is None else base / spec.endpoint.cache


def _prices(spec: ModelSpec) -> Prices | None:
    given = None if spec.endpoint is None else spec.endpoint.prices
    return None if given is None else Prices(given.prompt, given.completion)
