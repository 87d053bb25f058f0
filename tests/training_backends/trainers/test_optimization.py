"""Every training is told how it is optimised in the same words, by configurations, in Python and to TRL."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from rlhf_game import InputError
from rlhf_game import optimization as methods
from rlhf_game.files.training_fields import LoraSpec, OptimizationFields
from rlhf_game.optimization import Lora, Optimization, Pretrained
from rlhf_game.outcomes.finetuned.finetuned_spec import FinetunedSpec
from rlhf_game.training.fine_tuning import EvolutionTraining, JudgeTraining, ReviserTraining
from rlhf_game.training.recipes.distill import DistillConfig
from rlhf_game.training.recipes.elastic_reset import ElasticResetConfig
from rlhf_game.training.recipes.eso import EsoConfig
from rlhf_game.training.recipes.osp import OspConfig
from rlhf_game.training.recipes.policy import PolicyConfig
from rlhf_game.training.recipes.preference import PreferenceConfig
from rlhf_game.training.recipes.reward_models import MemberSpec
from rlhf_game.training_backends.trainers import reward_training
from rlhf_game.training_backends.trainers.policies import EsoTraining, PolicyTraining, building, eso_training
from rlhf_game.training_backends.trainers.preferences import PreferenceTraining, trainer
from rlhf_game.training_backends.trainers.self_training import SupervisedTraining
from tests.cli.runner import run as command

CONFIGURED: dict[type[OptimizationFields], Optimization] = {
    PolicyConfig: methods.POLICIES,
    ElasticResetConfig: methods.POLICIES,
    FinetunedSpec: methods.FINETUNED,
    PreferenceConfig: methods.PREFERENCES,
    OspConfig: methods.ROUNDS,
    JudgeTraining: methods.SUPERVISED,
    ReviserTraining: methods.REVISER,
    EvolutionTraining: methods.EVOLUTION,
    DistillConfig: methods.DISTILLATION,
    EsoConfig: methods.ESO,
    MemberSpec: methods.REWARD_MODELS,
}
TRAININGS = (
    (PolicyTraining, methods.POLICIES),
    (PreferenceTraining, methods.PREFERENCES),
    (SupervisedTraining, methods.SUPERVISED),
    (EsoTraining, methods.ESO),
    (reward_training.Finetuning, methods.REWARD_MODELS),
)


@pytest.mark.parametrize("kind", CONFIGURED, ids=lambda kind: kind.__name__)
def test_the_defaults_of_a_configuration_are_those_of_its_method(kind: type[OptimizationFields]) -> None:
    method = CONFIGURED[kind]
    for field in fields(Optimization):
        if field.name in kind.model_fields:
            said = kind.model_fields[field.name].default
            said = (
                said.adapter() if isinstance(said, LoraSpec) else tuple(said.items()) if field.name == "trl" else said
            )
            if (kind, field.name) != (MemberSpec, "lora"):  # which adapter, where the method is lora
                assert said == getattr(method, field.name), field.name


def test_every_configuration_of_a_training_has_the_same_words() -> None:
    kinds = [OptimizationFields]
    for kind in kinds:
        kinds += kind.__subclasses__()
    final = {kind for kind in kinds if getattr(kind, "__final__", False)}
    several = {"RewardModelConfig", "EnsembleConfig", "WarmConfig"}  # whose members are MemberSpec
    assert {kind.__name__ for kind in final if kind.__module__.startswith("rlhf_game")} - several == {
        kind.__name__ for kind in CONFIGURED
    }
    common = {field.name for field in fields(Optimization)} - {"steps", "epochs", "keeps_checkpoints", "seed", "lora"}
    assert all(common <= kind.model_fields.keys() for kind in final)


@pytest.mark.parametrize(("training", "method"), TRAININGS, ids=lambda one: getattr(one, "__name__", ""))
def test_in_python_a_training_begins_with_its_methods_defaults(training: Any, method: Optimization) -> None:
    assert training.optimization == method


UNLIKE_ANY = Optimization(
    steps=7, learning_rate=0.3, schedule="constant", warmup=0.4, weight_decay=0.2, max_grad_norm=0.7, batch_size=6,
    accumulation_steps=2, lora=Lora(2), gradient_checkpointing=True, save_steps=4, keeps_checkpoints=True, seed=9,
    trl=(("adam_beta2", 0.9),),
)  # fmt: skip
MODEL = Pretrained("nowhere", dtype="bfloat16", device="cpu")
BUILDERS: dict[str, Callable[[Path], Any]] = {
    "policies": lambda work: building.make_settings(
        PolicyTraining(MODEL, 1.0, (1.0,), UNLIKE_ANY, num_generations=3), work
    ),
    "best_of_n": lambda work: building.make_settings(
        PolicyTraining(MODEL, 1.0, (1.0,), UNLIKE_ANY, trainer="best_of_n", num_generations=3), work
    ),
    "preferences": lambda work: trainer.make_settings(PreferenceTraining(MODEL, optimization=UNLIKE_ANY), work),
    "eso": lambda work: eso_training._settings(
        EsoTraining(MODEL, optimization=replace(UNLIKE_ANY, steps=None, epochs=3)), work
    ),
    "reward models": lambda work: reward_training._arguments(
        reward_training.Finetuning(replace(UNLIKE_ANY, trl=(("bf16", True), ("adam_beta2", 0.9)))), work, 100
    ),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_trl_is_told_what_was_said_whatever_is_trained(name: str, tmp_path: Path) -> None:
    told = BUILDERS[name](tmp_path)
    assert told.learning_rate == 0.3
    assert (str(told.lr_scheduler_type.value), told.weight_decay, told.max_grad_norm) == ("constant", 0.2, 0.7)
    assert (told.per_device_train_batch_size, told.gradient_accumulation_steps) == (6, 2)
    assert (told.seed, told.data_seed, told.save_steps, told.save_total_limit) == (9, 9, 4, None)
    assert (told.bf16, told.use_cpu, told.adam_beta2, told.activation_checkpointing) == (True, True, 0.9, True)
    assert told.report_to in ([], "none", ["none"])
    if name != "eso":  # whose steps are known when its rows are
        assert (told.max_steps, told.warmup_steps) == (7, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be >= 1"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number > 0"),
        ({"warmup": 1.0}, r"warmup must be in \[0, 1\)"),
        ({"schedule": "wavy"}, "schedule must be linear, cosine, constant"),
        ({"weight_decay": -1.0}, "weight_decay must be a number >= 0"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
    ],
)
def test_settings_without_a_meaning_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(Optimization(), **changes)


def test_an_epoch_is_rounded_up_to_whole_steps() -> None:
    how = Optimization(epochs=1.5, batch_size=4, accumulation_steps=2)
    assert [how.steps_for(count) for count in (1, 8, 9, 100)] == [1, 2, 2, 19]
    assert how.steps_for(100, processes=2) == 10
    assert replace(how, steps=3).steps_for(100) == 3


@pytest.mark.parametrize(
    ("call", "text", "at"),
    [
        ("train", "kind: policy\nmodel: m\nprompts: [a]\nstrength: 1\ngroups: []\nmax_steps: 3\n", "max_steps"),
        (
            "train",
            "kind: seft\nmodel: m\ndata: d\ncritic: clean\nevolution_training: {max_steps: 2}\n",
            "evolution_training.max_steps",
        ),
        (
            "run",
            "model: m\nprompts: [a]\noutcomes: {kind: finetuned, max_steps: 4}\nstrength: 1\ngroups: []\n",
            "outcomes.max_steps",
        ),
    ],
)
def test_max_steps_is_refused_with_the_name_that_it_has_here(tmp_path: Path, call: str, text: str, at: str) -> None:
    (tmp_path / "c.yaml").write_text(text.replace("groups: []", "groups: [{name: g, reward: clean}]"))
    result = command(call, tmp_path / "c.yaml", "-o", tmp_path / "out")
    assert result.code == 2
    assert f"{at}: must be called steps here, found max_steps" in result.err
