"""A causal language model and its tokenizer: load them, render a prompt, know where a sequence ends."""

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rlhf_game.errors import InputError, boundary
from rlhf_game.files.conversations import Conversation, Text, answered, dialogue, text_of
from rlhf_game.optimization import Optimization, Pretrained
from rlhf_game.training_backends.lm.checkpoints import INSTALLED, Checkpoint, find_checkpoint
from rlhf_game.training_backends.lm.quiet import quiet_transformers
from rlhf_game.training_backends.lm.reach import hub_answers, without_hub
from rlhf_game.training_backends.lm.templates import encode, render, turn_end

TOKENIZERS = ("tokenizer*", "vocab*", "*.model")
"""Files of a folder that hold a tokenizer."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@final
@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model with its tokenizer, in evaluation mode."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    provenance: Mapping[str, str | None]
    """The model's name, its revision or the sha256 of its weights."""
    folds_system: bool = False
    """Whether a system turn that the chat template refuses goes to the beginning of the first user turn."""

    @property
    def vocabulary(self) -> int:
        """How many tokens may come next."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end a sequence: of the tokenizer, of the generation settings, of a turn of the template."""
        return tuple(sorted(self._known_ends if self._turn_end is None else {*self._known_ends, self._turn_end}))

    @property
    def end_id(self) -> int | None:
        """The token that ends a response: the one with which the chat template ends a turn, else the tokenizer's."""
        own = self.tokenizer.eos_token_id if self._turn_end is None else self._turn_end
        return own if own is not None else next(iter(self.end_ids), None)

    @cached_property
    def _turn_end(self) -> int | None:
        return turn_end(self.tokenizer, self._known_ends)

    @property
    def _known_ends(self) -> set[int]:
        named = self.model.generation_config.eos_token_id if self.model.generation_config is not None else None
        listed = named if isinstance(named, list) else [named]
        return {int(i) for i in [*listed, self.tokenizer.eos_token_id] if i is not None}

    @property
    def pad_id(self) -> int:
        """What fills a batch: the padding token, else one that ends a sequence.

        Raises InputError when there is neither.
        """
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, *self.end_ids):
            if token is not None:
                return int(token)
        name = self.provenance.get("model")
        raise InputError(f"model: {name} must have a token that ends a text or one for padding, found neither")

    def render(self, prompt: Text, system: str | None = None) -> str:
        """Return the text that the model continues: through its chat template when it has one."""
        asked = dialogue(text_of(prompt, "prompt"), system)
        return render(self.tokenizer, asked, is_open=True, folds_system=self.folds_system)

    def encode_prompt(self, prompt: Text, system: str | None = None) -> list[int]:
        """Return the token ids of the rendered prompt. Raises InputError when the template refuses it."""
        return encode(self.tokenizer, self.render(prompt, system))

    def encode_prompts(self, prompts: Sequence[Text], system: str | None = None) -> list[list[int]]:
        """Return the token ids of each rendered prompt. Raises InputError that names the prompt that is refused."""
        found = []
        for b, prompt in enumerate(prompts):
            try:
                found.append(self.encode_prompt(prompt, system))
            except InputError as error:
                raise InputError(f"prompts[{b}]: {error}") from error
        return found

    def encode_exchange(self, prompt: Text, response: Text, system: str | None = None) -> tuple[list[int], list[int]]:
        """Return the token ids of a prompt and of a response to it, as sampling reads the one and draws the other.

        The response ends by itself, with ``end_id``. Raises InputError when it is more than one turn.
        """
        asked = self.render(prompt, system)
        if isinstance(response, Conversation):
            if len(response.messages) > 1:
                raise InputError(f"a response must be one turn of the assistant, found {len(response.messages)} turns")
            whole = answered(prompt, response, system)
            text = render(self.tokenizer, whole, is_open=False, folds_system=self.folds_system)
            response = text[len(os.path.commonprefix([asked, text])) :]
        ids = list(self.tokenizer(response, add_special_tokens=False).input_ids)
        ended = next((k for k, token in enumerate(ids) if token in self.end_ids), len(ids))
        end = [] if self.end_id is None else [self.end_id]
        return encode(self.tokenizer, asked), ids[:ended] + (ids[ended : ended + 1] or end)

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of a response without its special tokens."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def load_language_model(
    name: str,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    base: Path | None = None,
    folds_system: bool = False,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> LanguageModel:
    """Load a causal language model from safetensors, never from a pickle and never running code from the checkpoint.

    name: see ``find_checkpoint``; revision: a commit, tag or branch on the hub; device: ``auto`` takes a GPU when
    there is one; HF_HUB_OFFLINE is respected; folds_system: see ``LanguageModel``; tokenizer: for a folder that has
    none. Raises InputError when there is no such model.
    """
    checkpoint = find_checkpoint(name, revision=revision, base=base)
    model, report = load_pretrained(AutoModelForCausalLM, checkpoint, dtype=dtype, with_report=True)
    if lacking := sorted(report["missing_keys"]):  # transformers would make them up
        raise InputError(f"model: {checkpoint.name} must hold every weight of a language model, lacks {lacking[0]}")
    model = model.to(pick_device(device)).eval()
    folder = Path(checkpoint.location)
    if tokenizer is None or any(file for pattern in TOKENIZERS for file in folder.glob(pattern)):
        tokenizer = load_pretrained(AutoTokenizer, checkpoint)
    loaded = LanguageModel(model, tokenizer, loaded_provenance(checkpoint, model), folds_system)
    if model.generation_config is not None:  # what TRL and transformers draw with ends where a turn does
        model.generation_config.eos_token_id = list(loaded.end_ids) or None
    return loaded


def load_reference(model: Pretrained, base: Path | None = None) -> LanguageModel:
    """Load the model of a training as it is stored, in float32 and on its device. Raises InputError when it is none."""
    return load_language_model(
        model.name, revision=model.revision, device=model.device, base=base, folds_system=model.fold_system
    )


def load_tokenizer(name: str, *, revision: str | None, base: Path | None) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer alone. Raises InputError when there is none."""
    found: PreTrainedTokenizerBase = load_pretrained(AutoTokenizer, find_checkpoint(name, revision=revision, base=base))
    return found


def load_trainable(model: Pretrained, how: Optimization, device: str = "cpu") -> LanguageModel:
    """Load a language model to train: as ``load_language_model`` does, its tokenizer with the tokens that TRL asks for.

    The backbone of a LoRA is frozen and may be coarse; weights that are trained in bfloat16 would swallow small
    updates. Raises InputError when there is no token to fill batches with.
    """
    dtype = model.dtype if how.lora is not None else "float32"
    loaded = load_language_model(
        model.name, revision=model.revision, device=device, dtype=dtype, folds_system=model.fold_system
    )
    tokenizer, end = loaded.tokenizer, loaded.end_id
    if end is not None and tokenizer.eos_token_id is None:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(loaded.pad_id)
    return loaded


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
    notes = ["HF_HUB_OFFLINE is set"] if os.environ.get("HF_HUB_OFFLINE") else []
    is_silent = False
    if checkpoint.sha256 is None:
        is_silent = not hub_answers(checkpoint.location, "model", checkpoint.revision)
        notes.append(f"it is no folder here, nor one of {', '.join(INSTALLED)}")
    note = f" ({'; '.join(notes)})" if notes else ""
    quietly = without_hub() if is_silent else nullcontext()
    with quiet_transformers(), quietly, boundary(f"model: {checkpoint.name} cannot be loaded{note}", InputError):
        return kind.from_pretrained(
            checkpoint.location, revision=checkpoint.revision, trust_remote_code=False, **options
        )


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
