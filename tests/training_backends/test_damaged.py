"""Reward models that are damaged or were never ones: one line that says which file or folder, and nothing scored."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from rlhf_game import InputError
from rlhf_game.training_backends.lm.checkpoints import find_checkpoint
from rlhf_game.training_backends.lm.quiet import quiet_transformers
from rlhf_game.training_backends.lm.reward_networks import CARD, HEAD, is_identified, load_reward_model, save_head
from rlhf_game.training_backends.lm.scorers import load_embedder
from tests.training_backends.cases import ARCHITECTURES, PLAIN, Case
from tests.training_backends.matrix import save_case, save_network

Change = Callable[[Path], Any]
LLAMA = ARCHITECTURES["Llama"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("whole")
    with quiet_transformers():
        network = save_network(root / "network", LLAMA)
        full = save_case(root / "full", network, LLAMA, Case(template=PLAIN))
        adapter = save_case(root / "case", network, LLAMA, Case(is_adapter=True, template=PLAIN))
    head = root / "head"
    head.mkdir()
    save_head(head, np.ones(16), 0.0)
    known = dict(find_checkpoint(str(full)).provenance)
    (head / CARD).write_text(json.dumps({"backbone": known, "method": "embedding", "eta": 0.01}))
    return {"full": full, "adapter": adapter, "head": head}


def text(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content)


def fields(name: str, **changes: Any) -> Change:
    return lambda folder: (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | changes))


def weights(**tensors: Any) -> Change:
    return lambda folder: save_file({name: np.asarray(value) for name, value in tensors.items()}, folder / HEAD)


ADAPTER, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("head", text(CARD, "{no"), "reward_model.json must be a card: JSONDecodeError"),
        ("head", text(CARD, "[]"), "must have a card, reward_model.json, that names its backbone; found none"),
        ("head", fields(CARD, backbone="x"), "must have a card, reward_model.json, that names its backbone"),
        ("head", fields(CARD, backbone={"model": "/gone"}), "/gone must be an existing folder"),
        ("head", fields(CARD, method="x"), "method: must be embedding or head in its card"),
        ("head", fields(CARD, truncate="middle"), "truncate: must be head or tail, found 'middle'"),
        ("head", fields(CARD, eta="much"), "reward_model.json: eta: must be a number"),
        ("head", weights(weight=np.ones(7), bias=[0.0]), "a head must have 16 weights for its backbone, found 7"),
        ("head", weights(weight=np.ones(16)), "head.safetensors must hold a weight and a bias: KeyError: 'bias'"),
        ("head", weights(weight=np.full(16, np.nan), bias=[0.0]), "weight must be finite, got nan"),
        ("head", text(HEAD, "x"), "head.safetensors must hold a weight and a bias: SafetensorError"),
        ("adapter", text(ADAPTER, "{no"), "must be an adapter that peft reads: JSONDecodeError"),
        ("adapter", text(ADAPTER, "[]"), "must be an adapter that peft reads: TypeError"),
        ("adapter", fields(ADAPTER, peft_type="NOPE"), "must be an adapter that peft reads: KeyError: 'NOPE'"),
        ("adapter", fields(ADAPTER, base_model_name_or_path=None), "must name its backbone"),
        ("adapter", fields(ADAPTER, r=5), "must be an adapter that fits its backbone: RuntimeError"),
        ("adapter", text(WEIGHTS, "x" * 20), "must hold adapter_model.safetensors: SafetensorError"),
        ("adapter", lambda folder: (folder / WEIGHTS).rename(folder / "a.safetensors"), "must hold adapter_model"),
        ("adapter", lambda folder: (folder / WEIGHTS).rename(folder / "adapter_model.bin"), "a pickle, which is never"),
        ("adapter", text("tokenizer.json", "{no"), "cannot be loaded"),
        ("full", text("config.json", "{no"), "is not a valid JSON file"),
        ("full", text("config.json", "{}"), "Unrecognized model"),
        ("full", text("model.safetensors", "x" * 30), "cannot be loaded (HF_HUB_OFFLINE is set): SafetensorError"),
        ("full", fields("config.json", hidden_size=32), "cannot be loaded (HF_HUB_OFFLINE is set): RuntimeError"),
        ("full", fields("config.json", pad_token_id=99), "AssertionError: Padding_idx"),
        ("full", text("chat_template.jinja", "{% if %}"), "the model's chat template must take the turns"),
        ("full", lambda folder: [path.unlink() for path in folder.glob("token*")], "ValueError: Could"),
    ],
)
def test_what_is_damaged_is_one_line(
    folders: dict[str, Path], tmp_path: Path, kind: str, change: Change, said: str
) -> None:
    place = shutil.copytree(folders[kind], tmp_path / "damaged")
    change(place)
    with pytest.raises(InputError) as caught:
        load_reward_model(str(place)).score([("good", "yes")])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_settings_of_an_embedder_are_read_or_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    place = shutil.copytree(folders["full"], tmp_path / "embedder")
    assert load_embedder(str(place)).room == 64
    for content, room in (('{"max_seq_length": 16}', 16), ('{"max_seq_length": null}', 64), ("{}", 64)):
        (place / "sentence_bert_config.json").write_text(content)
        assert load_embedder(str(place)).room == room
    (place / "sentence_bert_config.json").write_text('{"max_seq_length": "long"}')
    with pytest.raises(InputError, match="must be sentence-transformers' settings"):
        load_embedder(str(place))


def test_a_level_is_identified_where_the_card_says_so(folders: dict[str, Path]) -> None:
    assert is_identified(str(folders["head"]))
    assert not is_identified(str(folders["full"]))
