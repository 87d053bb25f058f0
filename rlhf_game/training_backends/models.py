"""A causal language model and its tokenizer: load them, render a prompt, know where a sequence ends."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from rlhf_game.errors import InputError
from rlhf_game.training_backends.checkpoints import Checkpoint, find_checkpoint

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@final
@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model with its tokenizer, in evaluation mode."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    provenance: Mapping[str, str | None]
    """The model's name, its revision or the sha256 of its weights."""

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end a sequence: the tokenizer's, and those of the model's generation settings."""
        named = self.model.generation_config.eos_token_id if self.model.generation_config is not None else None
        listed = named if isinstance(named, list) else [named]
        return tuple(sorted({int(i) for i in [*listed, self.tokenizer.eos_token_id] if i is not None}))

    def render(self, prompt: str, system: str | None = None) -> str:
        """Return the text that the model continues: through its chat template when it has one."""
        return self._render_turns(_turns(prompt, system))

    def encode_prompt(self, prompt: str, system: str | None = None) -> list[int]:
        """Return the token ids of the rendered prompt (special tokens are the chat template's business, if any)."""
        return self.encode_turns(_turns(prompt, system))

    def encode_turns(self, turns: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the token ids of a conversation, rendered. turns: messages with ``role`` and ``content``."""
        is_plain = self.tokenizer.chat_template is None
        ids = list(self.tokenizer(self._render_turns(turns), add_special_tokens=is_plain).input_ids)
        if ids:
            return ids
        start = self.tokenizer.bos_token_id
        if start is None:
            raise InputError("prompts must not be empty for a model without a start token")
        return [int(start)]

    def _render_turns(self, turns: Sequence[Mapping[str, str]]) -> str:
        if self.tokenizer.chat_template is None:
            return "\n\n".join(turn["content"] for turn in turns)
        given = [dict(turn) for turn in turns]
        return str(self.tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=True))

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of a response without its special tokens."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _turns(prompt: str, system: str | None) -> list[dict[str, str]]:
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": prompt}]


def load_language_model(
    name: str,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    base: Path | None = None,
) -> LanguageModel:
    """Load a causal language model from safetensors, never from a pickle and never running code from the checkpoint.

    name: see ``find_checkpoint``; revision: a commit, tag or branch on the hub; device: ``auto`` takes a GPU when
    there is one; HF_HUB_OFFLINE is respected. Raises InputError when there is no such model.
    """
    checkpoint = find_checkpoint(name, revision=revision, base=base)
    model = load_pretrained(AutoModelForCausalLM, checkpoint, dtype=dtype).to(pick_device(device)).eval()
    tokenizer = load_pretrained(AutoTokenizer, checkpoint)
    return LanguageModel(model, tokenizer, loaded_provenance(checkpoint, model))


def load_pretrained(
    kind: Any,
    checkpoint: Checkpoint,
    *,
    dtype: str | None = None,
    with_report: bool = False,
    labels: int | None = None,
) -> Any:
    """Return ``kind.from_pretrained`` of the checkpoint, quietly; raise InputError when transformers cannot.

    dtype: of a model; None for a tokenizer. with_report: return the pair of the model and what was missing. labels: how
    many logits a new classification head has.
    """
    options: dict[str, Any] = {} if dtype is None else {"dtype": DTYPES[dtype], "use_safetensors": True}
    if labels is not None:
        options["num_labels"] = labels
    if with_report:
        options["output_loading_info"] = True
    with quiet_transformers():
        try:
            return kind.from_pretrained(
                checkpoint.location, revision=checkpoint.revision, trust_remote_code=False, **options
            )
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
            raise InputError(f"model: {checkpoint.name} cannot be loaded{offline}: {reason}") from error


def loaded_provenance(checkpoint: Checkpoint, model: PreTrainedModel) -> Mapping[str, str | None]:
    """Return the checkpoint's provenance, with the commit that a hub name turned out to be."""
    commit = getattr(model.config, "_commit_hash", None)
    return dict(checkpoint.provenance) if commit is None else {**checkpoint.provenance, "revision": str(commit)}


def pick_device(device: str) -> torch.device:
    """Return the torch device called ``device``; ``auto`` is the GPU when there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device must be auto or a torch device, got {device!r}") from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' own progress bars and notices, and put its settings back afterwards."""
    level, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():  # peft 0.21 asks transformers 5 by the old name
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)
        if has_bars:
            logging.enable_progress_bar()
