"""What a trained policy is worth: responses beside demonstrations, and held-out text."""

from collections.abc import Sequence

import numpy as np

from rlhf_game.files.conversations import Text
from rlhf_game.mechanism.arrays import Array
from rlhf_game.training_backends.lm.models import LanguageModel
from rlhf_game.training_backends.lm.sampling import Sampling, log_probabilities, sample


def judge_on_demonstrations(
    model: LanguageModel,
    rows: Sequence[tuple[Text, Text]],
    *,
    max_new_tokens: int,
    seed: int,
    system: str | None = None,
) -> tuple[list[str], list[str], Array]:
    """Return of each prompt one response drawn at temperature 1, the greedy one, and the completion's nats per token.

    rows: prompts and completions, [n]. The nats are those of the completion with its end token.
    """
    prompts = [prompt for prompt, _ in rows]
    drawn, greedy = (
        [one[0].text for one in sample(model, prompts, 1, seed=seed, sampling=how, system=system)]
        for how in (Sampling(max_new_tokens), Sampling(max_new_tokens, top_k=1))
    )
    encoded = [model.encode_exchange(prompt, completion, system) for prompt, completion in rows]
    asked, answers = [prompt for prompt, _ in encoded], [answer for _, answer in encoded]
    nats = -log_probabilities(model, asked, answers) / np.array([len(answer) for answer in answers])
    return drawn, greedy, nats


def cost_of_texts(model: LanguageModel, texts: Sequence[str]) -> tuple[Array, Array]:
    """Return -log probability in nats and the number of tokens of each text, [k] each, begun from nothing.

    A model without a start token is given the text's first token. A text that is too long is cut at its end.
    """
    room = getattr(model.model.config, "max_position_embeddings", None)
    start = model.tokenizer.bos_token_id
    rows = [list(model.tokenizer(text, add_special_tokens=False).input_ids)[:room] for text in texts]
    if start is not None:
        rows = [[int(start), *row][:room] for row in rows]
    nats = -log_probabilities(model, [row[:1] for row in rows], [row[1:] for row in rows])
    return nats, np.array([len(row) - 1 for row in rows], dtype=np.float64)
