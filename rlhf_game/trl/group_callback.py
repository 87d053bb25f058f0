"""What each group gets and owes while TRL trains, in the trainer's own log, and a receipt at the end."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import torch
from accelerate import DistributedType
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from peft import PeftModel
from transformers import TrainerCallback

from rlhf_game.engines import Serial
from rlhf_game.errors import InputError
from rlhf_game.files.atomic import check_new
from rlhf_game.files.conversations import Text, question_of
from rlhf_game.files.run_folder import RunFolder, open_folder, parquet_bytes, unwatched, versions
from rlhf_game.files.schema import parse_model
from rlhf_game.mechanism.sampled.sampled_settlement import (
    ByFormula,
    PolicySamples,
    SampledGame,
    least_cap,
    settle_samples,
)
from rlhf_game.outcomes.finetuned.finetuned_draws import MODEL, draw, read_samples
from rlhf_game.outcomes.finetuned.finetuned_run import distinct, settle_draws
from rlhf_game.outcomes.run_config import Configuration, GenerationInputs, RunConfig, check_config
from rlhf_game.outcomes.scoring import RAW
from rlhf_game.training_backends.lm.models import LanguageModel, load_language_model
from rlhf_game.training_backends.lm.sampling import Sampling, log_probabilities, sample
from rlhf_game.training_backends.trainers.policies.policy_settings import FAITHFULNESS
from rlhf_game.trl.group_rewards import GroupRewards

LOGGED: Final = ("value", "externality", "payment", "gap")
"""What is logged of each group as ``groups/NAME/...``, in units of reward: one member's value; what its being there
costs the others; what it would pay by the formula; and what it could gain by a lie at most, all as estimates."""
CUT: Final = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
"""Ways in which no process holds a whole model."""


@final
class GroupCallback(TrainerCallback):
    """Logs what each group gets and owes every ``every`` steps, and leaves a receipt and a certificate in ``out``.

    rewards: the groups, whose functions the trainer is given. prompts: [B], what is settled on. out: a new folder, as
    of ``rlhf-game run`` with outcomes finetuned. outcomes: what such a configuration says of draws (``samples``,
    ``choosing``, ``payments_from``, ``level``, ``size_limit``, ``cap``). settlement_seed: see there. What is logged at
    a step is of the policy that draws the step's responses, by ``logged`` draws for each prompt. Of several processes
    that each hold the whole model (DDP) the first does all this.
    """

    def __init__(
        self,
        rewards: GroupRewards,
        prompts: Sequence[Any],
        out: str | Path,
        *,
        every: int = 50,
        logged: int = 16,
        outcomes: Mapping[str, Any] | None = None,
        settlement_seed: int | None = None,
        system: str | None = None,
    ) -> None:
        if every < 1 or logged < 2:
            raise InputError(f"every must be >= 1 and logged >= 2, got {every} and {logged}")
        self.rewards, self.out, self.every, self.logged = rewards, Path(out), every, logged
        if isinstance(prompts, str) or not prompts:
            raise InputError(f"prompts must be a list of at least one text or conversation, got {prompts!r}")
        self.prompts: tuple[Text, ...] = tuple(question_of(prompt, f"prompts[{b}]") for b, prompt in enumerate(prompts))
        self.receipt: dict[str, Any] | None = None
        """The receipt, once the training has ended, in every process."""
        self._outcomes, self._seed, self._system = dict(outcomes or {}), settlement_seed, system
        self._begun: _Begun | None = None
        rewards.observe(self._observe)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        """Load the reference. Raises InputError when what is trained is not what is settled, or the folder is taken."""
        if AcceleratorState().distributed_type in CUT:
            raise InputError(
                "GroupCallback must have the whole model in each process, found one that is cut into shards; settle "
                "its checkpoint with settle --policy"
            )
        check_new(self.out)  # what a settlement of other weights left there must not be gone on with
        if list(getattr(args, "reward_weights", None) or []) != self.rewards.weights:
            raise InputError(f"reward_weights must be rewards.weights, {self.rewards.weights}, got others")
        if float(getattr(args, "beta", self.rewards.beta)) != self.rewards.beta and type(args).__name__ == "RLOOConfig":
            raise InputError(f"beta must be rewards.beta, {self.rewards.beta}, got {args.beta}")
        if not state.is_world_process_zero:
            return
        name = str(_plain(model).config._name_or_path)
        with torch.random.fork_rng():
            reference = load_language_model(name, device=_plain(model).device.type)
        self._begun = _Begun(self, args, model, reference)

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Save the policy and settle it, in the first process, for which the others wait."""
        with torch.random.fork_rng():
            receipt = None if self._begun is None else self._begun.settle()
        self.receipt = broadcast_object_list([receipt])[0]

    def _observe(self, step: int, log: Callable[[str, float], None]) -> None:
        if self._begun is not None and step % self.every == 0:
            for name, value in self._begun.estimates().items():
                log(name, value)


@final
class _Begun:
    """A training that has begun: its arguments, its model, and draws of the reference."""

    def __init__(self, callback: GroupCallback, args: Any, model: Any, reference: LanguageModel) -> None:
        self.callback, self.args, self.model, self.reference = callback, args, model, reference
        self.configuration = self._configuration()
        fields = self.configuration.fields
        self.sizes = np.array([float(group.size) for group in fields.groups])
        self.multipliers = np.array(list(callback.rewards.multipliers.values()))
        self.sampling = Sampling(args.max_completion_length, args.temperature)
        self.encoded = reference.encode_prompts(callback.prompts, fields.system)
        self.untouched = self._drawn(reference)

    def estimates(self) -> dict[str, float]:
        """Return what is logged of the policy as it is now."""
        plain, mode = _plain(self.model), self.model.training
        self.model.eval()
        try:
            now = LanguageModel(plain, self.reference.tokenizer, {}, self.reference.folds_system)
            delivered = self._drawn(now)
        finally:
            self.model.train(mode)
        strength = self.callback.rewards.strength
        cap = least_cap(self.sizes * self.multipliers, strength)
        game = SampledGame(self.sizes, self.multipliers, strength, 0.95, cap)
        found = settle_samples(game, delivered, self.untouched, ByFormula(self.untouched))
        gaps = found.certificate.gap.value / self.multipliers
        columns = (found.values.value, found.certificate.affine_payments.value, found.payments.value, gaps)
        logged = {
            f"groups/{group.name}/{key}": float(column[i])
            for i, group in enumerate(self.configuration.fields.groups)
            for key, column in zip(LOGGED, columns, strict=True)
        }
        return {**logged, "groups/affine_welfare": float(found.affine_social_welfare.value)}

    def settle(self) -> dict[str, Any]:
        """Save the policy, draw from both, score, and return the receipt that is left in the folder."""
        with open_folder(self.callback.out, self.configuration) as folder:
            self.model.save_pretrained(str(folder.path / MODEL))
            self.reference.tokenizer.save_pretrained(str(folder.path / MODEL))
            folder.workspace.adopt(folder.path / MODEL)
            draw(self.configuration, folder, unwatched, Serial())
            self._score(folder)
            return settle_draws(self.configuration, folder, unwatched, trainer_of(self.args)).receipt

    def _configuration(self) -> Configuration:
        """Return the run that settles the policy; each group's rewards stand in it as a column of scores."""
        callback, args = self.callback, self.args
        document = {
            "model": {"name": str(self.reference.provenance["model"]), "device": self.reference.model.device.type},
            "system": callback._system,
            "strength": callback.rewards.strength,
            "weights": dict(callback.rewards.multipliers),
            "groups": [
                {"name": spec.name, "size": spec.size, "reward": {"column": spec.name}}
                for spec in callback.rewards.specs
            ],
            "outcomes": {
                "kind": "finetuned", "policy": str((callback.out / MODEL).resolve()),
                "max_new_tokens": args.max_completion_length, "temperature": args.temperature, **callback._outcomes,
            },
            "settlement_seed": callback._seed,
            "seed": args.seed,
        }  # fmt: skip
        fields = parse_model(RunConfig, document, "GroupCallback")
        check_config(fields, "GroupCallback")
        source = GenerationInputs(
            fields.model, callback.prompts, {}, fields.system, fields.outcomes, fields.seed, Path()
        )
        return Configuration(fields, source, {})

    def _drawn(self, model: LanguageModel) -> PolicySamples:
        """Return draws of a model with every group's rewards; the same random numbers for every model."""
        prompts, each = self.callback.prompts, self.callback.logged
        system = self.configuration.fields.system
        rows = sample(model, prompts, each, seed=int(self.args.seed), sampling=self.sampling, system=system)
        flat = [one for row in rows for one in row]
        asked, ids = [prompt for prompt in prompts for _ in range(each)], [list(one.token_ids) for one in flat]
        rewards = self.callback.rewards.score(asked, [one.text for one in flat], {"completion_ids": ids})
        ratios, is_reference = np.zeros(len(flat)), model is self.reference
        if not is_reference:
            encoded = [self.encoded[b] for b in range(len(prompts)) for _ in range(each)]
            known = log_probabilities(self.reference, encoded, ids, sampling=self.sampling)
            ratios = np.array([one.log_probability for one in flat]) - known
        shape = (len(prompts), each)
        return PolicySamples(rewards.reshape(-1, *shape), ratios.reshape(shape), is_reference)

    def _score(self, folder: RunFolder) -> None:
        """Write scores.parquet: every group's rewards of the distinct texts that were drawn."""
        texts = distinct(read_samples(folder)[0])
        asked = [self.callback.prompts[b] for b in texts.prompts]
        found = self.callback.rewards.score(asked, list(texts.texts), {"completion_ids": list(texts.token_ids or ())})
        columns: dict[str, list[Any]] = {
            "prompt_index": list(texts.prompts),
            "prompt": [str(prompt) for prompt in asked],
            "response": list(texts.texts),
        }
        groups = self.configuration.fields.groups
        for group, rewards in zip(groups, found, strict=True):
            columns |= {f"{RAW}{group.name}": rewards.tolist(), group.name: rewards.tolist()}
        origins = {group.name: {"reward": group.reward.model_dump(mode="json"), "from": None} for group in groups}
        origin = {"config_sha256": self.configuration.sha256, "rewards": origins, "versions": versions()}
        folder.write(folder.scores, parquet_bytes(columns, origin))


def _plain(model: Any) -> Any:
    """Return the transformers model under an adapter."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def trainer_of(args: Any) -> dict[str, Any] | None:
    """Return what a receipt says of TRL's trainer with these arguments; None of one that it knows nothing of."""
    kind = type(args).__name__.removesuffix("Config").lower()
    if kind not in _MOVED_BY:
        return None
    moved = _MOVED_BY[kind](args)
    known = FAITHFULNESS[kind]
    return {"name": kind, "is_faithful": known.is_faithful and moved is None, "reason": moved or known.reason}


def _rloo_moved_by(args: Any) -> str | None:
    unmoved = {**UNMOVED, "steps_per_generation": args.gradient_accumulation_steps}
    fault = next((name for name, wanted in unmoved.items() if (getattr(args, name) or None) != (wanted or None)), None)
    return None if fault is None else f"its {fault} moves the optimum"


def _grpo_moved_by(args: Any) -> str | None:
    if not args.beta:
        return "its loss has no KL (beta is 0), so nothing keeps it near the reference"
    divides = args.scale_rewards not in (False, "none")
    return "its rewards are divided by their deviation (scale_rewards), so beta is not lambda" if divides else None


_MOVED_BY: Final[Mapping[str, Callable[[Any], str | None]]] = {"rloo": _rloo_moved_by, "grpo": _grpo_moved_by}
UNMOVED: Final = {
    "normalize_advantages": False, "reward_clip_range": None, "num_iterations": 1, "sync_ref_model": False,
    "mask_truncated_completions": False, "router_aux_loss_coef": None, "top_p": 1.0, "top_k": 0, "min_p": None,
    "repetition_penalty": 1.0, "generation_kwargs": None, "chat_template_kwargs": None,
    "vllm_structured_outputs_regex": None,
}  # fmt: skip
"""Arguments of RLOO with which its optimum is the mechanism's, and it draws from what is settled; nothing is None."""
