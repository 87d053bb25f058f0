"""Two groups in a script of TRL: python examples/trl_groups.py MODEL OUT. Five lines are ours, the others are TRL's."""

import sys

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import RLOOConfig, RLOOTrainer

from rlhf_game.trl import ElasticReset, GroupCallback, GroupRewards

model, out = sys.argv[1:3]
prompts = ["good", "please no yes"]
rewards = GroupRewards(
    [
        {"name": "kind", "size": 2, "reward": lambda completions: [float("good" in text) for text in completions]},
        {"name": "brief", "reward": {"brevity": 5}},
    ],
    strength=0.5,
)
report = GroupCallback(rewards, prompts, f"{out}/settled", every=2, outcomes={"samples": 32}, settlement_seed=1)
trainer = RLOOTrainer(
    model=AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
    processing_class=AutoTokenizer.from_pretrained(model, padding_side="left"),
    reward_funcs=rewards.reward_funcs,
    args=RLOOConfig(
        f"{out}/trainer", beta=rewards.beta, reward_weights=rewards.weights, max_steps=4, learning_rate=1e-3,
        per_device_train_batch_size=8, num_generations=4, max_completion_length=4, logging_steps=1, use_cpu=True,
        bf16=False, save_strategy="no", report_to="none", activation_checkpointing=False,
    ),
    train_dataset=Dataset.from_dict({"prompt": prompts * 8}),
    callbacks=[report, ElasticReset(every=3)],
)  # fmt: skip
trainer.train()
for group in report.receipt["groups"]:
    print(group["name"], "pays", group["payment"]["estimate"], "for", group["size"] * group["value"]["estimate"])
