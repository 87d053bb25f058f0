"""Train a policy into a folder, resumably, and load it as a language model again."""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import TrainerCallback

from rlhf_game.errors import InputError, boundary
from rlhf_game.files.conversations import Conversation, Text, document_of, text_of
from rlhf_game.files.identity import digest_of
from rlhf_game.files.run_folder import Progress, unwatched
from rlhf_game.training_backends.lm.checkpoints import find_checkpoint
from rlhf_game.training_backends.lm.models import LanguageModel, load_language_model, load_trainable
from rlhf_game.training_backends.lm.quiet import quiet_transformers
from rlhf_game.training_backends.lm.sampling import check_length
from rlhf_game.training_backends.trainers.distiller import make_distiller
from rlhf_game.training_backends.trainers.policies.best_of_n import (
    PromptBatch,
    choose_winners,
    read_winners,
    winning_rows,
)
from rlhf_game.training_backends.trainers.policies.building import make_settings, make_trainer, ordered_rows
from rlhf_game.training_backends.trainers.policies.policy_folders import (
    CARD,
    COST,
    TrainedFolder,
    begin,
    counted,
    explained,
    finish,
    read_finished,
    train_from_last,
)
from rlhf_game.training_backends.trainers.policies.policy_settings import FAITHFULNESS, Faithfulness, PolicyTraining
from rlhf_game.training_backends.trainers.policies.trainers import NamedReward, TrlReward, refuse_ranks
from rlhf_game.training_backends.trainers.policies.watching import (
    FiniteWeightsCallback,
    ProgressCallback,
    steps_of,
)
from rlhf_game.training_backends.trainers.resuming import KeepsTensors


@final
@dataclass(frozen=True)
class TrainedPolicy(TrainedFolder):
    """A policy that was trained on rewards."""

    tokens: int
    """Read and generated, by all processes."""
    seconds: float
    """Of the steps, those before an interruption included."""
    log: tuple[dict[str, Any], ...]
    """Per step: loss, reward, each group's reward, sequence KL in nats, mean length, tokens so far."""
    faithfulness: Faithfulness


def _named(rewards: Any) -> Mapping[str, TrlReward]:
    """Return rewards by name; those of a list are called by their places."""
    if isinstance(rewards, Mapping):
        return rewards
    if not isinstance(rewards, Sequence) or isinstance(rewards, str) or not all(map(callable, rewards)):
        raise InputError(f"rewards must be a mapping from names to functions or a list of functions, got {rewards!r}")
    return {f"reward {k}": reward for k, reward in enumerate(rewards)}


def train_policy(
    training: PolicyTraining,
    prompts: Sequence[Text],
    rewards: Mapping[str, TrlReward] | Sequence[TrlReward],
    out: Path,
    *,
    columns: Mapping[str, Sequence[Any]] | None = None,
    base: Path | None = None,
    watch: Progress | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainedPolicy:
    """Train a policy into the folder ``out``, going on from its last whole checkpoint; a finished one is only read.

    prompts: [B], texts or messages. rewards: by the name of the group, or a list of them, as training.weights are
    ordered, each asked once per batch. columns: further columns of the prompts, for rewards, [B] each. base: the folder
    that the model's path starts from. Under torchrun or accelerate every process calls this; the first one writes. The
    same training gives the same weights however often it was stopped (on a CPU). Raises InputError when ``out`` is
    another training's or something does not fit, RunError when the training diverges or memory runs out; the last whole
    checkpoint stays.
    """
    watch = watch or unwatched
    columns = columns or {}
    rewards = _named(rewards)
    prompts = [text_of(prompt, f"prompts[{b}]") for b, prompt in enumerate(prompts)]
    if any(isinstance(prompt, Conversation) and prompt.tools for prompt in prompts):
        raise InputError("prompts must have no tools where a policy is trained on rewards, found some")
    if len(rewards) != len(training.weights):
        raise InputError(f"weights must be {len(rewards)}, one per reward, got {len(training.weights)}")
    refuse_ranks(rewards)
    training = replace(training, model=training.model.placed(base))
    document = _document(training, prompts, rewards, columns)
    lengths = f"max_new_tokens (now {training.max_new_tokens})"
    with torch.random.fork_rng(), quiet_transformers(), explained(training.optimization, out, lengths):
        torch.manual_seed(training.optimization.seed)  # a LoRA's first weights
        settings = make_settings(training, out / "checkpoints")
        if settings.should_save:
            begin(document, out)
        settings.distributed_state.wait_for_everyone()
        kept = [digest_of(one) for one in callbacks if isinstance(one, KeepsTensors)]
        if (out / CARD).exists() and json.loads((out / CARD).read_text(encoding="utf-8"))["callbacks"] != kept:
            raise InputError(f"{out}: must be a new folder or that of this training, found one with other callbacks")
        if not (out / CARD).exists():
            trainer = _prepare(training, settings, PromptBatch(prompts, columns), rewards, out, watch, callbacks)
            train_from_last(trainer, out, watch, steps_of)
            drawn = read_winners(out)
            before = {
                "tokens_before": sum(row["tokens"] for part in drawn for row in part["rows"]),
                "seconds_before": sum(part["seconds"] for part in drawn),
            }
            log = steps_of(trainer.state.log_history)
            finish(trainer, out, {**document, "callbacks": kept, **before, **counted(trainer)}, log)
    return _read(out)


def _prepare(
    training: PolicyTraining,
    settings: Any,
    asked: PromptBatch,
    rewards: Mapping[str, TrlReward],
    out: Path,
    watch: Progress,
    callbacks: Sequence[TrainerCallback],
) -> Any:
    model = load_trainable(training.model, training.optimization)
    if model.end_id is None and training.trainer != "best_of_n":
        raise InputError(f"model: {training.model.name} must have a token that ends a response, found none")
    encoded = model.encode_prompts(asked.prompts, training.system)
    check_length(model, encoded, training.max_new_tokens)
    named = [NamedReward(name, reward, model, tuple(asked.columns)) for name, reward in rewards.items()]
    own = [
        FiniteWeightsCallback(training.optimization.learning_rate, training.kl_limit),
        ProgressCallback(watch),
        *callbacks,
    ]
    if training.trainer == "best_of_n":
        if settings.should_save:
            choose_winners(training, model, asked, named, out, settings, watch)
        settings.distributed_state.wait_for_everyone()
        winners = Dataset.from_list(winning_rows(training, model, asked, out))
        return make_distiller(model, settings, winners, training.optimization.lora, own)
    rows = ordered_rows(training, asked.prompts, asked.columns, settings.world_size)
    return make_trainer(training, settings, model, named, rows, own)


def _document(
    training: PolicyTraining,
    prompts: Sequence[Text],
    rewards: Mapping[str, TrlReward],
    columns: Mapping[str, Sequence[Any]],
) -> dict[str, Any]:
    """Return what the folder is of, as JSON has it."""
    told = [list(prompts), {key: list(values) for key, values in columns.items()}]
    asked = json.dumps(told, sort_keys=True, default=document_of)
    document = {
        "training": training.document(),
        "prompts_sha256": hashlib.sha256(asked.encode()).hexdigest(),
        "rewards": {name: digest_of(reward) for name, reward in rewards.items()},
    }
    return json.loads(json.dumps(document))  # type: ignore[no-any-return]


def _read(out: Path) -> TrainedPolicy:
    card, log = read_finished(out, f"{out}: must hold a trained policy")
    return TrainedPolicy(
        folder=out,
        steps=card["steps"],
        tokens=card["tokens"] + card["tokens_before"],
        seconds=json.loads((out / COST).read_text(encoding="utf-8"))["seconds"],
        log=log,
        faithfulness=FAITHFULNESS[card["training"]["trainer"]],
    )


def load_policy(
    folder: Path,
    *,
    device: str = "auto",
    dtype: str = "float32",
    folds_system: bool = False,
    backbone: tuple[str, str | None] | None = None,
    tokenizer: Any = None,
) -> LanguageModel:
    """Load a trained policy: the folder of train_policy, its model/, or one of its checkpoints.

    An adapter is put on the backbone that it was trained on and merged. Its distribution is the policy's at the
    temperature of the training (``PolicyTraining.sampling``). It folds a refused system turn where the training did, or
    with ``folds_system``. backbone: name and revision of what an adapter that was trained elsewhere goes on, where the
    one that it names is no folder here. tokenizer: for a whole model that was saved without one. Raises InputError when
    there is no such policy, or its backbone has other weights now.
    """
    place = folder / "model" if (folder / "model").is_dir() else folder
    folds_system = folds_system or _folded_when_trained(place)
    described = place / "adapter_config.json"
    if not described.exists():
        return load_language_model(
            str(place), device=device, dtype=dtype, folds_system=folds_system, tokenizer=tokenizer
        )
    known = json.loads(described.read_text(encoding="utf-8"))
    name, revision, card = known["base_model_name_or_path"], known.get("revision"), place.parent / CARD
    if card.exists():  # it has the name that was trained on, which may be that of a wheel, not of its copy
        training = json.loads(card.read_text(encoding="utf-8"))["training"]
        name, revision = training["model"], training["revision"]
    elif backbone is not None and not Path(str(name)).is_dir():
        name, revision = backbone
    carrier = load_language_model(name, revision=revision, device=device, dtype=dtype)
    _check_backbone(place, carrier)
    with quiet_transformers(), boundary(f"{place}: must be an adapter of {name}, found", InputError):
        warnings.filterwarnings("error", "Found missing adapter keys")  # or it would be put on in part, or not at all
        merged: Any = PeftModel.from_pretrained(carrier.model, str(place)).merge_and_unload()
    provenance = {**carrier.provenance, "adapter": str(place), "adapter_sha256": find_checkpoint(str(place)).sha256}
    return LanguageModel(merged.eval(), carrier.tokenizer, provenance, folds_system)


def load_beside(folder: Path, reference: LanguageModel, backbone: tuple[str, str | None]) -> LanguageModel:
    """Load a policy that anybody trained, to be asked as the reference is: with its tokenizer, template and ends.

    backbone: name and revision of the reference's weights, on which an adapter goes unless the backbone that it names
    is a folder here. Raises InputError when its tokens are not the reference's.
    """
    device = str(reference.model.device)
    policy = load_policy(folder, device=device, backbone=backbone, tokenizer=reference.tokenizer)
    mine, theirs = reference.tokenizer.get_vocab(), policy.tokenizer.get_vocab()
    apart = next((word for word in mine if theirs.get(word) != mine[word]), None)
    sizes = [int(one.model.config.get_text_config().vocab_size) for one in (policy, reference)]
    if apart is not None or sizes[0] != sizes[1]:
        found = f"{sizes[0]} and {sizes[1]} of them" if apart is None else f"another number for {apart!a}"
        raise InputError(f"{folder}: must have the tokens of the reference, found {found}")
    if policy.model.generation_config is not None:
        policy.model.generation_config.eos_token_id = list(reference.end_ids) or None
    return LanguageModel(policy.model, reference.tokenizer, policy.provenance, reference.folds_system)


def _folded_when_trained(place: Path) -> bool:
    """Return whether the training that made a model, or the checkpoint at ``place``, folded refused system turns."""
    cards = [up / CARD for up in (place.parent, place.parent.parent) if (up / CARD).is_file()]
    return any(json.loads(card.read_text(encoding="utf-8")).get("training", {}).get("fold_system") for card in cards)


def _check_backbone(place: Path, backbone: LanguageModel) -> None:
    card = place.parent / CARD
    if not card.exists():
        return
    trained_on = json.loads(card.read_text(encoding="utf-8"))["reference"].get("sha256")
    if trained_on != backbone.provenance.get("sha256"):
        raise InputError(
            f"{place}: must be used with the backbone that it was trained on, sha256 {trained_on}, found "
            f"{backbone.provenance.get('sha256')}"
        )
