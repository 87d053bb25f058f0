"""Measure where the time of a run with outcomes finetuned goes, on SmolLM2; writes a table of docs/finetuned.md.

RLHF_GAME_DATA=folder python -m measurements.measure_profile FOLDER    some minutes on one core

Needs what measure_training needs; FOLDER keeps the trained rewards, and the run is made anew. Times are processor time
of this process, each part without the parts that it calls.
"""

import json
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from transformers import GenerationMixin, Trainer
from trl.trainer.rloo_trainer import RLOOTrainer

from measurements.measured import write_table
from measurements.smollm2 import ASKED, MODEL, SEED, TOKENS, group_documents
from rlhf_game.outcomes import read_config, run
from rlhf_game.outcomes.scoring import GroupScorer
from rlhf_game.training_backends.lm import sampling
from rlhf_game.training_backends.trainers.policies.trainers import NamedReward

Parts: TypeAlias = dict[str, float]
LENGTHS = (TOKENS, 64, 128)
"""Tokens that a response has at most."""
GENERATION, GRADIENTS, TRAINING, DRAWS, REWARDS, REST = (
    "generation", "gradients", "log probabilities in training", "log probabilities of draws", "rewards", "all else",
)  # fmt: skip
WATCHED: tuple[tuple[Any, str, str], ...] = (
    (GenerationMixin, "generate", GENERATION),
    (sampling, "sample_batch", GENERATION),
    (sampling, "log_probabilities", DRAWS),
    (RLOOTrainer, "_generate_and_score_completions", TRAINING),
    (Trainer, "training_step", GRADIENTS),
    (NamedReward, "__call__", REWARDS),
    (GroupScorer, "score_group", REWARDS),
)
"""What is called, and what it is; TRL computes log probabilities in the function that draws, beside its parts."""


@contextmanager
def watching(
    calls: Sequence[tuple[Any, str, str]] = WATCHED, clock: Callable[[], float] = time.process_time
) -> Iterator[Parts]:
    """Yield the seconds of each part, exclusive of the parts inside it."""
    spent: Parts = defaultdict(float)
    stack, last = [REST], [clock()]

    def pass_to(part: str | None) -> None:
        now = clock()
        spent[stack[-1]] += now - last[0]
        last[0] = now
        if part is None:
            stack.pop()
        else:
            stack.append(part)

    def watched(call: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            pass_to(part)
            try:
                return call(*arguments, **named)
            finally:
                pass_to(None)

        return timed

    known = [(owner, name, getattr(owner, name)) for owner, name, _ in calls]
    for (owner, name, call), (_, _, part) in zip(known, calls, strict=True):
        setattr(owner, name, watched(call, part))
    try:
        yield spent
    finally:
        pass_to(None)
        for owner, name, call in known:
            setattr(owner, name, call)


def profiled(config: Path, out: Path) -> Parts:
    """Run anew and return the processor seconds of each part."""
    shutil.rmtree(out, ignore_errors=True)
    with watching() as spent:
        run(read_config(config), out)
    return spent


def main(folder: Path) -> None:
    """Measure and write the table."""
    groups = [{**group, "size": 2 - i} for i, group in enumerate(group_documents(folder))]
    found = []
    for length in LENGTHS:
        outcomes = {
            "kind": "finetuned", "steps": 3, "num_generations": 8, "max_new_tokens": length, "samples": 24,
            "choosing": 8,
        }  # fmt: skip
        document = {
            "model": MODEL, "prompts": list(ASKED), "outcomes": outcomes, "strength": 0.25,
            "groups": groups, "settlement_seed": SEED,
        }  # fmt: skip
        config = folder / "profile.json"
        config.write_text(json.dumps(document), encoding="utf-8")
        found.append(profiled(config, folder / "profile"))
    whole = [sum(spent.values()) for spent in found]
    heads = [word for length in LENGTHS for word in (f"{length} tokens, s", "%")]
    rows = [
        [part, *(word for spent, all_of_it in zip(found, whole, strict=True)
                 for word in (f"{spent[part]:.0f}", f"{100 * spent[part] / all_of_it:.0f}"))]
        for part in (GENERATION, GRADIENTS, TRAINING, DRAWS, REWARDS, REST)
    ]  # fmt: skip
    last = ["all", *(word for all_of_it in whole for word in (f"{all_of_it:.0f}", "100"))]
    write_table("finetuned.md", "profile", ["part", *heads], [*rows, last])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
