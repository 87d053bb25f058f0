"""WARM: averages are exact as deltas, score head included; what looks like one and is none; the paper's theory."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, load_peft_weights
from safetensors.torch import save_file

from rlhf_game import InputError
from rlhf_game.rewards.bradley_terry import Likelihood, fit_head
from rlhf_game.training_backends.lm.averaging import average_models
from rlhf_game.training_backends.lm.checkpoints import find_checkpoint
from rlhf_game.training_backends.lm.quiet import quiet_transformers
from rlhf_game.training_backends.lm.reward_networks import CARD, load_reward_model, save_head
from rlhf_game.training_backends.lm.scorers import load_backbone
from rlhf_game.training_backends.trainers.reward_training import Finetuning, finetune, frozen_features
from tests import tiny
from tests.preferences import preferences, triples
from tests.trainings import made

ROWS = preferences(30, seed=5)
PAIRS = [(row.prompt, row.chosen) for row in ROWS] + [(row.prompt, row.rejected) for row in ROWS]


def scores(folder: Path) -> np.ndarray:
    return np.asarray(load_reward_model(str(folder)).score(PAIRS))


def write_card(folder: Path, backbone: Path, **more: Any) -> Path:
    known = dict(find_checkpoint(str(backbone)).provenance)
    (folder / CARD).write_text(json.dumps({"backbone": known, "eta": 0.01, "method": "lora", **more}))
    return folder


def adapter(folder: Path, backbone: Path, seed: int, **settings: Any) -> Path:
    """Write an adapter with large random factors and a random head: far from where training would leave it."""
    plain = load_backbone(str(backbone), seed=0).model
    options = {"r": 4, "lora_alpha": 8, "task_type": "SEQ_CLS", **settings}
    with quiet_transformers(), torch.random.fork_rng():
        torch.manual_seed(seed)
        model = get_peft_model(plain, LoraConfig(**options))
        for name, parameter in model.named_parameters():
            if "lora_" in name or ("score" in name and "modules_to_save" in name):
                torch.nn.init.normal_(parameter, std=0.5)
        model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return write_card(folder, backbone)


def merged_average(folders: Sequence[Path], weights: Sequence[float]) -> np.ndarray:
    """The scores of the average of merged networks, by peft's own merging: an independent way to the same network."""
    total: dict[str, torch.Tensor] = {}
    for folder, weight in zip(folders, weights, strict=True):
        scorer: Any = load_reward_model(str(folder))
        state = scorer.model.merge_and_unload(adapter_names=[scorer.adapter]).state_dict()
        for key, value in state.items():
            total[key] = total.get(key, 0.0) + weight * value.double()
    backbone = json.loads((folders[0] / CARD).read_text())["backbone"]["model"]
    whole = load_backbone(backbone)
    whole.model.load_state_dict({key: value.float() for key, value in total.items()})
    return np.asarray(whole.score(PAIRS))


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"target_modules": ["q_proj", "down_proj"], "r": 3}])
@pytest.mark.parametrize("weights", [(1 / 3, 1 / 3, 1 / 3), (0.7, 0.2, 0.1)])
def test_stacked_adapters_are_the_average_of_merged_networks(
    folder: Path, tmp_path: Path, settings: dict[str, Any], weights: tuple[float, ...]
) -> None:
    members = [adapter(tmp_path / f"m{k}", folder, k, **settings) for k in range(3)]
    average_models(members, tmp_path / "warm", weights=weights)
    np.testing.assert_allclose(scores(tmp_path / "warm"), merged_average(members, weights), rtol=1e-4, atol=1e-4)
    assert (tmp_path / "warm" / "adapter_model.safetensors").stat().st_size < 100_000


def test_averaging_the_factors_is_not_averaging_the_adapters(folder: Path, tmp_path: Path) -> None:
    members = [adapter(tmp_path / f"m{k}", folder, k) for k in range(3)]
    states = [load_peft_weights(str(member), device="cpu") for member in members]
    wrong = adapter(tmp_path / "wrong", folder, 0)
    mean = {key: torch.stack([state[key] for state in states]).mean(dim=0) for key in states[0]}
    save_file(mean, wrong / "adapter_model.safetensors", metadata={"format": "pt"})
    right = merged_average(members, [1 / 3] * 3)
    assert np.abs(scores(wrong) - right).max() > 0.05 * np.ptp(right)


def test_pefts_linear_combination_is_wrong_by_the_number_of_members(folder: Path, tmp_path: Path) -> None:
    # Three times the same adapter: its average is itself. peft's linear gives three times what it adds.
    with quiet_transformers():
        base: Any = load_backbone(str(folder)).model
        settings = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], init_lora_weights=False)
        model: Any = get_peft_model(base, settings, adapter_name="a0")
        for k in (1, 2):
            model.add_adapter(f"a{k}", settings)
        layer = model.base_model.model.model.layers[0].self_attn.q_proj
        for k in (1, 2):
            layer.lora_A[f"a{k}"].load_state_dict(layer.lora_A["a0"].state_dict())
            layer.lora_B[f"a{k}"].load_state_dict(layer.lora_B["a0"].state_dict())
        model.add_weighted_adapter(["a0", "a1", "a2"], [1 / 3] * 3, "linear", combination_type="linear")
    one, combined = layer.get_delta_weight("a0"), layer.get_delta_weight("linear")
    torch.testing.assert_close(combined, 3.0 * one, rtol=1e-4, atol=1e-6)


def test_peft_refuses_to_combine_adapters_with_heads(folder: Path, tmp_path: Path) -> None:
    members = [adapter(tmp_path / f"m{k}", folder, k) for k in range(2)]
    with quiet_transformers():
        model: Any = PeftModel.from_pretrained(load_backbone(str(folder)).model, members[0], adapter_name="a0")
        model.load_adapter(members[1], adapter_name="a1")
        with pytest.raises(ValueError, match="modules_to_save"):
            model.add_weighted_adapter(["a0", "a1"], [0.5, 0.5], "both", combination_type="cat")


@pytest.mark.parametrize(
    "settings",
    [{"use_dora": True}, {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 2}}],
    ids=["dora", "ranks"],
)
def test_what_is_not_linear_in_the_factors_is_merged_first(
    folder: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    members = [adapter(tmp_path / f"m{k}", folder, k, **settings) for k in range(2)]
    card = average_models(members, tmp_path / "warm")
    assert card["method"] == "full"
    np.testing.assert_allclose(scores(tmp_path / "warm"), merged_average(members, [0.5, 0.5]), rtol=1e-4, atol=1e-4)


def test_baklava_members_on_different_backbones_are_merged_first(folder: Path, tmp_path: Path) -> None:
    other = tiny.save_language_model(tmp_path / "sft", seed=9)
    members = [adapter(tmp_path / "m0", folder, 0), adapter(tmp_path / "m1", other, 1)]
    assert average_models(members, tmp_path / "warm")["method"] == "full"
    states = []
    for member in members:
        scorer: Any = load_reward_model(str(member))
        states.append(scorer.model.merge_and_unload(adapter_names=[scorer.adapter]).state_dict())
    whole = load_backbone(str(folder))
    whole.model.load_state_dict({key: (states[0][key] + states[1][key]) / 2 for key in states[0]})
    np.testing.assert_allclose(scores(tmp_path / "warm"), whole.score(PAIRS), rtol=1e-4, atol=1e-4)


def test_whole_networks_are_averaged_between_their_ends(folder: Path, tmp_path: Path) -> None:
    for k in range(2):
        how = made(Finetuning, steps=2, learning_rate=1e-3, max_length=64, seed=k)
        finetune(str(folder), triples(ROWS), how, tmp_path / f"m{k}")
    members = [tmp_path / "m0", tmp_path / "m1"]
    average_models(members, tmp_path / "end", weights=(0.0, 1.0))
    np.testing.assert_allclose(scores(tmp_path / "end"), scores(members[1]), atol=1e-6)
    average_models(members, tmp_path / "half")
    states = [load_reward_model(str(member)).model.state_dict() for member in members]  # type: ignore[attr-defined]
    half = load_reward_model(str(tmp_path / "half")).model.state_dict()  # type: ignore[attr-defined]
    for key, value in half.items():
        torch.testing.assert_close(value, (states[0][key] + states[1][key]) / 2)


def test_for_linear_heads_warm_is_the_mean_ensemble(folder: Path, tmp_path: Path) -> None:
    members = []
    for k in range(3):
        chosen, rejected, origin = frozen_features("head", str(folder), triples(preferences(40, seed=k)))
        head = fit_head(chosen, rejected, Likelihood(has_bias=False))
        members.append(tmp_path / f"m{k}")
        members[-1].mkdir()
        save_head(members[-1], head.weights, head.bias)
        (members[-1] / CARD).write_text(json.dumps({"backbone": origin, "method": "head", "eta": 0.01}))
    average_models(members, tmp_path / "warm")
    np.testing.assert_allclose(scores(tmp_path / "warm"), np.mean([scores(m) for m in members], axis=0), atol=2e-6)
    # float32 scores of a network whose head was averaged


def test_averages_keep_features_by_the_square_of_how_often_they_are_learned() -> None:
    # Rame et al. 2024, section 4.3: M two-layer networks r = w . f(x) with a featurizer that uses feature j with
    # probability p_j and w = sum_j f_j z_j. An ensemble weighs feature j by p_j |z_j|^2, an average by p_j^2 |z_j|^2.
    rng = np.random.default_rng(0)
    probabilities, members = np.array([0.1, 0.3, 0.6, 0.9]), 20_000
    z = np.diag([1.0, 2.0, 0.5, 1.5])
    used = rng.random((members, 4)) < probabilities
    heads = used @ z
    for j in range(4):
        x = np.zeros((4, 4))
        x[j] = z[j]  # an input whose only content is feature j
        size = z[j] @ z[j]
        ensemble = np.mean([head @ (f @ x) for head, f in zip(heads, used, strict=True)])
        average = heads.mean(axis=0) @ (used.mean(axis=0) @ x)
        share = used[:, j].mean()
        assert ensemble == pytest.approx(share * size, rel=1e-12)  # exact in the share that came out
        assert average == pytest.approx(share**2 * size, rel=1e-12)
        assert share == pytest.approx(probabilities[j], abs=0.015)  # over four standard errors


def test_models_that_cannot_be_averaged_are_refused(folder: Path, tmp_path: Path) -> None:
    members = [adapter(tmp_path / "m0", folder, 0), adapter(tmp_path / "m1", folder, 1, target_modules=["q_proj"])]
    with pytest.raises(InputError, match="sum to 1"):
        average_models(members, tmp_path / "warm", weights=(0.5, 0.6))
    head = tmp_path / "head"
    head.mkdir()
    save_head(head, np.ones(384), 0.0)
    write_card(head, folder, method="embedding")
    other = tmp_path / "other"
    other.mkdir()
    save_head(other, np.ones(384), 0.0)
    write_card(other, tiny.save_language_model(tmp_path / "lm", seed=3), method="embedding")
    with pytest.raises(InputError, match="heads on the same features of one backbone"):
        average_models([head, other], tmp_path / "warm")
    with pytest.raises(InputError, match="members must be networks of one shape|all heads on embeddings or none"):
        average_models([head, members[0]], tmp_path / "warm")
    assert not list(tmp_path.glob("warm*"))  # not the beginning of one either
