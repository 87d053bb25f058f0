"""WARM: the weights of several reward models averaged, score head included (Rame et al. 2024).

LoRA adapters on one backbone are averaged exactly as what they add, sum_m weight_m scale_m B_m A_m, by stacking their
ranks. Averaging A and B separately gives mean(B) mean(A), which is another network, and peft's ``linear`` combination
sums them with square roots of the weights, which is wrong by a factor of M for equal members; tests show both.
"""

import dataclasses
import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftConfig, load_peft_weights
from safetensors.torch import save_file

from rlhf_game.errors import InputError
from rlhf_game.files.atomic import write_json
from rlhf_game.training_backends.lm.checkpoints import find_checkpoint, model_folder
from rlhf_game.training_backends.lm.quiet import quiet_transformers
from rlhf_game.training_backends.lm.reward_networks import (
    ADAPTER,
    CARD,
    HEAD,
    HeadReward,
    Scorer,
    load_head,
    load_reward_model,
    read_card,
    save_head,
    set_head,
)
from rlhf_game.training_backends.lm.scorers import Classifier


def average_models(folders: Sequence[Path], out: Path, *, weights: Sequence[float] | None = None) -> dict[str, Any]:
    """Write the weighted average of reward models to the folder ``out``, and return its card.

    weights: one for each model, equal by default; they sum to 1 (a point on the line between two models is (1 - a, a)).
    Heads on one backbone and adapters on one backbone stay what they are; anything else (whole networks, adapters on
    different backbones as Baklava has them, DoRA, rank patterns) is merged into whole networks first. Raises InputError
    when the models cannot be averaged.
    """
    shares = [1.0 / len(folders)] * len(folders) if weights is None else [float(w) for w in weights]
    if not folders or len(shares) != len(folders) or not math.isclose(sum(shares), 1.0, abs_tol=1e-9):
        raise InputError(f"weights must be one for each model and sum to 1, got {shares} for {len(folders)} models")
    cards = [read_card(folder) for folder in folders]
    card = _common_card(folders, cards, shares)
    fresh = out.with_name(out.name + ".tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        if all((folder / HEAD).is_file() for folder in folders):
            _average_heads(folders, cards, shares, fresh)
        elif all((folder / ADAPTER).is_file() for folder in folders) and _can_stack(folders, cards):
            _stack_adapters(folders, shares, fresh)
        else:
            _average_networks(folders, shares, fresh)
            card |= {"method": "full"}
        write_json(fresh / CARD, card)
        shutil.rmtree(out, ignore_errors=True)
        fresh.rename(out)
    finally:  # nothing half-made stays behind
        shutil.rmtree(fresh, ignore_errors=True)
    return card


def load_average(names: Sequence[str], *, base: Path | None = None, device: str = "auto") -> Scorer:
    """Return the equal average of reward models, in memory. Raises InputError when they cannot be averaged."""
    folders = [model_folder(name, base) for name in names]
    with tempfile.TemporaryDirectory(prefix="rlhf-game-") as place:
        average_models(folders, Path(place) / "warm")
        scorer: Any = load_reward_model(str(Path(place) / "warm"), device=device)
    members = [dict(find_checkpoint(str(folder)).provenance) for folder in folders]
    average: Scorer = dataclasses.replace(scorer, provenance={"average_of": members})
    return average


def _common_card(folders: Sequence[Path], cards: Sequence[dict[str, Any]], shares: Sequence[float]) -> dict[str, Any]:
    members = [{"model": folder.name, "weight": share} for folder, share in zip(folders, shares, strict=True)]
    known: dict[str, Any] = {key: cards[0][key] for key in ("backbone", "method", "truncate") if key in cards[0]}
    return {**known, "eta": min(float(card.get("eta") or 0.0) for card in cards), "averaged": members}


def _is_same_backbone(cards: Sequence[dict[str, Any]]) -> bool:
    return all(card.get("backbone") == cards[0].get("backbone") for card in cards)


def _average_heads(
    folders: Sequence[Path], cards: Sequence[dict[str, Any]], shares: Sequence[float], out: Path
) -> None:
    features = {(card["method"], card.get("truncate")) for card in cards}
    if not _is_same_backbone(cards) or len(features) > 1:
        raise InputError("members must be heads on the same features of one backbone to be averaged")
    heads = [load_head(folder) for folder in folders]
    weight = sum(share * head for share, (head, _) in zip(shares, heads, strict=True))
    save_head(out, np.asarray(weight), sum(share * bias for share, (_, bias) in zip(shares, heads, strict=True)))


def _can_stack(folders: Sequence[Path], cards: Sequence[dict[str, Any]]) -> bool:
    """Return whether what the adapters add is linear in their stacked factors, on one backbone."""
    settings: list[Any] = [PeftConfig.from_pretrained(str(folder)) for folder in folders]
    return _is_same_backbone(cards) and all(
        isinstance(one, LoraConfig)
        and not (one.use_dora or one.rank_pattern or one.alpha_pattern or one.lora_bias)
        and one.bias == "none"
        and one.target_modules == settings[0].target_modules
        for one in settings
    )


def _stack_adapters(folders: Sequence[Path], shares: Sequence[float], out: Path) -> None:
    """Write one adapter of rank sum_i r_i whose product is sum_i share_i B_i A_i: the average of the members' changes.

    Averaging A and B apart would be another matrix. Modules that are saved whole are averaged.
    """
    settings: list[Any] = [PeftConfig.from_pretrained(str(folder)) for folder in folders]
    states = [load_peft_weights(str(folder), device="cpu") for folder in folders]
    if any(state.keys() != states[0].keys() for state in states):
        raise InputError("members must be adapters on the same layers to be averaged")
    scales = [one.lora_alpha / (one.r**0.5 if one.use_rslora else one.r) for one in settings]
    stacked = {}
    for key in states[0]:
        if "lora_A" in key or "lora_embedding_A" in key:
            parts = [w * s * state[key] for w, s, state in zip(shares, scales, states, strict=True)]
            stacked[key] = torch.cat(parts, dim=0)
        elif "lora_B" in key or "lora_embedding_B" in key:
            stacked[key] = torch.cat([state[key] for state in states], dim=1)
        else:  # the score head
            stacked[key] = torch.stack([w * state[key] for w, state in zip(shares, states, strict=True)]).sum(dim=0)
    rank = sum(one.r for one in settings)
    dataclasses.replace(
        settings[0], r=rank, lora_alpha=rank, use_rslora=False, lora_dropout=0.0, inference_mode=True
    ).save_pretrained(str(out))
    tensors = {key: value.contiguous() for key, value in stacked.items()}
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})
    _copy_tokenizer(folders[0], out)


def _average_networks(folders: Sequence[Path], shares: Sequence[float], out: Path) -> None:
    """Write the average of whole networks, summed in float64; what is no floating point number is the last member's."""
    total: dict[str, torch.Tensor] = {}
    for folder, share in zip(folders, shares, strict=True):
        whole = _whole(folder)
        network: Any = whole.model
        state: dict[str, torch.Tensor] = network.state_dict()
        shapes = {key: tuple(value.shape) for key, value in state.items()}
        if total and shapes != {key: tuple(value.shape) for key, value in total.items()}:
            raise InputError(f"members must be networks of one shape to be averaged, {folder.name} differs")
        for key, value in state.items():
            part = share * value.double() if value.is_floating_point() else value
            total[key] = total[key] + part if key in total and value.is_floating_point() else part
    network.load_state_dict(total)  # back to the network's own precision
    with quiet_transformers():
        network.save_pretrained(out)
        whole.tokenizer.save_pretrained(out)


def _whole(folder: Path) -> Classifier:
    """Return a reward model as one network: an adapter is merged into its backbone."""
    scorer = load_reward_model(str(folder), device="cpu")
    if isinstance(scorer, HeadReward):
        network = scorer.features.network
        if not isinstance(network, Classifier):
            raise InputError(f"members must be all heads on embeddings or none, {folder.name} is one")
        set_head(network, scorer.weights, scorer.bias)
        return network
    assert isinstance(scorer, Classifier)  # the only other
    if scorer.adapter is None:
        return scorer
    adapted: Any = scorer.model  # a PeftModel
    return dataclasses.replace(scorer, model=adapted.merge_and_unload(adapter_names=[scorer.adapter]), adapter=None)


def _copy_tokenizer(source: Path, out: Path) -> None:
    for pattern in ("tokenizer*", "special_tokens*", "chat_template*", "vocab*", "merges*"):
        for path in source.glob(pattern):
            shutil.copy(path, out)
