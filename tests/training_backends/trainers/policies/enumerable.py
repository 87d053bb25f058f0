"""A language model over six tokens whose responses can all be listed: the best policy is known in closed form."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from rlhf_game.training_backends.lm.models import LanguageModel, load_language_model
from rlhf_game.training_backends.lm.sampling import log_probabilities
from rlhf_game.training_backends.trainers.policies import PolicyTraining

WORDS = ("<pad>", "<eos>", "a", "b", "c", "d")
END = 1
PROMPT = "a b"


def save_model(folder: Path, *, layers: int = 1, hidden: int = 32, seed: int = 0) -> Path:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=16, pad_token_id=0, bos_token_id=None,
        eos_token_id=END, tie_word_embeddings=False, initializer_range=0.1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def responses(longest: int, begun: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """Every response of at most ``longest`` tokens: it ends with the end token, or is cut."""
    if len(begun) == longest or (begun and begun[-1] == END):
        return [begun]
    return [found for token in range(len(WORDS)) for found in responses(longest, (*begun, token))]


@dataclass(frozen=True)
class Reward:
    """The mean of random numbers of [0, 1] for each word after the one before it."""

    seed: int

    def worth(self, text: str) -> float:
        table = np.random.default_rng(self.seed).random((len(WORDS) + 1, len(WORDS) + 1))
        ids = [len(WORDS), *(WORDS.index(word) for word in text.split()), END]
        return float(np.mean([table[pair] for pair in zip(ids[:-1], ids[1:], strict=True)]))

    def __call__(self, prompts: Any, completions: Any, **columns: Any) -> list[float]:
        known = {text: self.worth(text) for text in set(completions)}
        return [known[text] for text in completions]


REWARDS = {"first": Reward(1), "second": Reward(2)}


@dataclass(frozen=True)
class Space:
    """All responses of a training: log q, s and the log of the best policy q exp(s / lambda) / Z, [m] each."""

    training: PolicyTraining

    def log_probabilities(self, model: LanguageModel) -> np.ndarray:
        listed = responses(self.training.max_new_tokens)
        asked = [model.encode_prompt(PROMPT)] * len(listed)
        found = log_probabilities(model, asked, listed, sampling=self.training.sampling, batch_size=1000)
        assert abs(np.exp(found).sum() - 1) < 1e-5
        return found

    def optimum(self) -> np.ndarray:
        model = load_language_model(self.training.model.name)
        texts = [model.decode(list(ids)) for ids in responses(self.training.max_new_tokens)]
        s = sum(
            weight * np.array([reward.worth(text) for text in texts])
            for weight, reward in zip(self.training.weights, REWARDS.values(), strict=True)
        )
        log_p = self.log_probabilities(model) + s / self.training.strength
        return np.asarray(log_p - np.logaddexp.reduce(log_p))

    def gap(self, model: LanguageModel) -> float:
        """KL(model's policy || best policy) in nats."""
        log_p = self.log_probabilities(model)
        return float(np.exp(log_p) @ (log_p - self.optimum()))
