"""Best-of-n distillation: SFT on the best of n responses of the reference, the weighted sum of rewards the judge.

The policy that is imitated is best-of-n itself, whose KL to the reference is at most log n - (n - 1)/n (theory, section
10): there is no lambda in it.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from rlhf_game.files.conversations import Text
from rlhf_game.files.run_folder import Progress
from rlhf_game.files.workspace import Workspace
from rlhf_game.training_backends.lm.models import LanguageModel, pick_device
from rlhf_game.training_backends.lm.sampling import sample_batch
from rlhf_game.training_backends.trainers.policies.policy_settings import PolicyTraining
from rlhf_game.training_backends.trainers.policies.trainers import NamedReward
from rlhf_game.training_backends.trainers.token_rows import labelled, shuffled_passes


@final
@dataclass(frozen=True)
class PromptBatch:
    """Prompts, [B], and their further columns, [B] each."""

    prompts: Sequence[Text]
    columns: Mapping[str, Sequence[Any]]


def choose_winners(
    training: PolicyTraining,
    language_model: LanguageModel,
    asked: PromptBatch,
    rewards: Sequence[NamedReward],
    out: Path,
    settings: Any,
    watch: Progress,
) -> None:
    """Draw, judge and keep one winner for each row of the training, a file for each step; those that are there stay.

    Every row has draws of its own, so no winner is read twice.
    """
    workspace, folder = Workspace(out), out / "winners"
    each = training.optimization.rows * settings.world_size
    order = shuffled_passes(len(asked.prompts), training.steps * each, training.optimization.seed)
    model: Any = language_model.model
    model.to(pick_device("cpu" if settings.use_cpu else "auto"))
    for step in range(training.steps):
        watch("draw and judge winners", step, training.steps)
        part = folder / f"step-{step:06d}.json"
        if not part.exists():
            before = time.perf_counter()
            rows = range(step * each, step * each + each)
            found = _winners(training, language_model, asked, [(order[row], row) for row in rows], rewards)
            workspace.write_json(part, {"seconds": time.perf_counter() - before, "rows": found})
    watch("draw and judge winners", training.steps, training.steps)
    model.to("cpu")


def _winners(
    training: PolicyTraining,
    language_model: LanguageModel,
    asked: PromptBatch,
    rows: Sequence[tuple[int, int]],
    rewards: Sequence[NamedReward],
) -> list[dict[str, Any]]:
    """Return the best of n responses of each row. rows: which prompt, and the row's number."""
    n, found = training.num_generations, []
    together = max(1, training.optimization.batch_size // n)
    encoded = language_model.encode_prompts(asked.prompts, training.system)
    for start in range(0, len(rows), together):
        some = rows[start : start + together]
        draws = [(i, row * n + j) for i, row in some for j in range(n)]
        drawn = sample_batch(
            language_model, encoded, draws, seed=training.optimization.seed, sampling=training.sampling
        )
        texts, prompts = [one.text for one in drawn], [asked.prompts[i] for i, _ in draws]
        columns = {key: [values[i] for i, _ in draws] for key, values in asked.columns.items()}
        columns["completion_ids"] = [one.token_ids for one in drawn]
        table = np.stack([reward.score(prompts, texts, columns) for reward in rewards])  # [rewards, k]
        worth = (np.array(training.weights) @ table).reshape(-1, n)
        for k, (i, _) in enumerate(some):
            own = slice(k * n, k * n + n)
            best = k * n + int(worth[k].argmax())
            found.append(
                {
                    "prompt": i,
                    "token_ids": list(drawn[best].token_ids),
                    "rewards": {reward.__name__: float(table[r, best]) for r, reward in enumerate(rewards)},
                    "mean_rewards": {reward.__name__: float(table[r, own].mean()) for r, reward in enumerate(rewards)},
                    "tokens": sum(len(one.token_ids) for one in drawn[own]) + len(encoded[i]),
                }
            )
    return found


def winning_rows(
    training: PolicyTraining, language_model: LanguageModel, asked: PromptBatch, out: Path
) -> list[dict[str, list[int]]]:
    """Return the winners that are in the folder ``out``, as TRL's SFT reads them."""
    winners = [row for part in read_winners(out) for row in part["rows"]]
    encoded = language_model.encode_prompts(asked.prompts, training.system)
    return [labelled(encoded[row["prompt"]], row["token_ids"]) for row in winners]


def read_winners(out: Path) -> list[dict[str, Any]]:
    """Return what was drawn for each step in a training's folder; nothing where it is another kind of training."""
    return [Workspace(out).read_json(part) for part in sorted((out / "winners").glob("step-*.json"))]
