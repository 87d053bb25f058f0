"""The folder of a training: what it is of, how it goes on, what a failure says, and what is written at the end."""

import json
import shutil
from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file

from rlhf_game.errors import InputError, RunError
from rlhf_game.files.run_folder import Progress
from rlhf_game.files.workspace import Workspace
from rlhf_game.optimization import Optimization, Pretrained
from rlhf_game.training_backends.lm.checkpoints import find_checkpoint
from rlhf_game.training_backends.trainers.policies.watching import StepLogCallback, StepRows
from rlhf_game.training_backends.trainers.resuming import checkpoints, last_checkpoint

STEPS, COST, LOGS = "steps.jsonl", "cost.json", "logs"
"""A row for each step, their seconds, and what ``report_to`` leaves."""
CARD = "policy.json"
"""The last file of a trained policy that is written: where it is, the policy is whole."""


@dataclass(frozen=True)
class TrainedFolder(ABC):
    """A training that is done, in its folder: model/, steps.jsonl and policy.json; load_policy reads it."""

    folder: Path
    steps: int

    @property
    def model(self) -> Path:
        """The folder of the weights: a whole model, or an adapter."""
        return self.folder / "model"

    @property
    def checkpoints(self) -> tuple[Path, ...]:
        """The checkpoints that were kept, the oldest first; each is a model that load_policy reads."""
        return tuple(checkpoints(self.folder / "checkpoints"))


def begin(document: dict[str, Any], out: Path) -> None:
    """Say in the folder what it is of; raise InputError when it is another training's or a file in it was changed."""
    workspace = Workspace(out)
    workspace.cut()
    before = workspace.kept(out / "training.json", lambda: document)
    if before != document:
        key = next(key for key in document if before.get(key) != document[key])
        raise InputError(f"{out}: must be a new folder or that of this training, found one with other {key}")
    workspace.check()


def train_from_last(trainer: Any, out: Path, watch: Progress, rows: StepRows) -> None:
    """Train what is left after the last whole checkpoint in the folder ``out``; steps.jsonl grows with it.

    rows: what a Trainer's log becomes there.
    """
    trainer.add_callback(StepLogCallback(out / STEPS, rows))
    work = out / "checkpoints"
    if trainer.args.should_save:
        last_checkpoint(work)  # drops what is not whole
    trainer.accelerator.wait_for_everyone()
    whole = checkpoints(work)
    if whole and trainer.args.should_save:
        watch(f"resume from {whole[-1].name}", int(whole[-1].name.rpartition("-")[2]), trainer.args.max_steps)
    trainer.train(resume_from_checkpoint=str(whole[-1]) if whole else None)


@contextmanager
def explained(how: Optimization, out: Path, lengths: str) -> Iterator[None]:
    """Turn what torch says when memory runs out or a model is broken into a message that says what to do.

    lengths: the setting that says how long sequences may be, and its value.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        cause = error.__cause__ if isinstance(error, RunError) else error  # a reward may run out of it too
        said = str(cause)
        if isinstance(cause, torch.OutOfMemoryError | MemoryError) or "allocate memory" in said:
            raise RunError(f"memory ran out; lower {_what_to_lower(how, lengths)}; {_kept(out)}") from error
        if "probability tensor contains" in said:
            raise RunError(
                f"the policy's probabilities are no numbers any more; lower learning_rate (now "
                f"{how.learning_rate}); {_kept(out)}"
            ) from error
        raise


def _what_to_lower(how: Optimization, lengths: str) -> str:
    if how.batch_size > 1:
        return (
            f"batch_size (now {how.batch_size}) and raise accumulation_steps (now {how.accumulation_steps}) by as "
            "much, which changes nothing else"
        )
    return lengths + ("" if how.lora else ", or train a lora")


def _kept(out: Path) -> str:
    whole = checkpoints(out / "checkpoints")
    return f"the last good checkpoint is {whole[-1]}" if whole else "there is no checkpoint yet"


def finish(trainer: Any, out: Path, document: dict[str, Any], log: Sequence[Mapping[str, Any]]) -> None:
    """Write the model whole or not at all, the log, the seconds and the card; drop checkpoints that are not to be kept.

    document: what the card says besides the steps and the SHA-256 of the model; its ``seconds_before`` are those before
    the first step. log: a row for each step; its seconds go to cost.json, the one file that differs when a training is
    repeated. What trackers wrote beside the checkpoints (``report_to``) is kept in logs/.
    """
    fresh, kept = out / "model.tmp", out / "model"
    trainer.save_model(str(fresh))
    trainer.accelerator.wait_for_everyone()
    if trainer.args.should_save:
        (fresh / "README.md").unlink(missing_ok=True)  # peft's form, not filled in
        shutil.rmtree(kept, ignore_errors=True)
        fresh.rename(kept)
        workspace = Workspace(out)
        workspace.adopt(kept)
        steps = [{key: value for key, value in row.items() if key != "seconds"} for row in log]
        seconds = [float(row["seconds"]) for row in log if "seconds" in row]
        workspace.write(out / STEPS, "".join(json.dumps(row) + "\n" for row in steps).encode())
        before = float(document.get("seconds_before", 0.0))
        workspace.write_json(out / COST, {"seconds": before + sum(seconds), "steps": seconds})
        card = {
            **{key: value for key, value in document.items() if key != "seconds_before"},
            "steps": int(trainer.state.global_step),
            "model_sha256": find_checkpoint(str(kept)).sha256,
        }
        if document["training"]["keeps_checkpoints"]:
            workspace.adopt(out / "checkpoints")
        workspace.write_json(out / CARD, card)
        _keep_logs(out)
        if not document["training"]["keeps_checkpoints"]:
            shutil.rmtree(out / "checkpoints", ignore_errors=True)
    trainer.accelerator.wait_for_everyone()


def _keep_logs(out: Path) -> None:
    """Move what trackers wrote into the folder of the checkpoints out of it, before that is dropped."""
    written = [path for path in (out / "checkpoints").glob("*") if not path.name.startswith("checkpoint-")]
    for path in written:
        (out / LOGS).mkdir(exist_ok=True)
        shutil.move(path, out / LOGS / path.name)


def counted(trainer: Any) -> dict[str, Any]:
    """Return what a card says of a training that counted its tokens."""
    return {
        "tokens": int(trainer.state.num_input_tokens_seen),
        "reference": dict(trainer.language_model.provenance),
    }


def read_finished(out: Path, must: str) -> tuple[dict[str, Any], tuple[dict[str, Any], ...]]:
    """Return the card of a finished training, and its log. Raises InputError, which says ``must``, of none."""
    try:
        card = json.loads((out / CARD).read_text(encoding="utf-8"))
        lines = (out / STEPS).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{must}, found no {CARD}") from error
    return card, tuple(json.loads(line) for line in lines)


def check_start(card: Mapping[str, Any], folder: Path, model: Pretrained, how: Optimization) -> None:
    """Refuse to begin with the weights of a finished training on another model, or of another form. card: its own."""
    for name, of in (("model", "config.json"), ("adapter", "adapter_config.json")):
        if (folder / "model" / of).exists() != ((name == "adapter") == (how.lora is not None)):
            raise InputError(f"start must hold {'an adapter' if how.lora else 'a whole model'}, got {folder}")
    if card["training"]["model"] != model.name:
        raise InputError(f"start must be trained from model {model.name}, got one from {card['training']['model']}")


def take_adapter(trainer: Any, start: str) -> None:
    """Put the adapter of a finished training into a trainer's model."""
    weights = load_file(Path(start) / "model" / "adapter_model.safetensors")
    set_peft_model_state_dict(trainer.model, weights)
