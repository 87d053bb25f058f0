"""``export trl|verl|openrlhf``: the groups' rewards as another engine calls them, its data, and how to launch it.

The layouts are those of the engines' public sources at the commits that tests/outcomes/test_exporting.py names.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import Any, Final, final

from rlhf_game.errors import InputError
from rlhf_game.files.conversations import dialogue
from rlhf_game.mechanism.arrays import Array
from rlhf_game.outcomes.draws.draws_spec import DrawsSpec
from rlhf_game.outcomes.finetuned.finetuned_spec import FinetunedSpec
from rlhf_game.outcomes.run_config import CandidatesSpec, Configuration, parse_config, read_document
from rlhf_game.outcomes.scoring import GroupScorer
from rlhf_game.rewards.nested import BATCHES, refuse_rank

REWARDS: Final = "rewards.py"
HEAD: Final = '''"""The rewards of the groups of a configuration, as {engine} calls them.

What is maximised is E[s] - lambda KL over whole responses: s = sum of mu size reward, each reward in [0, 1], and
lambda = {strength!r}.
"""

from pathlib import Path

from rlhf_game.outcomes.exporting import ExportedRewards

REWARDS = ExportedRewards(Path({path!r}))
'''
TRL: Final = """

def _group(name):
    def reward(prompts, completions, place, **columns):
        return REWARDS(place, [c if isinstance(c, str) else c[0]["content"] for c in completions])[1][name]

    reward.__name__ = f"group_{name}"
    return reward


reward_funcs = [_group(name) for name in REWARDS.shares]
reward_weights = list(REWARDS.shares.values())

if __name__ == "__main__":
    import json

    from datasets import Dataset
    from trl import ModelConfig, RLOOConfig, RLOOTrainer, TrlParser, get_peft_config

    args, model = TrlParser((RLOOConfig, ModelConfig)).parse_args_and_config()
    args.reward_weights = reward_weights
    rows = Path(__file__).with_name("prompts.jsonl").read_text(encoding="utf-8").splitlines()
    data, adapter = Dataset.from_list([json.loads(row) for row in rows]), get_peft_config(model)
    RLOOTrainer(model.model_name_or_path, reward_funcs, args, data, peft_config=adapter).train()
"""
VERL: Final = '''

def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    """Return s of one response; ground_truth is the number of its prompt."""
    totals, groups = REWARDS([int(ground_truth)], [solution_str])
    return {"score": totals[0], **{f"group_{name}": values[0] for name, values in groups.items()}}
'''
OPENRLHF: Final = '''

def reward_func(queries, prompts, labels, **kwargs):
    """Return s of responses; a label is the number of its prompt, a query a prompt with its response."""
    import torch

    places = [int(label) for label in labels]
    totals, groups = REWARDS(places, [REWARDS.response(q, p) for q, p in zip(queries, prompts)])
    return {
        "rewards": torch.tensor(totals),
        "scores": torch.tensor(totals) / sum(REWARDS.shares.values()),
        "extra_logs": {f"group_{name}": torch.tensor(values) for name, values in groups.items()},
    }
'''


@final
class ExportedRewards:
    """The rewards of a configuration of ``rlhf-game run``, for code that another engine calls.

    shares: mu size of each group, by its name.
    """

    def __init__(self, config: Path) -> None:
        self._configuration = _read(config)
        self._scorer = GroupScorer(self._configuration, config.parent / "calls")
        self.shares = self._configuration.fields.shares

    def __call__(self, places: Sequence[int], texts: Sequence[str]) -> tuple[list[float], dict[str, list[float]]]:
        """Return s of responses, [k], and each group's reward by its name. places: their prompts, from 0, [k]."""
        prompts = len(self._configuration.source.prompts)
        if wrong := [place for place in places if not 0 <= place < prompts]:
            raise InputError(f"prompts: must be one of the {prompts} of the configuration, found number {wrong[0]}")
        found: Array = self._scorer.score(list(places), list(texts))[1]
        totals = sum(share * row for share, row in zip(self.shares.values(), found, strict=True))
        return [float(one) for one in totals], {
            name: [float(one) for one in row] for name, row in zip(self.shares, found, strict=True)
        }

    def response(self, query: str, prompt: str) -> str:
        """Return the response in a text that begins with its prompt, without the model's special tokens.

        The text was decoded from tokens, and a tokenizer need not give a prompt back as it was; one that does not puts
        spaces of its own around a response. Raises InputError where the text begins with neither.
        """
        known = self._tokenizer
        is_kept = prompt in query
        begin = prompt if is_kept else known.decode(known(prompt, add_special_tokens=False).input_ids)
        _, found, text = query.partition(begin)
        if not found:
            raise InputError(f"queries: must begin with their prompts, {prompt[:50]!a} ..., found {query[:50]!a} ...")
        for token in known.all_special_tokens:
            text = text.replace(token, "")
        return text if is_kept else text.strip()

    @cached_property
    def _tokenizer(self) -> Any:
        from rlhf_game.training_backends.lm.models import load_tokenizer

        source = self._configuration.source
        return load_tokenizer(source.model.name, revision=source.model.revision, base=source.base)


@final
@dataclass(frozen=True)
class ExportTarget:
    """What an engine wants: its reward file, its data, and the words that launch it with the mechanism's lambda."""

    rewards: str
    data: str
    rows: Callable[[Configuration, int, Mapping[str, Any]], dict[str, Any]]
    """Of a configuration, the number of a prompt and its message, the row of the data."""
    launch: Callable[[Configuration, FinetunedSpec, Path], list[str]]
    notes: str


def _read(config: Path) -> Configuration:
    """Return a configuration; one that says nothing of outcomes is trained as outcomes finetuned are."""
    document, name = read_document(config, "run")
    return parse_config({"outcomes": {"kind": "finetuned"}, **document}, name, config.parent)


def _verl_row(configuration: Configuration, b: int, asked: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "data_source": "rlhf-game",
        "prompt": asked["messages"],
        "ability": "text",
        "reward_model": {"style": "rule", "ground_truth": str(b)},
        "extra_info": {"index": b},
    }


def _override(key: str, path: object) -> str:
    """Return what sets a key to a path, for Hydra in a shell: what is more than a plain word is quoted for both.

    In Hydra's quotes a quote and an interpolation are escaped, and so are backslashes before them.
    """
    word = str(path)
    if not re.fullmatch(r"[\w./:@+-]+", word):
        word = "'" + re.sub(r"(\\*)('|\$\{)", r"\1\1\\\2", word) + "'"
    return quote(f"{key}={word}")


def _verl_launch(configuration: Configuration, spec: FinetunedSpec, out: Path) -> list[str]:
    prompts = min(len(configuration.source.prompts), max(1, spec.batch_size // spec.num_generations))
    return [
        "python3 -m verl.trainer.main_ppo",
        "algorithm.adv_estimator=rloo",
        "algorithm.use_kl_in_reward=True",
        "algorithm.kl_penalty=kl",
        "algorithm.kl_ctrl.type=fixed",
        f"algorithm.kl_ctrl.kl_coef={configuration.fields.strength!r}",
        "actor_rollout_ref.actor.use_kl_loss=False",
        "actor_rollout_ref.actor.entropy_coeff=0",
        "actor_rollout_ref.actor.ppo_epochs=1",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={prompts}",
        f"actor_rollout_ref.actor.optim.lr={spec.learning_rate!r}",
        _override("actor_rollout_ref.model.path", _model(configuration)),
        *([] if spec.lora == "full" else [f"actor_rollout_ref.model.lora_rank={spec.lora.rank}"]),
        "actor_rollout_ref.rollout.name=vllm",
        f"actor_rollout_ref.rollout.n={spec.num_generations}",
        f"actor_rollout_ref.rollout.temperature={spec.temperature!r}",
        _override("data.train_files", out / "prompts.parquet"),
        _override("data.val_files", out / "prompts.parquet"),
        f"data.train_batch_size={prompts}",
        f"data.max_response_length={spec.max_new_tokens}",
        _override("custom_reward_function.path", out / REWARDS),
        "custom_reward_function.name=compute_score",
        f"trainer.total_training_steps={spec.steps}",
        f"trainer.save_freq={spec.save_steps}",
    ]


def _openrlhf_row(configuration: Configuration, b: int, asked: Mapping[str, Any]) -> dict[str, Any]:
    return {"input": asked["messages"], "label": str(b)}


def _openrlhf_launch(configuration: Configuration, spec: FinetunedSpec, out: Path) -> list[str]:
    if cut := next((mark for mark in ",@" if mark in str(out)), None):
        raise InputError(f"{out}: must be a path without , and @, at which OpenRLHF cuts it, found {cut}")
    most = sum(configuration.fields.shares.values())
    responses = spec.batch_size * spec.accumulation_steps
    return [
        "python3 -m openrlhf.cli.train_ppo_ray",
        "--algo.advantage.estimator rloo",
        "--algo.kl.estimator k1",
        f"--algo.kl.init_coef {configuration.fields.strength!r}",
        f"--reward.clip_range {-most!r} {most!r}",
        f"--reward.remote_url {quote(str(out / REWARDS))}",
        f"--actor.model_name_or_path {quote(str(_model(configuration)))}",
        f"--data.prompt_dataset {quote(str(out / 'prompts.jsonl'))}",
        "--data.input_key input --data.label_key label --data.apply_chat_template",
        f"--rollout.n_samples_per_prompt {spec.num_generations}",
        f"--rollout.temperature {spec.temperature!r}",
        f"--rollout.max_new_tokens {spec.max_new_tokens}",
        f"--rollout.batch_size {max(1, responses // spec.num_generations)}",
        f"--train.batch_size {responses}",
        "--train.max_epochs 1",
        *([] if spec.lora == "full" else [f"--ds.lora.rank {spec.lora.rank} --ds.lora.alpha {spec.lora.alpha}"]),
    ]


def _trl_row(configuration: Configuration, b: int, asked: Mapping[str, Any]) -> dict[str, Any]:
    return {"prompt": asked["messages"], "place": b}


def _trl_launch(configuration: Configuration, spec: FinetunedSpec, out: Path) -> list[str]:
    lora = None if spec.lora == "full" else spec.lora
    names = [] if lora is None or lora.targets is None else [*lora.targets]
    names = names * 2 if len(names) == 1 else names  # TRL takes one name alone as a regular expression
    return [
        f"python3 {quote(str(out / REWARDS))}",
        f"--model_name_or_path {quote(_model(configuration))}",
        f"--output_dir {quote(str(out / 'trained'))}",
        f"--beta {configuration.fields.strength!r}",
        "--normalize_advantages False --num_iterations 1",
        f"--num_generations {spec.num_generations}",
        f"--max_completion_length {spec.max_new_tokens}",
        f"--temperature {spec.temperature!r}",
        f"--learning_rate {spec.learning_rate!r}",
        f"--max_steps {spec.steps} --save_steps {spec.save_steps}",
        f"--per_device_train_batch_size {spec.batch_size}",
        f"--gradient_accumulation_steps {spec.accumulation_steps}",
        *([] if lora is None else [f"--use_peft --lora_r {lora.rank} --lora_alpha {lora.alpha} --lora_dropout 0.0"]),
        *(["--lora_target_modules " + " ".join(map(quote, names))] if names else []),
    ]


NOTES: Final = {
    "trl": """RLOO's beta is lambda: the sequence's KL is in the reward. GRPO's is not: by default it has no KL, divides
rewards by their deviation, and its KL is per token in the loss, which leaves out what a token does to the KL of later
ones; exact for responses of one token only. Options after `launch.sh` are TRL's (`--use_cpu --bf16 False` without a
GPU); what it trains is in `trained/checkpoint-...`.""",
    "verl": """`algorithm.use_kl_in_reward=True` with `kl_penalty=kl` (k1) and a fixed coefficient puts lambda times the
sequence's KL into what `rloo` compares; any `loss_agg_mode` scales the step, not the optimum, but for
`seq-mean-token-mean`, which favours long responses. verl's defaults are another objective: no KL at all
(`use_kl_in_reward` and `use_kl_loss` false). `use_kl_loss=True`, as in its GRPO examples, puts a KL per token into the
loss and leaves out what a token does to the KL of later ones; `adv_estimator=grpo` divides by each prompt's deviation,
so that lambda differs from prompt to prompt. Afterwards, for the bill:
`python3 -m verl.model_merger merge --backend fsdp --local_dir CHECKPOINT/actor --target_dir MERGED`.""",
    "openrlhf": """Without `--algo.kl.use_loss` each token's KL is in its reward and counts for the tokens before
it, undiscounted, so `--algo.kl.init_coef` is lambda with `--algo.kl.estimator k1` and no `--algo.kl.target`.
`--algo.kl.use_loss` (GRPO) puts it into the loss per token, `group_norm` divides by each prompt's deviation,
`--reward.normalize_enable` by a running one: none of these has the mechanism's optimum. `--reward.clip_range` is
as wide as s is, so that nothing is cut. `gae`, `reinforce` and `reinforce_baseline` divide advantages by their
deviation, which changes the step, not the optimum.""",
}
"""What lambda is in each engine, and why its defaults are not the mechanism's objective."""
ENGINES: Final[Mapping[str, ExportTarget]] = {
    "trl": ExportTarget(TRL, "prompts.jsonl", _trl_row, _trl_launch, NOTES["trl"]),
    "verl": ExportTarget(VERL, "prompts.parquet", _verl_row, _verl_launch, NOTES["verl"]),
    "openrlhf": ExportTarget(OPENRLHF, "prompts.jsonl", _openrlhf_row, _openrlhf_launch, NOTES["openrlhf"]),
}


def exported(engine: str, config: Path, out: Path) -> dict[str, bytes]:
    """Return the files of an engine by their names: rewards, prompts, launch.sh and README.md.

    config: of ``rlhf-game run``; where its outcomes are finetuned, they say how to train. Raises InputError where the
    configuration's trainer has another optimum than the mechanism's, or a reward is a rank.
    """
    configuration, one = _read(config), ENGINES[engine]
    outcomes = configuration.fields.outcomes
    if configuration.source.language_model is None:
        raise InputError(f"{config}: model: must be given to be trained by {engine}, found outcomes {outcomes.kind}")
    spec = outcomes if isinstance(outcomes, FinetunedSpec) else FinetunedSpec(kind="finetuned")
    if isinstance(outcomes, CandidatesSpec | DrawsSpec):
        spec = spec.model_copy(update={"max_new_tokens": outcomes.max_new_tokens})
    if spec.trainer != "rloo":
        from rlhf_game.training_backends.trainers.policies.policy_settings import FAITHFULNESS

        raise InputError(
            f"outcomes.trainer: must be rloo to be exported, found {spec.trainer}: {FAITHFULNESS[spec.trainer].reason}"
        )
    for i, group in enumerate(configuration.fields.groups):
        refuse_rank(group.reward, f"groups[{i}].reward", BATCHES, group.calibration)
    head = HEAD.format(engine=engine, strength=configuration.fields.strength, path=str(config.resolve()))
    system = configuration.source.system
    rows = [
        one.rows(configuration, b, {"messages": dialogue(prompt, system).document()})
        for b, prompt in enumerate(configuration.source.prompts)
    ]
    launch = " \\\n  ".join(one.launch(configuration, spec, out.resolve()))
    reference, groups = (quote(path) for path in (_model(configuration), str(config.resolve())))
    bill = f"rlhf-game settle --policy CHECKPOINT --reference {reference} --groups {groups}"
    return {
        REWARDS: (head + one.rewards).encode(),
        one.data: _file(rows, one.data),
        "launch.sh": f'#!/bin/sh\nset -e\n{launch} "$@"\n'.encode(),
        "README.md": f"# {engine}\n\nlambda = {configuration.fields.strength!r}. {one.notes}\n\nThe bill of what comes "
        f"out:\n\n```\n{bill} -o receipt.json\n```\n".encode(),
    }


def _file(rows: Sequence[Mapping[str, Any]], name: str) -> bytes:
    """Return rows as .jsonl or .parquet."""
    if name.endswith(".jsonl"):
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    import pyarrow
    from pyarrow import parquet

    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), sink)
    return bytes(sink.getvalue().to_pybytes())


def _model(configuration: Configuration) -> str:
    """Return the model as another program finds it: a folder by its whole path."""
    from rlhf_game.training_backends.lm.checkpoints import find_checkpoint

    named = configuration.source.model
    found = find_checkpoint(named.name, revision=named.revision, base=configuration.source.base)
    return found.location if found.sha256 is None else str(Path(found.location).resolve())
