"""The configuration of a discovery, read and checked."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, final

from pydantic import Discriminator, Field, Tag

from rlhf_game.chat.chat_specs import SomeModel
from rlhf_game.discovery.expressions import Limits
from rlhf_game.errors import InputError
from rlhf_game.files.documents import shown
from rlhf_game.files.schema import Name, Nonnegative, Positive, Strict, parse_model
from rlhf_game.outcomes.run_config import read_document
from rlhf_game.rewards.calibration_specs import tag_of

Count: TypeAlias = Annotated[int, Field(ge=1, le=100_000)]
Few: TypeAlias = Annotated[int, Field(ge=1, le=999)]
"""What a candidate's name has three digits for."""


@final
class EvolutionSpec(Strict):
    """Mutation and crossover of expressions; needs no network."""

    kind: Literal["evolution"]
    elite: Count = 12
    """The best so many, which are parents."""
    tournament: Count = 3
    """Of so many that are drawn at random the best one is a parent."""
    newcomers: Annotated[float, Field(ge=0, le=1)] = 0.15
    """The share of new candidates that have no parents."""
    parsimony: Nonnegative = 0.001
    """What each node of an expression costs its score as a parent."""


@final
class WriterSpec(Strict):
    """A language model that is shown the archive."""

    kind: Literal["model"]
    model: SomeModel
    """Who proposes."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Of what it writes."""
    max_tokens: Count = 512
    """The most tokens that it writes."""


@final
class LimitsSpec(Strict):
    """How large a candidate may be, and how long its training on one task may take."""

    size: Annotated[int, Field(ge=1, le=500)] = 40
    """Nodes of an expression."""
    depth: Annotated[int, Field(ge=1, le=50)] = 10
    """Of an expression."""
    seconds: Positive = 60.0
    """Generous, since what takes longer is rejected: on a slower machine that would be another result."""

    def limits(self) -> Limits:
        """Return those of the expression."""
        return Limits(self.size, self.depth)


@final
class TaskSpec(Strict):
    """The preference tasks on which candidates are trained and scored."""

    count: Annotated[int, Field(ge=1, le=1000)] = 4
    """Tasks that give a candidate its score."""
    held_out: Annotated[int, Field(ge=2, le=1000)] = 16
    """Other tasks, on which the best candidate is compared with the known losses at the end."""
    prompts: Annotated[int, Field(ge=1, le=100)] = 4
    """Of a task."""
    tokens: Annotated[int, Field(ge=2, le=10)] = 4
    """Of its vocabulary."""
    length: Annotated[int, Field(ge=1, le=4)] = 3
    """Tokens of a response."""
    pairs: Count = 64
    """That a task is trained on."""
    beta: Positive = 0.5
    """lambda of the policy that is trained."""
    flip: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """The share of labels turned round."""
    steps: Count = 60
    """Of the training."""
    batch_size: Annotated[int, Field(ge=2, le=100_000)] = 32
    """Pairs in a step."""
    learning_rate: Positive = 0.1
    """Of the training."""


@final
class DiscoveryConfig(Strict):
    """What is searched, by whom, and on what tasks."""

    generations: Few = 10
    """Rounds of proposing and scoring."""
    population: Few = 16
    """Candidates in each generation."""
    proposer: Annotated[
        Annotated[EvolutionSpec, Tag("<evolution>")] | Annotated[WriterSpec, Tag("<model>")],
        Discriminator(tag_of, custom_error_type="proposer", custom_error_message="must have kind evolution or model"),
    ] = EvolutionSpec(kind="evolution")
    """What proposes candidates."""
    limits: LimitsSpec = LimitsSpec()
    """What a candidate may be."""
    tasks: TaskSpec = TaskSpec()
    """What candidates are scored on."""
    baselines: Annotated[list[Name], Field(min_length=1)] = ["dpo", "slic", "lrml"]
    """Known losses to be compared with; evolution does not see them. The first is the one to be beaten."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of everything that is random."""


@final
@dataclass(frozen=True)
class DiscoveryConfiguration:
    """A configuration and the folder that its paths start from."""

    fields: DiscoveryConfig
    base: Path

    def document(self) -> dict[str, Any]:
        """Return the canonical content: what config.json holds and what must not change in a folder."""
        return self.fields.model_dump(mode="json", exclude_none=True)


def read_discovery(path: str | os.PathLike[str], settings: Sequence[str] = ()) -> DiscoveryConfiguration:
    """Return the configuration of a .yaml or .json file. settings: fields to set, each ``path=value``.

    Raises InputError that names file and field.
    """
    document, name = read_document(path, "discovery", settings)
    fields = parse_model(DiscoveryConfig, document, name)
    if fields.tasks.tokens**fields.tasks.length > 4096:
        raise InputError(
            f"{name}: tasks.length: must leave at most 4096 responses to list, found {fields.tasks.tokens} tokens to "
            f"the power of {fields.tasks.length}"
        )
    for i, loss in enumerate(fields.baselines):
        if loss in fields.baselines[:i]:
            raise InputError(f"{name}: baselines[{i}]: must differ from the others, found {shown(loss)!r} twice")
    return DiscoveryConfiguration(fields, Path(path).parent)
