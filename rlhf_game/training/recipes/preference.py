"""Kind ``preference``: a policy trained on pairs by a loss of their margins (DPO and what came after it)."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, final

import numpy as np
from pydantic import AfterValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from rlhf_game import __version__
from rlhf_game.discovery import loss_of, parse
from rlhf_game.errors import InputError
from rlhf_game.files.conversations import Text
from rlhf_game.files.schema import Name, Positive, Strict
from rlhf_game.files.training_fields import Count, LoraSpec, ModelFields, PassesFields, Seed
from rlhf_game.mechanism.arrays import Array
from rlhf_game.optimization import PREFERENCES
from rlhf_game.training.intervals import shown_number, shown_share, standard_error
from rlhf_game.training.kinds import MetricsTable, Task
from rlhf_game.training.outputs import changed_outputs, draw_outputs
from rlhf_game.training.subsets import Rows, Subsets, judge, read_subsets
from rlhf_game.training.training_data import PreferenceFields

if TYPE_CHECKING:
    from rlhf_game.training_backends.trainers.preferences import (
        PreferenceLoss,
        PreferenceTraining,
        TrainedOnPreferences,
    )

LossName: TypeAlias = Literal[
    "dpo",
    "ipo",
    "ipo_summed",
    "slic",
    "kto_pair",
    "lrml",
    "dbaql",
    "aql",
    "aql_code",
    "padll",
    "aqfl",
    "cell",
    "pfl",
    "spce",
]


def _is_expression(text: str) -> str:
    try:
        parse(text)
    except InputError as error:
        raise PydanticCustomError("expression", "{reason}", {"reason": str(error)}) from None
    return text


@final
class ExpressionSpec(Strict):
    """A loss in the language of ``rlhf-game discover``."""

    expression: Annotated[str, AfterValidator(_is_expression)]
    """Of z, the margin, such as softplus(-z)."""


def _form(value: Any) -> str | None:
    if isinstance(value, str):
        return "<name>"
    return "<expression>" if isinstance(value, dict | ExpressionSpec) else None


SomeLoss: TypeAlias = Annotated[
    Annotated[LossName, Tag("<name>")] | Annotated[ExpressionSpec, Tag("<expression>")],
    Discriminator(
        _form, custom_error_type="loss", custom_error_message="must be the name of a loss, or {expression: ..}"
    ),
]


@final
class DivergenceSpec(Strict):
    """How the trained policy's KL to the reference is estimated: responses to held-out prompts."""

    prompts: Count = 32
    """How many."""
    per_prompt: Count = 4
    """Responses to each."""
    max_new_tokens: Count = 64
    """The most tokens of a response."""


@final
class PreferenceConfig(PreferenceFields, PassesFields, ModelFields):
    """A policy, the pairs it is trained on, and the loss."""

    kind: Literal["preference"]
    loss: SomeLoss = "dpo"
    """By name, as an expression, or one's own."""
    beta: Positive = 0.1
    """lambda: the optimum is reference * exp(reward / beta)."""
    strength: Annotated[float | None, Field(ge=0, le=1)] = None
    """Of loss spce: how sure it is that the chosen response is the better one, of every pair alike."""
    start: Name | None = None
    """The folder of an earlier training whose weights this one begins with; the reference stays ``model``."""
    lora: LoraSpec | None = None
    """An adapter; without it all weights are trained."""
    learning_rate: Positive = PREFERENCES.learning_rate
    max_length: Count = 512
    """Tokens of prompt and response; longer pairs are left out, and counted."""
    has_dropout: bool = False
    """Whether the model's dropout is on while it is trained."""
    keeps_checkpoints: bool = False
    """Whether checkpoints stay when the training is done."""
    judged_pairs: Count = 256
    """Of each subset, the first so many pairs that the trained policy is judged on."""
    divergence: DivergenceSpec = DivergenceSpec()
    """How its KL to the reference is estimated."""
    seed: Seed = 0

    def check(self, name: str) -> None:
        """Raise InputError when a strength comes without the loss that has one."""
        if (self.strength is not None) != (self.loss == "spce"):
            raise InputError(
                f"{name}: strength: must be given with loss spce and only there, found loss {self.loss} "
                f"{'with' if self.strength is not None else 'without'} it"
            )
        if self.loss in ("dbaql", "aqfl") and self.batch_size < 2:
            raise InputError(f"{name}: batch_size: must be >= 2 with loss {self.loss}, found {self.batch_size}")

    def models(self) -> Mapping[str, str]:
        """Return the reference, and what the training begins with."""
        return {"model": self.model} if self.start is None else {"model": self.model, "start": self.start}

    def train(self, task: Task) -> dict[str, Any]:
        """Train the policy, then judge it on each subset."""
        from rlhf_game.training_backends.trainers.preferences import train_preferences

        subsets = read_subsets(self, task.base)
        pairs = [(row.prompt, row.chosen, row.rejected) for row in subsets.training]
        trained = train_preferences(
            self.training(), pairs, task.path, columns=self._columns(pairs), base=task.base, watch=task.watch
        )
        metrics = self._metrics(subsets, trained, task)
        task.workspace.write(task.path / "model" / "README.md", _readme(self, subsets, metrics).encode())
        return metrics

    def training(self) -> "PreferenceTraining":
        """Return the training itself. Raises InputError where its fields do not go together."""
        from rlhf_game.training_backends.trainers.preferences import PreferenceTraining

        return PreferenceTraining(
            self.reference,
            self.objective,
            self.beta,
            self.optimization(self.lora, self.seed, keeps_checkpoints=self.keeps_checkpoints),
            start=self.start,
            max_length=self.max_length,
            has_dropout=self.has_dropout,
            system=self.system,
        )

    @property
    def objective(self) -> "PreferenceLoss":
        """The loss itself."""
        from rlhf_game.training_backends.trainers.preferences import find_loss

        return find_loss(self.loss) if isinstance(self.loss, str) else loss_of(parse(self.loss.expression))

    def tables(self, metrics: dict[str, Any]) -> list[MetricsTable]:
        """Return what the policy's implicit reward is worth on pairs, and how far the policy is from the reference."""
        header = ("on", "pairs", "accuracy", "95 % interval", "loss", "margin", "Brier", "length correlation")
        keys = ("loss", "margin", "brier", "length_correlation")
        rows = tuple(
            (
                name,
                str(found["pairs"]),
                *shown_share(found["accuracy"], found["pairs"]),
                *(shown_number(found[key]) for key in keys),
            )
            for name, found in metrics["subsets"].items()
        )
        kl = metrics["sequence_kl"]
        far = (f"{kl['estimate']:.3f}", shown_number(kl["standard_error"]), str(kl["responses"]))
        what = f"The policy's implicit reward on pairs (loss {metrics['loss']}, beta {metrics['beta']})"
        how = ("estimate", "standard error", "drawn")
        return [
            MetricsTable(what, header, rows),
            MetricsTable("KL of the policy to the reference, nats a response", how, (far,)),
        ]

    def _columns(self, rows: Any) -> dict[str, list[float]]:
        return {} if self.strength is None else {"strength": [self.strength] * len(rows)}

    def _metrics(self, subsets: Subsets, trained: "TrainedOnPreferences", task: Task) -> dict[str, Any]:
        from rlhf_game.training_backends import load_reference
        from rlhf_game.training_backends.trainers.policies import load_policy
        from rlhf_game.training_backends.trainers.preferences import sequence_kl

        policy = load_policy(task.path, device=self.device)
        reference = load_reference(self.reference, task.base)
        judged = {}
        for k, (name, rows) in enumerate(subsets.judged.items()):
            task.watch("judge the policy", k, len(subsets.judged))
            judged[name] = self._judged(policy, reference, rows[: self.judged_pairs])
        how, prompts = self.divergence, _prompts(subsets.judged["test"], self.divergence.prompts)
        task.watch("draw from the policy", 0, 1)
        outputs = [
            draw_outputs(model, prompts, max_new_tokens=how.max_new_tokens, seed=self.seed, system=self.system)
            for model in (reference, policy)
        ]
        ratios = sequence_kl(
            policy, reference, prompts, per_prompt=how.per_prompt, max_new_tokens=how.max_new_tokens, seed=self.seed,
            system=self.system,
        )  # fmt: skip
        return {
            "kind": self.kind,
            "loss": self.loss if isinstance(self.loss, str) else self.loss.expression,
            "beta": self.beta,
            "training": {"steps": trained.steps, "tokens": trained.tokens, "dropped_pairs": trained.dropped},
            "subsets": judged,
            "sequence_kl": {**_mean_of_prompts(ratios), "max_new_tokens": how.max_new_tokens},
            "outputs": changed_outputs(prompts, *outputs),
        }

    def _judged(self, policy: Any, reference: Any, rows: Rows) -> dict[str, Any]:
        from rlhf_game.training_backends.trainers.preferences import judge_pairs

        pairs = [(row.prompt, row.chosen, row.rejected) for row in rows]
        columns = {name: np.array(values) for name, values in self._columns(pairs).items()}
        loss = self.objective
        found = judge_pairs(policy, reference, pairs, loss, self.beta, system=self.system, columns=columns)
        return {
            **judge((self.beta * found.chosen, self.beta * found.rejected), rows),
            "loss": float(found.losses.mean()) if len(rows) >= loss.smallest_batch else None,
            "margin": float(found.margins.mean()),
            "reward_chosen": float(self.beta * found.chosen.mean()),
            "reward_rejected": float(self.beta * found.rejected.mean()),
        }


def _prompts(rows: Rows, count: int) -> list[Text]:
    return list(dict.fromkeys(row.prompt for row in rows))[:count]


def _mean_of_prompts(ratios: Array) -> dict[str, Any]:
    """Return the mean of log-ratios [B, k] and its standard error, draws of one prompt taken together."""
    of_prompts = ratios.mean(axis=1)
    spread = ratios.ravel() if len(of_prompts) == 1 else of_prompts
    return {
        "estimate": float(of_prompts.mean()),
        "standard_error": standard_error(spread),
        "responses": int(ratios.size),
    }


def _readme(fields: PreferenceConfig, subsets: Subsets, metrics: dict[str, Any]) -> str:
    kl, how = metrics["sequence_kl"], "an adapter (LoRA)" if fields.lora is not None else "whole weights"
    lines = [
        "# Policy trained on preferences",
        "",
        f"Made by rlhf-game {__version__}: `{fields.model}`, loss `{metrics['loss']}`, beta {fields.beta}, {how}, "
        f"seed {fields.seed}.",
        "",
        f"* Data: `{subsets.source}` (sha256 {subsets.sha256}), {len(subsets.training)} pairs, of which "
        f"{metrics['training']['dropped_pairs']} were too long.",
        f"* Share of training labels turned round: {fields.flip}.",
        f"* KL to the reference: {kl['estimate']:.3f} nats a response (standard error "
        f"{shown_number(kl['standard_error'])}, {kl['responses']} responses of at most {kl['max_new_tokens']} tokens).",
        "* Its implicit reward is only known up to a constant of each prompt.",
        "* Weights: safetensors only. The same as data: `policy.json` beside this folder.",
        "",
        "| on | pairs | loss | margin | accuracy |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {found['pairs']} | {shown_number(found['loss'])} | {found['margin']:.3f} | "
            f"{found['accuracy']:.3f} |"
            for name, found in metrics["subsets"].items()
        ),
        "",
        "```json",
        json.dumps(fields.model_dump(mode="json", exclude_none=True), indent=1),
        "```",
        "",
    ]
    return "\n".join(lines)
