"""Language models that are damaged: whatever transformers, safetensors and templates raise is one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_game import InputError
from rlhf_game.training_backends import load_language_model
from tests import tiny


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "model"
    tiny.save_language_model(folder)
    return folder


def content(name: str, data: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(data)


def cut(name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-40])


def setting(**changes: Any) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        known = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**known, **changes}))

    return change


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "weights that are none": content("model.safetensors", b"{"),
    "weights that are cut": cut("model.safetensors"),
    "a configuration that is none": content("config.json", b"{"),
    "a configuration that is a list": content("config.json", b"[1]"),
    "a tokenizer that is a list": content("tokenizer.json", b"[1]"),
    "a tokenizer that is cut": cut("tokenizer.json"),
    "a tokenizer's configuration that is a list": content("tokenizer_config.json", b"[1]"),
    "a generation's configuration that is a list": content("generation_config.json", b"[1]"),
    "bytes": content("tokenizer_config.json", b"\xff\x00"),
    "an unknown architecture": setting(model_type="nope"),
    "other shapes": setting(hidden_size=12, num_attention_heads=2),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_one_line(tmp_path: Path, whole: Path, name: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    DAMAGE[name](folder)
    with pytest.raises(InputError) as caught:
        load_language_model(str(folder), device="cpu")
    assert str(caught.value).startswith(f"model: {folder} cannot be loaded")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "template",
    ["{% if", "{{ 1/0 }}", "{{ messages[9].x.y }}", "{{ messages|sum }}", "{{ foo() }}", "{% include 'x' %}",
     "{{ raise_exception('no\nway') }}", "{{ 'x' * (2**62) }}", "{{ ''.join(messages) }}"],
    ids=["syntax", "zero", "index", "type", "name", "include", "refusal", "memory", "join"],
)  # fmt: skip
def test_whatever_a_chat_template_does_is_one_line(whole: Path, template: str) -> None:
    model = load_language_model(str(whole), device="cpu")
    model.tokenizer.chat_template = template
    with pytest.raises(InputError, match="the model's chat template must take the turns user, found: ") as caught:
        model.encode_prompt("good please")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_gguf_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "f.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(InputError, match=r"f.gguf must be a GGUF file that transformers reads: ") as caught:
        load_language_model(str(tmp_path / "f.gguf"), device="cpu")
    assert "\n" not in str(caught.value)
