"""PPO with a critic on TRL's GRPOTrainer, which takes one advantage per token; TRL itself has had none since 1.9."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer

from rlhf_game.training_backends.lm.models import LanguageModel
from rlhf_game.training_backends.trainers.policies.policy_settings import PolicyTraining
from rlhf_game.training_backends.trainers.policies.trainers import PolicyTrainer
from rlhf_game.training_backends.trainers.resuming import KeepsTensors

CRITIC = "critic"


@final
class Critic(KeepsTensors):
    """The critic's one linear layer as a part of the training that is no part of the policy."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        self._layer = layer

    def tensors(self) -> dict[str, Tensor]:
        """Return its weights."""
        return dict(self._layer.state_dict())

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take its weights back."""
        self._layer.load_state_dict(dict(tensors))


@final
class Ppo(PolicyTrainer, GRPOTrainer):
    """The clipped surrogate on advantages by GAE, each token's KL in its reward, a critic on the policy's last layer.

    A token's reward is -lambda (log pi - log q), the last one's also s; both are divided by the sum of the weights,
    which leaves the optimum where it is and keeps values in the unit of one group's reward. The discount is 1, so a
    token is charged for the KL of all later ones: the optimum is that of whole sequences. *Derived*; its test is
    tests/training_backends/trainers/policies/test_optimum.py.
    """

    def begin(self, training: PolicyTraining, language_model: LanguageModel) -> None:
        """Add the critic."""
        super().begin(training, language_model)
        model: Any = self.accelerator.unwrap_model(self.model)
        layer = torch.nn.Linear(model.config.get_text_config().hidden_size, 1)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        setattr(model, CRITIC, layer.to(next(model.parameters()).device))
        self._critic = layer
        self._settings = training.ppo_settings
        self._scale = 1.0 / sum(training.weights)
        self._scores = torch.empty(0)

    def parts(self) -> dict[str, KeepsTensors]:
        """Return the critic, too."""
        return {**super().parts(), CRITIC: Critic(self._critic)}

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        whole = self.model.state_dict() if state_dict is None else state_dict
        super()._save(output_dir, {key: value for key, value in whole.items() if not key.startswith(f"{CRITIC}.")})

    def _calculate_rewards(self, *arguments: Any) -> Tensor:
        rewards: Tensor = super()._calculate_rewards(*arguments)  # [responses of all processes, rewards]
        self._scores = (rewards * self.reward_weights.to(rewards.device)).sum(dim=1)
        return rewards

    @torch.no_grad()
    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        with self._meanwhile("num_iterations", 1):  # else TRL computes old log probabilities, as _old does
            out: dict[str, Any] = super()._generate_and_score_completions(inputs)
        mask = out["completion_mask"].float()  # [k, T]
        old, values = self._old(out)
        kl = (old - out["ref_per_token_logps"]) * mask
        rewards = -self.beta * kl
        first = self.accelerator.process_index * len(mask)
        last = mask.sum(dim=1).long() - 1
        rewards[torch.arange(len(mask)), last] += self._scores[first : first + len(mask)]
        advantages = gae(rewards * self._scale, values * mask, mask, self._settings.gae)
        spread = self.accelerator.reduce(torch.stack([kl.sum(), mask.sum()]), reduction="sum")
        self._metrics["train"]["kl"].append((spread[0] / spread[1]).item())
        values = values * mask
        out.update(advantages=advantages, old_values=values, returns=advantages + values, old_per_token_logps=old)
        return out

    def _old(self, out: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the log probabilities and values of the policy that drew the tokens, [k, T] each."""
        ids = torch.cat([out["prompt_ids"], out["completion_ids"]], dim=1)
        mask = torch.cat([out["prompt_mask"], out["completion_mask"]], dim=1)
        length, size = out["completion_ids"].shape[1], int(self.args.per_device_train_batch_size)
        steps, values = [], []
        for start in range(0, len(ids), size):
            rows = slice(start, start + size)
            with self._hidden() as seen:
                found, _, _ = self._get_per_token_logps_and_entropies(self.model, ids[rows], mask[rows], length)
            steps.append(found)
            values.append(self._values(seen[0], length))
        return torch.cat(steps), torch.cat(values)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        with self._hidden() as seen, self._meanwhile("beta", 0.0):  # the KL is in the rewards already
            loss: Tensor = super()._compute_loss(model, inputs)  # type: ignore[no-untyped-call]
        mask = inputs["completion_mask"].float()
        values, before = self._values(seen[0], mask.shape[1]), inputs["old_values"]
        near = before + (values - before).clamp(-self._settings.value_clip, self._settings.value_clip)
        wrong = torch.maximum((values - inputs["returns"]) ** 2, (near - inputs["returns"]) ** 2)
        value_loss = 0.5 * (wrong * mask).sum() / mask.sum()
        self._metrics["train"]["value_loss"].append(self.accelerator.gather(value_loss.detach()).mean().item())
        loss += self._settings.value_weight * value_loss / self.current_gradient_accumulation_steps
        return loss

    @contextmanager
    def _meanwhile(self, name: str, value: Any) -> Iterator[None]:
        """Have another value of one of TRL's settings."""
        own = getattr(self, name)
        setattr(self, name, value)
        try:
            yield
        finally:
            setattr(self, name, own)

    @contextmanager
    def _hidden(self) -> Iterator[list[Tensor]]:
        """Collect what the backbone's last layer says in the forwards meanwhile, [k, tokens, d] each."""
        model: Any = self.accelerator.unwrap_model(self.model)
        backbone = getattr(model, "get_base_model", lambda: model)().base_model
        seen: list[Tensor] = []
        hook = backbone.register_forward_hook(lambda module, inputs, out: seen.append(out.last_hidden_state))
        try:
            yield seen
        finally:
            hook.remove()

    def _values(self, hidden: Tensor, length: int) -> Tensor:
        """Return the value before each token of the response, [k, length]."""
        values: Tensor = self._critic(hidden[:, -length - 1 : -1].float())
        return values[..., 0]


def gae(rewards: Tensor, values: Tensor, mask: Tensor, decay: float) -> Tensor:
    """Return generalised advantages with discount 1 (Schulman et al. 2016, eq. 16), all arrays [k, T].

    values: of the state before each token, 0 where mask is 0. mask: 1 for the tokens of a response, 0 after its end.
    """
    advantages = torch.zeros_like(rewards)
    after = torch.zeros_like(rewards[:, 0])
    following = torch.zeros_like(after)
    for t in reversed(range(rewards.shape[1])):
        after = (rewards[:, t] + following - values[:, t] + decay * after) * mask[:, t]
        following = values[:, t]
        advantages[:, t] = after
    return advantages
