"""The matrix of reward models: every architecture, every way in which a checkpoint says where a text ends.

``test_matrix.py`` scores each of them as transformers does; ``docs/generate.py`` draws the tables of docs/reading.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, final

WORDS = ("<s>", "<pad>", "</s>", "<unk>", "[SEP]", "good", "bad", "yes", "no", "please", "thanks", "maybe", "now")
PAD, EOS, WORD = WORDS.index("<pad>"), WORDS.index("</s>"), WORDS.index("yes")
PLAIN = "{% for m in messages %}{{ m['content'] }} <s> {% endfor %}"
ENDS_IN_EOS = "{% for m in messages %}{{ m['content'] }} </s> {% endfor %}"


@final
@dataclass(frozen=True)
class Architecture:
    """A kind of model, by transformers' name, and how its tokenizer puts a pair together."""

    kind: str
    reads: Literal["first token", "mean", "last token"]
    """What its head sees."""
    has_segments: bool = False
    """Whether its tokenizer says which text of a pair a token is of (``token_type_ids``)."""
    has_separator: bool = True
    counts_by_pad: bool = False
    """Whether positions are counted from the pad id on, without which transformers cannot count them."""
    layers: tuple[str, ...] = ("q_proj", "v_proj")
    """What an adapter is put on."""
    settings: Mapping[str, Any] = field(default_factory=dict)


HEADS = {"num_attention_heads": 2, "num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 32}
OF_BERT = ("query", "value")
GROUPED = {**HEADS, "num_key_value_heads": 1}
ARCHITECTURES: Mapping[str, Architecture] = {
    "BERT": Architecture("bert", "first token", has_segments=True, layers=OF_BERT, settings=HEADS),
    "RoBERTa": Architecture("roberta", "first token", counts_by_pad=True, layers=OF_BERT, settings=HEADS),
    "ELECTRA": Architecture(
        "electra", "first token", has_segments=True, layers=OF_BERT, settings={**HEADS, "embedding_size": 8}
    ),
    "DeBERTa-v2": Architecture(
        "deberta-v2", "first token", has_segments=True, layers=("query_proj", "value_proj"),
        settings={**HEADS, "type_vocab_size": 2, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    ),
    "ModernBERT": Architecture(
        "modernbert", "mean", layers=("Wqkv",), settings={**HEADS, "classifier_pooling": "mean", "local_attention": 8}
    ),
    "GPT-2": Architecture(
        "gpt2", "last token", has_separator=False, layers=("c_attn",),
        settings={"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    ),
    "Llama": Architecture("llama", "last token", has_separator=False, settings=GROUPED),
    "Qwen2": Architecture("qwen2", "last token", has_separator=False, settings=GROUPED),
    "Gemma": Architecture("gemma", "last token", has_separator=False, settings={**GROUPED, "head_dim": 8}),
}  # fmt: skip


@final
@dataclass(frozen=True)
class Case:
    """How a checkpoint was saved."""

    pad: int | None = PAD
    """The pad id in the model's configuration."""
    tokenizer_pad: str | None = "<pad>"
    padding_side: Literal["left", "right"] = "right"
    template: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    is_adapter: bool = False


PADS: Mapping[str, int | None] = {"present": PAD, "absent": None, "equal to eos": EOS, "an ordinary word": WORD}
FORMS: Mapping[str, Mapping[str, Any]] = {
    "plain text": {},
    "pad only in the tokenizer, equal to eos": {"tokenizer_pad": "</s>"},
    "left padding": {"padding_side": "left", "template": PLAIN},
    "template ending in eos": {"template": ENDS_IN_EOS},
    "bf16": {"dtype": "bfloat16"},
    "PEFT adapter": {"is_adapter": True, "template": ENDS_IN_EOS},
}


def is_refused(architecture: Architecture, pad: int | None) -> bool:
    """Whether transformers cannot read a text alone either."""
    return architecture.counts_by_pad and pad is None


def scored(architecture: Architecture, pad: int | None) -> str:
    """Return what makes the score, in words."""
    if is_refused(architecture, pad):
        return "refused, as transformers fails"
    if architecture.reads != "last token":
        return architecture.reads if architecture.reads == "first token" else "mean of all tokens"
    return "last token" if pad is None else "last token that is not the pad id"
