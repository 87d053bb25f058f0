"""Train a policy into a folder, resumably, and load it as a language model again."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from peft import PeftModel
from transformers import TrainerCallback

from rlhf_game.errors import InputError, RunError
from rlhf_game.files.atomic import write_json, write_text
from rlhf_game.training_backends.checkpoints import find_checkpoint
from rlhf_game.training_backends.models import LanguageModel, load_language_model, quiet_transformers
from rlhf_game.training_backends.policies.best_of_n import Asked, choose_winners, make_distiller, read_winners
from rlhf_game.training_backends.policies.building import make_settings, make_trainer, ordered_rows
from rlhf_game.training_backends.policies.settings import FAITHFULNESS, Faithfulness, PolicyTraining, Tunable
from rlhf_game.training_backends.policies.trainers import NamedReward, Reward
from rlhf_game.training_backends.policies.watching import Guard, Told, Watch, steps_of
from rlhf_game.training_backends.resuming import checkpoints, last_checkpoint
from rlhf_game.training_backends.sampling import check_length

CARD = "policy.json"
"""The last file of a trained policy that is written: where it is, the policy is whole."""


@final
@dataclass(frozen=True)
class TrainedPolicy:
    """A policy that was trained, in its folder: model/, steps.jsonl and policy.json."""

    folder: Path
    steps: int
    tokens: int
    """Read and generated, by all processes."""
    seconds: float
    """Of the steps, those before an interruption included."""
    log: tuple[dict[str, Any], ...]
    """Per step: loss, reward, each group's reward, sequence KL in nats, mean length, tokens so far, seconds."""
    faithfulness: Faithfulness

    @property
    def model(self) -> Path:
        """The folder of the weights: a whole model, or an adapter."""
        return self.folder / "model"

    @property
    def checkpoints(self) -> tuple[Path, ...]:
        """The checkpoints that were kept, the oldest first; each is a model that load_policy reads."""
        return tuple(checkpoints(self.folder / "checkpoints"))


def train_policy(
    training: PolicyTraining,
    prompts: Sequence[str],
    rewards: Mapping[str, Reward],
    out: Path,
    *,
    columns: Mapping[str, Sequence[Any]] | None = None,
    base: Path | None = None,
    watch: Watch | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainedPolicy:
    """Train a policy into the folder ``out``, going on from its last whole checkpoint; a finished one is only read.

    rewards: by the name of the group, in the order of training.weights, each asked once per batch. columns: further
    columns of the prompts, for rewards, [B] each. base: the folder that the model's path starts from. Under torchrun or
    accelerate every process calls this; the first one writes. The same training gives the same weights however often it
    was stopped (on a CPU). Raises InputError when ``out`` is another training's or something does not fit, RunError
    when the training diverges or memory runs out; the last whole checkpoint stays.
    """
    watch = watch or _unwatched
    columns = columns or {}
    if len(rewards) != len(training.weights):
        raise InputError(f"weights must be {len(rewards)}, one per reward, got {len(training.weights)}")
    training = replace(training, model=place_of_model(training.model, base))
    document = _document(training, prompts, rewards, columns)
    with torch.random.fork_rng(), quiet_transformers(), explained(training, out):
        torch.manual_seed(training.seed)  # a LoRA's first weights
        settings = make_settings(training, out / "checkpoints")
        if settings.should_save:
            begin(document, out)
        settings.distributed_state.wait_for_everyone()
        if not (out / CARD).exists():
            trainer = _prepare(training, settings, Asked(prompts, columns), rewards, out, watch, callbacks)
            train_from_last(trainer, out, watch)
            drawn = read_winners(out)
            before = {
                "tokens_before": sum(row["tokens"] for part in drawn for row in part["rows"]),
                "seconds_before": sum(part["seconds"] for part in drawn),
            }
            finish(trainer, out, {**document, **before}, steps_of(trainer.state.log_history))
    return read_policy(out)


def place_of_model(model: str, base: Path | None) -> str:
    """Return a model's name as the folder keeps it: a folder or file by its whole path."""
    path = (base or Path()) / Path(model).expanduser()
    return str(path.resolve()) if path.exists() else model


def train_from_last(trainer: Any, out: Path, watch: Watch) -> None:
    """Train what is left after the last whole checkpoint in the folder ``out``."""
    work = out / "checkpoints"
    if trainer.args.should_save:
        last_checkpoint(work)  # drops what is not whole
    trainer.accelerator.wait_for_everyone()
    whole = checkpoints(work)
    if whole and trainer.args.should_save:
        watch(f"resume from {whole[-1].name}", int(whole[-1].name.rpartition("-")[2]), trainer.args.max_steps)
    trainer.train(resume_from_checkpoint=str(whole[-1]) if whole else None)


def _unwatched(what: str, done: int, total: int) -> None:
    """Do nothing."""


def _prepare(
    training: PolicyTraining,
    settings: Any,
    asked: Asked,
    rewards: Mapping[str, Reward],
    out: Path,
    watch: Watch,
    callbacks: Sequence[TrainerCallback],
) -> Any:
    # A LoRA's backbone is frozen and may be coarse; weights that are trained in bfloat16 would swallow small updates.
    dtype = training.dtype if training.lora is not None else "float32"
    model = load_language_model(training.model, revision=training.revision, device="cpu", dtype=dtype)
    encoded = [model.encode_prompt(text, training.system) for text in asked.prompts]
    check_length(model, encoded, training.max_new_tokens)
    named = [NamedReward(name, reward, model, tuple(asked.columns)) for name, reward in rewards.items()]
    own = [Guard(training), Told(watch), *callbacks]
    if training.trainer == "best_of_n":
        if settings.should_save:
            choose_winners(training, model, asked, named, out, settings, watch)
        settings.distributed_state.wait_for_everyone()
        return make_distiller(training, settings, model, asked, out, own)
    rows = ordered_rows(training, asked.prompts, asked.columns, settings.world_size)
    return make_trainer(training, settings, model, named, rows, own)


def _document(
    training: PolicyTraining,
    prompts: Sequence[str],
    rewards: Mapping[str, Reward],
    columns: Mapping[str, Sequence[Any]],
) -> dict[str, Any]:
    """Return what the folder is of, as JSON has it."""
    asked = json.dumps([list(prompts), {key: list(values) for key, values in columns.items()}], sort_keys=True)
    document = {
        "training": training.document(),
        "prompts_sha256": hashlib.sha256(asked.encode()).hexdigest(),
        "rewards": list(rewards),
    }
    return json.loads(json.dumps(document))  # type: ignore[no-any-return]


def begin(document: dict[str, Any], out: Path) -> None:
    """Say in the folder what it is of; raise InputError when it is another training's already."""
    known = out / "training.json"
    if not known.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_json(known, document)
        return
    before = json.loads(known.read_text(encoding="utf-8"))
    if before != document:
        key = next(key for key in document if before.get(key) != document[key])
        raise InputError(f"{out}: must be a new folder or that of this training, found one with other {key}")


@contextmanager
def explained(training: Tunable, out: Path) -> Iterator[None]:
    """Turn what torch says when memory runs out or a model is broken into a message that says what to do."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RunError):
            raise
        said = str(error)
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in said:
            raise RunError(f"memory ran out; lower {_what_to_lower(training)}; {_kept(out)}") from error
        if "probability tensor contains" in said:
            raise RunError(
                f"the policy's probabilities are no numbers any more; lower learning_rate (now "
                f"{training.learning_rate}); {_kept(out)}"
            ) from error
        raise


def _what_to_lower(training: Tunable) -> str:
    if training.batch_size > 1:
        return (
            f"batch_size (now {training.batch_size}) and raise accumulation_steps (now {training.accumulation_steps}) "
            "by as much, which changes nothing else"
        )
    return f"max_new_tokens (now {training.max_new_tokens})" + ("" if training.lora else ", or train a lora")


def _kept(out: Path) -> str:
    whole = checkpoints(out / "checkpoints")
    return f"the last good checkpoint is {whole[-1]}" if whole else "there is no checkpoint yet"


def finish(trainer: Any, out: Path, document: dict[str, Any], log: Sequence[Mapping[str, Any]]) -> None:
    """Write the model whole or not at all, the log, and the card; drop checkpoints that are not to be kept.

    log: of each step, its ``seconds`` among the rest.
    """
    fresh, kept = out / "model.tmp", out / "model"
    trainer.save_model(str(fresh))
    trainer.accelerator.wait_for_everyone()
    if trainer.args.should_save:
        (fresh / "README.md").unlink(missing_ok=True)  # peft's form, not filled in
        shutil.rmtree(kept, ignore_errors=True)
        fresh.rename(kept)
        write_text(out / "steps.jsonl", "".join(json.dumps(row) + "\n" for row in log))
        card = {
            **document,
            "steps": int(trainer.state.global_step),
            "tokens": int(trainer.state.num_input_tokens_seen),
            "seconds": sum(row["seconds"] for row in log),
            "reference": dict(trainer.language_model.provenance),
            "model_sha256": find_checkpoint(str(kept)).sha256,
        }
        write_json(out / CARD, card)
        if not document["training"]["keeps_checkpoints"]:
            shutil.rmtree(out / "checkpoints", ignore_errors=True)
    trainer.accelerator.wait_for_everyone()


def read_policy(out: Path) -> TrainedPolicy:
    """Return the finished policy in a folder. Raises InputError when there is none."""
    try:
        card = json.loads((out / CARD).read_text(encoding="utf-8"))
        lines = (out / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{out}: must hold a trained policy, found no {CARD}") from error
    return TrainedPolicy(
        folder=out,
        steps=card["steps"],
        tokens=card["tokens"] + card["tokens_before"],
        seconds=card["seconds"] + card["seconds_before"],
        log=tuple(json.loads(line) for line in lines),
        faithfulness=FAITHFULNESS[card["training"]["trainer"]],
    )


def load_policy(folder: Path, *, device: str = "auto", dtype: str = "float32") -> LanguageModel:
    """Load a trained policy: the folder of train_policy, its model/, or one of its checkpoints.

    An adapter is put on the backbone that it was trained on and merged. Its distribution is the policy's at the
    temperature of the training (``PolicyTraining.sampling``). Raises InputError when there is no such policy, or its
    backbone has other weights now.
    """
    place = folder / "model" if (folder / "model").is_dir() else folder
    described = place / "adapter_config.json"
    if not described.exists():
        return load_language_model(str(place), device=device, dtype=dtype)
    known = json.loads(described.read_text(encoding="utf-8"))
    name, revision, card = known["base_model_name_or_path"], known.get("revision"), place.parent / CARD
    if card.exists():  # it has the name that was trained on, which may be that of a wheel, not of its copy
        training = json.loads(card.read_text(encoding="utf-8"))["training"]
        name, revision = training["model"], training["revision"]
    backbone = load_language_model(name, revision=revision, device=device, dtype=dtype)
    _check_backbone(place, backbone)
    with quiet_transformers():
        merged: Any = PeftModel.from_pretrained(backbone.model, str(place)).merge_and_unload()
    provenance = {**backbone.provenance, "adapter": str(place), "adapter_sha256": find_checkpoint(str(place)).sha256}
    return LanguageModel(merged.eval(), backbone.tokenizer, provenance)


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
