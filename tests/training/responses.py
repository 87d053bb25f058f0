"""Responses of a model and of what was trained from it, drawn by whoever checks what the metrics say of them."""

from pathlib import Path

from rlhf_game.training_backends import LanguageModel, Sampling, load_language_model, sample
from rlhf_game.training_backends.trainers.policies import load_policy


def drawn_before_and_after(
    reference: Path, trained: Path, prompts: list[str], *, seed: int, max_new_tokens: int
) -> list[dict[str, str]]:
    """Return what metrics.json is to say of the outputs."""

    def answers(model: LanguageModel) -> list[str]:
        drawn = sample(model, prompts, 1, seed=seed, sampling=Sampling(max_new_tokens))
        return [row[0].text for row in drawn]

    models = load_language_model(str(reference), device="cpu"), load_policy(trained, device="cpu")
    rows = zip(prompts, *map(answers, models), strict=True)
    return [{"prompt": prompt, "before": before, "after": after} for prompt, before, after in rows]
