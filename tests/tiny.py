"""Language and reward models of a few thousand random weights and ten words, written to disk as real checkpoints."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig, PreTrainedTokenizerFast

WORDS = ("<pad>", "<bos>", "<eos>", "<unk>", "good", "bad", "yes", "no", "please", "thanks", "maybe", "now")
ROOM = 64
"""Tokens that a language model reads."""
CHAT = "{% for m in messages %}{{ m['content'] }} <bos> {% endfor %}"


def tokenizer(chat: str | None = CHAT, more: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate((*WORDS, *more))}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )
    made.chat_template = chat
    return made


def config(labels: int = 2, more: tuple[str, ...] = ()) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(WORDS) + len(more), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=ROOM, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        tie_word_embeddings=False, num_labels=labels,
    )  # fmt: skip


def save_language_model(folder: Path, *, seed: int = 0, chat: str | None = CHAT, more: tuple[str, ...] = ()) -> Path:
    """Write a causal language model whose next-token probabilities are far from uniform. more: words that it knows."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config(more=more), dtype=torch.float32)
    with torch.no_grad():
        model.lm_head.weight.mul_(20.0)
        for parameter in model.model.parameters():
            parameter.mul_(3.0)
    model.save_pretrained(folder)
    tokenizer(chat, more).save_pretrained(folder)
    return folder


def save_reward_model(folder: Path, *, seed: int = 0, labels: int = 1) -> Path:
    """Write a sequence-classification model."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(config(labels), dtype=torch.float32)
    with torch.no_grad():
        model.score.weight.mul_(50.0)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
