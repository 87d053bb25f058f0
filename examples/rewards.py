"""A group's own reward: any function with TRL's signature."""


def answers_first(prompts: list[str], completions: list[str], **columns: object) -> list[float]:
    """Return 1 for a short first sentence, falling to 0 at thirty words; 0 for no sentence at all."""
    lengths = [len(text.split(".")[0].split()) for text in completions]
    return [max(0.0, 1.0 - words / 30) if words > 0 else 0.0 for words in lengths]
