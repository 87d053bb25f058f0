"""The checkpoints of the matrix of reward models: tiny random networks of transformers' own configurations."""

import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from tests.training_backends.cases import EOS, PAD, WORDS, Architecture, Case


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
