"""How close each trainer comes to the closed form where all responses can be listed: the table of policies.md.

Run ``python -m measurements.measure_policies`` (minutes). A Llama of random weights over six tokens, two rewards.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch

from measurements.measured import write_table
from rlhf_game.training_backends.lm.models import load_language_model
from rlhf_game.training_backends.trainers.policies import PolicyTraining, PpoSettings, load_policy, train_policy
from tests.training_backends.trainers.policies.enumerable import PROMPT, REWARDS, Space, save_model
from tests.trainings import changed, made

BASE = made(
    PolicyTraining, "", strength=0.2, weights=(2.0, 1.0), steps=120, learning_rate=5e-3, batch_size=256,
    num_generations=256, device="cpu", seed=1, trl=(("adam_beta2", 0.95),),
)  # fmt: skip
TRAINERS: dict[str, dict[str, Any]] = {
    "rloo": {},
    "ppo": {"ppo": PpoSettings(epochs=1)},
    "grpo": {},
    "best_of_n": {"num_generations": 8, "learning_rate": 2e-3},
}


def gaps(tokens: int, folder: Path) -> tuple[float, dict[str, float]]:
    """Return KL(policy || closed form) in nats of the model before training, and after it by each trainer."""
    model = str(save_model(folder / "model", layers=2 if tokens > 2 else 1))
    base = changed(BASE, model=model, max_new_tokens=tokens)
    space, found = Space(base), {}
    for name, changes in TRAINERS.items():
        trained = train_policy(changed(base, trainer=name, **changes), [PROMPT], REWARDS, folder / name)
        found[name] = space.gap(load_policy(trained.folder))
    return space.gap(load_language_model(model)), found


def main() -> None:
    """Measure and write the table."""
    torch.set_num_threads(1)
    rows = []
    for tokens in (1, 2, 3):
        with tempfile.TemporaryDirectory() as folder:
            before, after = gaps(tokens, Path(folder))
        rows.append([tokens, f"{before:.3f}", *(f"{after[name]:.4f}" for name in TRAINERS)])
    write_table("policies.md", "gaps", ["tokens at most", "untrained", *TRAINERS], rows)


if __name__ == "__main__":
    main()
