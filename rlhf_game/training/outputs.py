"""What a training changed in outputs: a few prompts, each with one response from before and one from after it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rlhf_game.files.conversations import Text

if TYPE_CHECKING:
    from rlhf_game.training_backends import LanguageModel

FEW: Final = 4
"""Prompts of which responses are kept."""


def draw_outputs(
    model: "LanguageModel", prompts: Sequence[Text], *, max_new_tokens: int, seed: int, system: str | None
) -> list[str]:
    """Draw a response to each of the first few prompts."""
    from rlhf_game.training_backends import Sampling, sample

    drawn = sample(model, prompts[:FEW], 1, seed=seed, sampling=Sampling(max_new_tokens), system=system)
    return [row[0].text for row in drawn]


def changed_outputs(prompts: Sequence[Text], before: Sequence[str], after: Sequence[str]) -> list[dict[str, str]]:
    """Return what metrics.json holds of the first few prompts, for the report to show side by side."""
    rows = zip(prompts[:FEW], before[:FEW], after[:FEW], strict=True)
    return [{"prompt": str(prompt), "before": old, "after": new} for prompt, old, new in rows]
