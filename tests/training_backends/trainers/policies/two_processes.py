"""Two trainings in one of the processes of torchrun. Arguments: the model's folder, the batch size, the folder.

Samples of the policy are replaced by a function of the prompt and the place in its group, so that nothing depends on
how random streams are dealt out to processes; ESO's own draws need no such thing.
"""

import sys
from pathlib import Path
from typing import Any

import torch

from rlhf_game.training_backends.trainers.policies.elastic_callback import ElasticReset
from rlhf_game.training_backends.trainers.policies.eso_training import EsoTraining, train_eso
from rlhf_game.training_backends.trainers.policies.policy_settings import PolicyTraining
from rlhf_game.training_backends.trainers.policies.policy_training import train_policy
from rlhf_game.training_backends.trainers.policies.trainers import Rloo
from tests.training_backends.trainers.policies.test_elastic_reset import PROMPTS, reward
from tests.training_backends.trainers.policies.test_eso import ROWS, Judge
from tests.trainings import made

RESPONSES = [[4, 2], [6, 4, 5, 2], [8, 9, 4], [5, 2], [10, 11, 2], [7, 7, 4, 2], [4, 4, 2]]


def generate_recorded(self: Any, prompt_ids: list[list[int]], *others: Any, **named: Any) -> Any:
    return [RESPONSES[(sum(ids) + 3 * (i % self.num_generations)) % len(RESPONSES)] for i, ids in enumerate(prompt_ids)]


def main(model: str, size: int, out: Path) -> None:
    training = made(
        EsoTraining,
        model, epochs=3, eso_epochs=2, weight=1.0, learning_rate=0.01, batch_size=size, max_new_tokens=5,
        device="cpu", save_steps=2,
    )  # fmt: skip
    train_eso(training, ROWS, Judge(), out / "eso")
    policy = made(
        PolicyTraining,
        model, 0.1, (1.0,), steps=4, learning_rate=0.01, batch_size=size, num_generations=2, max_new_tokens=4,
        device="cpu", save_steps=2,
    )  # fmt: skip
    train_policy(policy, PROMPTS, {"good": reward}, out / "policy", callbacks=[ElasticReset(2, decay=0.8)])


if __name__ == "__main__":
    torch.set_num_threads(1)
    Rloo._generate_single_turn = generate_recorded  # type: ignore[method-assign]
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
