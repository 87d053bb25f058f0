"""The trainings of outcomes finetuned: the main one, and those that payments ask for, none of which is made twice."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from rlhf_game.errors import InputError
from rlhf_game.files.conversations import document_of
from rlhf_game.files.locks import held
from rlhf_game.files.run_folder import Progress, unwatched, versions
from rlhf_game.files.sampled import FINAL, without
from rlhf_game.files.training_fields import PolicyTrainerFields
from rlhf_game.optimization import Optimization, Pretrained
from rlhf_game.outcomes.finetuned.finetuned_spec import FinetunedSpec
from rlhf_game.outcomes.run_config import Configuration, GroupSpec, hashes_of_code
from rlhf_game.rewards.mix import Mix, MixPart
from rlhf_game.rewards.reward_specs import calibration_of
from rlhf_game.rewards.texts import sharing

if TYPE_CHECKING:
    from rlhf_game.training_backends.trainers.policies import PolicyTraining


@final
@dataclass(frozen=True)
class TrainingTask:
    """One training: for whom, for how long, and where to; it can be sent to another process."""

    configuration: Configuration
    label: str
    shares: tuple[tuple[str, float], ...]
    """mu w of each group that is heard, by its name."""
    steps: int
    out: Path | None = None
    """None: into the cache, where any run finds it."""
    keeps_checkpoints: bool = False

    @property
    def groups(self) -> list[GroupSpec]:
        """The groups that are heard."""
        heard = dict(self.shares)
        return [group for group in self.configuration.fields.groups if group.name in heard]


@final
@dataclass(frozen=True)
class DoneTraining:
    """A training that is done."""

    label: str
    folder: str
    steps: int
    tokens: int
    seconds: float
    checkpoints: tuple[tuple[str, str], ...] = ()
    """Label and folder of each that was kept, the oldest first."""


def main_task(configuration: Configuration, spec: FinetunedSpec, out: Path) -> TrainingTask:
    """Return the training on everybody's rewards."""
    keeps = spec.payments_from == "checkpoints" and configuration.fields.payment == "affine"
    return TrainingTask(configuration, FINAL, tuple(configuration.fields.shares.items()), spec.steps, out, keeps)


def further_tasks(configuration: Configuration, spec: FinetunedSpec, own: Path | None = None) -> list[TrainingTask]:
    """Return the trainings that the payments need beside the main one.

    own: the folder for those that no other run may take, as they listen to an endpoint without a version.
    """
    shares = configuration.fields.shares
    if configuration.fields.payment == "none" or len(shares) < 2:
        return []
    if spec.payments_from not in ("leave_one_out", "early_stopped"):
        return []
    steps = spec.stop_after or spec.steps
    return [
        TrainingTask(
            configuration,
            without(name, len(shares)),
            tuple(pair for pair in shares.items() if pair[0] != name),
            steps,
            _place(configuration, own, k, [other for other in shares if other != name]),
        )
        for k, name in enumerate(shares)
    ]


def own_tasks(configuration: Configuration, spec: FinetunedSpec, own: Path | None = None) -> list[TrainingTask]:
    """Return the trainings of soups: each group's own policy, as if all the weight there is were that group's.

    own: see further_tasks.
    """
    shares = configuration.fields.shares
    total = sum(shares.values())
    return [
        TrainingTask(
            configuration, f"alone {name}", ((name, total),), spec.steps, _place(configuration, own, k, [name])
        )
        for k, name in enumerate(shares)
    ]


def _place(configuration: Configuration, own: Path | None, k: int, heard: Sequence[str]) -> Path | None:
    """Return where a training goes: into the cache where each run would make the same of it, else into ``own``."""
    groups = [group for group in configuration.fields.groups if group.name in heard]
    if own is None or all(group.reward.is_reproducible() for group in groups):
        return None
    return own / f"{k:03d}"


def make(task: TrainingTask, watch: Progress = unwatched) -> DoneTraining:
    """Do a training, or what is left of it, or only read it; tell ``watch`` how far it is.

    Raises InputError when it cannot be done as configured, RunError when it fails.
    """
    from rlhf_game.training_backends.trainers.policies import train_policy

    source = task.configuration.source
    training = policy_training(task)
    rewards = in_unit(task.groups, source.base)

    def watch_task(what: str, done: int, total: int) -> None:
        watch(f"{what} ({task.label})", done, total)

    with _held(task, training) as out:
        done = train_policy(
            training, source.prompts, rewards, out, columns=source.columns, base=source.base, watch=watch_task
        )
    kept = [(f"checkpoint {step}", str(folder)) for step, folder in _numbered(done.checkpoints) if step < done.steps]
    return DoneTraining(
        task.label, str(out), done.steps, done.tokens, done.seconds, tuple(kept) if task.keeps_checkpoints else ()
    )


def in_unit(groups: Sequence[GroupSpec], base: Path) -> dict[str, Mix]:
    """Return each group's reward, mapped to [0, 1] as it declares, as trainers call it."""
    rewards = [
        Mix((MixPart(group.reward.build(base), calibration_of(group.reward, group.calibration)),)) for group in groups
    ]
    return dict(zip([group.name for group in groups], sharing(rewards), strict=True))


def policy_training(task: TrainingTask) -> "PolicyTraining":
    """Return a task as the trainers have it. Raises InputError that begins with the field."""
    fields = task.configuration.fields
    spec, model = spec_of(task.configuration), task.configuration.source.model
    adapter = None if spec.lora == "full" else spec.lora
    heard = dict(task.shares)
    if model.dtype == "float16":
        raise InputError("model.dtype: must be float32 or bfloat16 with outcomes finetuned, found float16")
    if model.device not in ("auto", "cpu", "cuda"):
        raise InputError(f"model.device: must be auto, cpu or cuda with outcomes finetuned, found {model.device}")
    how = spec.optimization(adapter, fields.seed, steps=task.steps, keeps_checkpoints=task.keeps_checkpoints)
    trained = Pretrained(str(model.name), model.revision, model.dtype, model.device, model.fold_system)  # type: ignore[arg-type]
    shares = (heard[group.name] for group in task.groups)
    return training_of(spec, trained, fields.strength, shares, how, fields.system)


def training_of(
    fields: PolicyTrainerFields,
    model: Pretrained,
    strength: float,
    shares: Iterable[float],
    how: Optimization,
    system: str | None,
) -> "PolicyTraining":
    """Return the training of a model on rewards. shares: mu_i w_i of the groups, in order. Raises InputError."""
    from rlhf_game.training_backends.trainers.policies import PolicyTraining, PpoSettings

    return PolicyTraining(
        model,
        strength,
        tuple(shares),
        how,
        trainer=fields.trainer,
        num_generations=fields.num_generations,
        max_new_tokens=fields.max_new_tokens,
        temperature=fields.temperature,
        system=system,
        kl_limit=fields.kl_limit,
        ppo=None if fields.ppo is None else PpoSettings(**fields.ppo.model_dump()),
    )


def spec_of(configuration: Configuration) -> FinetunedSpec:
    """Return the outcomes of a configuration whose outcomes are finetuned."""
    outcomes: Any = configuration.fields.outcomes
    assert isinstance(outcomes, FinetunedSpec)
    return outcomes


def key_of(task: TrainingTask, training: "PolicyTraining") -> str:
    """Return the SHA-256 of all that decides what a training makes: two tasks of one key are one training.

    The model by its weights, prompts, the rewards of those who are heard with their calibrations and files, settings,
    seed, and the libraries' versions.
    """
    from rlhf_game.training_backends import find_checkpoint

    configuration = task.configuration
    source = configuration.source
    model = find_checkpoint(training.model.name, revision=training.model.revision, base=source.base)
    named = {file for group in task.groups for file in (*group.reward.files(), *group.reward.models())}
    named |= {file for group in task.groups for file in hashes_of_code(group.reward.code(), source.base, group.name)}
    content = {
        "training": training.document(),
        "model": [str(model.location), dict(model.provenance)],
        "prompts": [list(source.prompts), {key: list(values) for key, values in source.columns.items()}],
        "rewards": [group.model_dump(mode="json", exclude={"size", "salt"}) for group in task.groups],
        "files": {file: sha256 for file, sha256 in configuration.files.items() if file in named},
        "base": str(source.base.resolve()),
        "versions": versions(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=document_of).encode()).hexdigest()


@contextmanager
def _held(task: TrainingTask, training: "PolicyTraining") -> Iterator[Path]:
    """Hold the folder of a training: the run's own, or that of the cache, for which other runs then wait."""
    if task.out is not None:
        yield task.out
        return
    from rlhf_game.training_backends.lm.checkpoints import cache_folder

    folder = cache_folder() / "policies" / key_of(task, training)[:32]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with held(folder.with_name(folder.name + ".lock"), waits=True):
        yield folder


def _numbered(folders: Sequence[Path]) -> list[tuple[int, Path]]:
    return [(int(folder.name.rpartition("-")[2]), folder) for folder in folders]
