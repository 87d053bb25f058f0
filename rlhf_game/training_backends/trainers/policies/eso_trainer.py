"""Evolution strategy optimisation (ESO) beside supervised fine-tuning: the loss, and TRL's SFTTrainer with it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from trl.models.utils import unwrap_model_for_generation
from trl.trainer.sft_trainer import SFTTrainer

from rlhf_game.errors import RunError, boundary
from rlhf_game.files.conversations import Text, as_called
from rlhf_game.mechanism.arrays import Array, numbers
from rlhf_game.training_backends.lm.models import LanguageModel
from rlhf_game.training_backends.lm.sampling import Sampling, choose
from rlhf_game.training_backends.trainers.policies.trainers import TrlReward
from rlhf_game.training_backends.trainers.resuming import SafeCheckpoints
from rlhf_game.training_backends.trainers.token_rows import IGNORED


def eso_loss(log_probabilities: Tensor, rewards: Tensor) -> Tensor:
    """Return sum_j (u - R_j) log pi(a_j|x), u = mean_j R_j, of each prompt (ESO, eq. 10): [B].

    log_probabilities: [B, k] of whole responses, in nats. rewards: [B, k].
    """
    return ((rewards.mean(dim=1, keepdim=True) - rewards) * log_probabilities).sum(dim=1)


@final
class EsoSampler(LogitsProcessor):
    """Draws by itself: each row's token at its own temperature and by its own uniform, all other tokens impossible.

    A greedy ``generate`` then writes what was drawn, and draws depend on neither the batch nor torch's random state.
    temperatures: [k]; uniforms: [k, T] in [0, 1).
    """

    def __init__(self, temperatures: Tensor, uniforms: Tensor) -> None:
        self._temperatures = temperatures
        self._uniforms = uniforms
        self._step = 0

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Return log one-hot rows. scores: logits [k, tokens]."""
        chosen, _ = choose(scores.float() / self._temperatures[:, None], self._uniforms[:, self._step], Sampling())
        self._step += 1
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen[:, None], 0.0)


@final
class EsoTrainer(SafeCheckpoints, SFTTrainer):
    """SFT whose loss gains ``weight`` times ESO's from step ``first_step`` on (ESO, eq. 11).

    To TRL's SFT loss, the mean over target tokens, it adds the mean over prompts of eso_loss. The samples are drawn at
    the given temperatures and weighed at temperature 1, without a correction, as the paper does. Draw j for the row r
    of a step is fixed by (seed, step, r, j), however the step is split over batches and processes.
    """

    language_model: LanguageModel
    reward: TrlReward
    rows: Mapping[tuple[int, ...], tuple[Text, Text]]
    """Of the token ids of a row, its prompt and its completion as they were given."""
    weight = 0.05
    temperatures: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    first_step = 0
    max_new_tokens = 128
    since = 0.0
    """When the last step ended, or the training began."""
    _seen = (-1, 0)  # of which step how many batches

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the batch's loss."""
        prompts, targets = split_rows(inputs)
        loss = super().compute_loss(model, inputs, False, num_items_in_batch)  # type: ignore[no-untyped-call]
        # Trainer leaves the mean over accumulated batches to a loss that was told the number of their tokens.
        batches = self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
        self._metrics["train"]["sft_loss"].append(self._mean(loss) * batches)
        if self.weight > 0 and self.state.global_step >= self.first_step:
            loss = loss + self.weight * self._eso(model, prompts, targets) / batches
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the seconds of the step."""
        now = perf_counter()
        if "loss" in logs:
            logs["step_time"], self.since = now - self.since, now
        super().log(logs, start_time)

    def _eso(self, model: Any, prompts: list[list[int]], targets: list[list[int]]) -> Tensor:
        k = len(self.temperatures)
        many = [ids for ids in prompts for _ in range(k)]
        responses = self._generate(many, self._uniforms(len(prompts)))
        drawn = torch.tensor(sum(map(len, responses)), device=self.accelerator.device)
        self.state.num_input_tokens_seen += int(self.accelerator.gather(drawn).sum())
        rewards = self._rewards(many, responses, [ids for ids in targets for _ in range(k)])
        log_probabilities = self._log_probabilities(model, many, responses)
        loss = eso_loss(log_probabilities.view(-1, k), rewards.to(log_probabilities.device).view(-1, k)).mean()
        self._metrics["train"]["eso_loss"].append(self._mean(loss))
        self._metrics["train"]["eso_reward"].append(self._mean(rewards.mean().to(loss.device)))
        return loss

    def _mean(self, value: Tensor) -> float:
        return float(self.accelerator.gather(value.detach().float()).mean())

    def _uniforms(self, rows: int) -> Array:
        """Return the uniforms of this batch's draws, [rows k, max_new_tokens]."""
        step, batch = self._seen
        batch = batch if step == self.state.global_step else 0
        self._seen = (self.state.global_step, batch + 1)
        world, size = self.accelerator.num_processes, int(self.args.per_device_train_batch_size)
        first = (batch * world + self.accelerator.process_index) * size
        draws = [(first + row, j) for row in range(rows) for j in range(len(self.temperatures))]
        seeds = (np.random.SeedSequence(self.args.seed, spawn_key=(self.state.global_step, *draw)) for draw in draws)
        return np.stack([np.random.default_rng(seed).random(self.max_new_tokens) for seed in seeds])

    @torch.no_grad()
    def _generate(self, prompts: Sequence[list[int]], uniforms: Array) -> list[list[int]]:
        """Return one response to each prompt, with the token that ended it, if one did."""
        end = self.language_model.end_ids
        device = self.accelerator.device
        pad = self.language_model.pad_id
        ids, mask = _padded(prompts, pad=pad, left=True)
        temperatures = torch.tensor(self.temperatures).repeat(len(prompts) // len(self.temperatures)).to(device)
        drawing = EsoSampler(temperatures, torch.from_numpy(uniforms).to(device))
        settings = GenerationConfig(
            do_sample=False, max_new_tokens=self.max_new_tokens, eos_token_id=list(end) or None, pad_token_id=pad,
            repetition_penalty=1.0, disable_compile=True,
        )  # fmt: skip
        with unwrap_model_for_generation(self.model_wrapped, self.accelerator) as whole, evaluated(whole):
            both = whole.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                generation_config=settings,
                logits_processor=LogitsProcessorList([drawing]),
            )
        return [_until_end(row, end) for row in both[:, ids.shape[1] :].tolist()]

    def _rewards(self, prompts: list[list[int]], responses: list[list[int]], targets: list[list[int]]) -> Tensor:
        """Return the reward of each response, [B k]; the reward is told the row's completion. Raises RunError."""
        rows = [self.rows[*prompt, *target] for prompt, target in zip(prompts, targets, strict=True)]
        texts = [self.language_model.decode(ids) for ids in responses]
        asked, said = as_called([prompt for prompt, _ in rows], texts)
        _, wanted = as_called([prompt for prompt, _ in rows], [completion for _, completion in rows])
        with boundary("the reward failed"):
            found = self.reward(prompts=asked, completions=said, completion=wanted)
        rewards = torch.tensor(numbers(found, "the reward"), dtype=torch.float32)
        if rewards.shape != (len(responses),) or not torch.isfinite(rewards).all():
            raise RunError(f"the reward must return {len(responses)} finite numbers, got {rewards[:5].tolist()} ...")
        return rewards

    def _log_probabilities(self, model: Any, prompts: list[list[int]], responses: list[list[int]]) -> Tensor:
        """Return log pi(response | prompt) at temperature 1 through the wrapped model, with gradients: [B k]."""
        pairs = list(zip(prompts, responses, strict=True))
        pad = self.language_model.pad_id
        ids, mask = _padded([[*prompt, *response] for prompt, response in pairs], pad=pad, left=False)
        labels = torch.full_like(ids, IGNORED)
        for row, (prompt, response) in enumerate(pairs):
            labels[row, len(prompt) : len(prompt) + len(response)] = torch.tensor(response)
        device = self.accelerator.device
        out = model(
            input_ids=ids.to(device), attention_mask=mask.to(device), labels=labels.to(device), fused_lm_head=True
        )
        return out.log_probs.sum(dim=-1)  # type: ignore[no-any-return]


def split_rows(inputs: Any) -> tuple[list[list[int]], list[list[int]]]:
    """Return the token ids of each row's prompt and of its completion, from TRL's padded batch."""
    prompts, targets = [], []
    for ids, labels in zip(inputs["input_ids"], inputs["labels"], strict=True):
        where = (labels != IGNORED).nonzero()[:, 0]
        prompts.append(ids[: int(where[0])].tolist())
        targets.append(ids[where].tolist())
    return prompts, targets


def _padded(rows: Sequence[Sequence[int]], *, pad: int, left: bool) -> tuple[Tensor, Tensor]:
    """Return token ids and mask, [k, tokens] each."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(rows):
        place = slice(width - len(tokens), width) if left else slice(0, len(tokens))
        ids[row, place] = torch.tensor(tokens)
        mask[row, place] = 1
    return ids, mask


def _until_end(tokens: list[int], end: tuple[int, ...]) -> list[int]:
    ended = next((t + 1 for t, token in enumerate(tokens) if token in end), len(tokens))
    return tokens[:ended]


@contextmanager
def evaluated(model: Any) -> Iterator[None]:
    """Switch a model to evaluation meanwhile."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
