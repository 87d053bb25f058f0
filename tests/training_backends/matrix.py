"""The matrix of reward models: every architecture, every way in which a checkpoint says where a text ends.

Tiny random networks of transformers' own configurations. ``test_matrix.py`` scores each of them as transformers does;
``docs/generate.py`` draws the table of the page on reading from ``CASES`` and ``ARCHITECTURES``.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, final

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

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
    layers: tuple[str, ...] = ("q_proj", "v_proj")
    """What an adapter is put on."""
    settings: Mapping[str, Any] = field(default_factory=dict)


HEADS = {"num_attention_heads": 2, "num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 32}
OF_BERT = ("query", "value")
GROUPED = {**HEADS, "num_key_value_heads": 1}
ARCHITECTURES: Mapping[str, Architecture] = {
    "BERT": Architecture("bert", "first token", has_segments=True, layers=OF_BERT, settings=HEADS),
    "RoBERTa": Architecture("roberta", "first token", layers=OF_BERT, settings=HEADS),
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


def tokenizer(architecture: Architecture, case: Case) -> PreTrainedTokenizerFast:
    """Return a tokenizer of thirteen words."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if architecture.has_separator:
        words.post_processor = processors.TemplateProcessing(
            single="<s> $A [SEP]", pair="<s> $A [SEP] $B:1 [SEP]:1", special_tokens=[("<s>", 0), ("[SEP]", 4)]
        )
    names = ["input_ids", *(["token_type_ids"] if architecture.has_segments else []), "attention_mask"]
    made = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token=case.tokenizer_pad,
        sep_token="[SEP]" if architecture.has_separator else None, padding_side=case.padding_side,
        model_input_names=names,
    )  # fmt: skip
    made.add_tokens(list(WORDS))  # for transformers' own tokenizer of Qwen2, which cuts texts its own way
    made.chat_template = case.template
    return made


def save_network(folder: Path, architecture: Architecture, *, labels: int = 1, seed: int = 0) -> Path:
    """Write a network whose scores differ by whole units."""
    shared = {"vocab_size": len(WORDS), "num_labels": labels, "max_position_embeddings": 64, "pad_token_id": PAD,
              "bos_token_id": 0, "eos_token_id": EOS}  # fmt: skip
    settings = AutoConfig.for_model(architecture.kind, **{**shared, **architecture.settings})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(settings, dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0.0, 0.5)
    model.save_pretrained(folder)
    return folder


def save_case(folder: Path, network: Path, architecture: Architecture, case: Case) -> Path:
    """Write the checkpoint of a case, of the weights in the folder ``network``, and return where a reward finds it."""
    place = folder / "backbone" if case.is_adapter else folder
    shutil.copytree(network, place)
    settings = json.loads((place / "config.json").read_text())
    settings["pad_token_id"] = case.pad
    (place / "config.json").write_text(json.dumps(settings))
    tokenizer(architecture, case).save_pretrained(place)
    if case.dtype != "float32":
        AutoModelForSequenceClassification.from_pretrained(place, dtype=case.dtype).save_pretrained(place)
    if case.is_adapter:
        save_adapter(folder / "adapter", place, architecture, case)
        return folder / "adapter"
    return place


def save_adapter(folder: Path, backbone: Path, architecture: Architecture, case: Case) -> None:
    """Write an adapter as TRL does: peft's two files and the tokenizer."""
    base = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=1, dtype=torch.float32)
    how = LoraConfig(
        r=2, task_type="SEQ_CLS", target_modules=list(architecture.layers), fan_in_fan_out=architecture.kind == "gpt2"
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        adapted = get_peft_model(base, how)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name or "modules_to_save" in name:
                    parameter.normal_(0.0, 0.3)
    adapted.save_pretrained(folder)
    tokenizer(architecture, case).save_pretrained(folder)
