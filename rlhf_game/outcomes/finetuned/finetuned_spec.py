"""Outcomes of kind finetuned: what a configuration may say about the training, the payments and the draws."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias, final

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from rlhf_game.files.documents import shown
from rlhf_game.files.sampled import PaymentsFrom
from rlhf_game.files.schema import Name, Positive
from rlhf_game.files.training_fields import LoraSpec, PolicyTrainerFields
from rlhf_game.mechanism.reports import LARGEST_SIZE
from rlhf_game.optimization import FINETUNED
from rlhf_game.outcomes.served_draws import ServerSpec

Count: TypeAlias = Annotated[int, Field(ge=1, le=1_000_000)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
OF_DRAWS = frozenset(
    {
        "kind", "policy", "draws", "servers", "max_new_tokens", "temperature", "payments_from", "samples", "choosing",
        "level", "size_limit", "cap",
    }
)  # fmt: skip
"""What is said of a policy that is there already; everything else is of a training."""


@final
class FinetunedSpec(PolicyTrainerFields):
    """The outcome is a policy that is trained, and known through samples."""

    kind: Literal["finetuned"]
    policy: Name | None = None
    """A checkpoint that somebody trained already, an adapter or a whole model: nothing is trained."""
    draws: Name | None = None
    """A file of draws that somebody made, with ``settle --draws``: nothing is drawn either."""
    servers: dict[Literal["policy", "reference"], ServerSpec] = {}
    """Servers that generate the draws of a policy that is there already, or of the reference."""
    learning_rate: Positive = FINETUNED.learning_rate
    lora: LoraSpec | Literal["full"] = LoraSpec()
    """An adapter, or full: all weights."""
    payments_from: PaymentsFrom = "samples"
    """What the bills are computed from."""
    stop_after: Count | None = None
    """Steps of each training without a group; with payments_from early_stopped."""
    grid: Annotated[int, Field(ge=1, le=100)] = 4
    """Of soups: weights of the groups' own policies are multiples of 1 / grid."""
    samples: Annotated[int, Field(ge=2, le=1_000_000)] = 64
    """Drawn for each prompt from the reference and from every policy."""
    choosing: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Drawn beside them from the reference and the trained policy, to choose which of both is delivered; None: as many
    as ``samples``; 0: the trained one is. Nothing is chosen among soups, of which the reference is one."""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Of the intervals."""
    size_limit: Annotated[int, Field(ge=1, le=LARGEST_SIZE)] | None = None
    """The largest size that may be reported."""
    cap: Positive | None = None
    """Of |log(policy / reference)|, in nats; None: the least that is valid for the size limit, or else for the sizes as
    they are reported, and then nothing bounds what a lie gains: the sizes move the cap."""
    allow_gap: bool = False
    """Charge for the policy of a trainer whose optimum is not the mechanism's; the receipt says how far it is."""

    @field_validator("choosing")
    @classmethod
    def _enough(cls, choosing: int | None) -> int | None:
        if choosing == 1:
            raise PydanticCustomError("choosing", "must be 0 or at least 2")
        return choosing

    @property
    def draws_that_choose(self) -> int:
        """Draws for each prompt that choose between the reference and the trained policy."""
        if self.payments_from == "soups":
            return 0
        return self.samples if self.choosing is None else self.choosing

    @field_validator("stop_after")
    @classmethod
    def _fewer(cls, stop_after: int | None, info: Any) -> int | None:
        if stop_after is not None and info.data.get("payments_from") != "early_stopped":
            raise PydanticCustomError("stop_after", "must be with payments_from early_stopped only")
        return stop_after

    def fault(self, sizes: Mapping[str, int]) -> str | None:
        """Return what is wrong with fields that do not go together, beginning with one of them. sizes: as reported."""
        largest = max(sizes, key=lambda name: sizes[name])
        if self.size_limit is not None and sizes[largest] > self.size_limit:
            return f"size_limit: must be at least the size of every group, found {sizes[largest]} of {shown(largest)!r}"
        if self.policy is not None or self.draws is not None:
            return self._fault_of_given()
        if "policy" in self.servers:
            return "servers.policy: must be with a policy that is there already, found it without"
        step = self.batch_size * self.accumulation_steps
        if self.payments_from == "early_stopped" and self.stop_after is None:
            return "stop_after: must be given with payments_from early_stopped, found nothing"
        if step % self.num_generations:
            return f"num_generations: must divide the {step} responses of a step, found {self.num_generations}"
        if self.ppo is not None and self.trainer != "ppo":
            return f"ppo: must be with trainer ppo only, found it with {self.trainer}"
        return None

    def _fault_of_given(self) -> str | None:
        """Return what is wrong with fields of a policy that is not trained here."""
        if self.payments_from not in ("samples", "reference"):
            return (
                f"payments_from: must be samples or reference with a policy that is there already, found "
                f"{self.payments_from}"
            )
        for name, field in type(self).model_fields.items():
            if name not in OF_DRAWS and getattr(self, name) != field.get_default():
                return f"{name}: must not be here with a policy that is there already, found it"
        return None
