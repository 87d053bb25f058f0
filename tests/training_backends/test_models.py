"""Weights are found, converted once, and never unpickled."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from httpx2 import Request, Response
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from transformers.utils import logging

from rlhf_game import InputError
from rlhf_game.training_backends.lm import checkpoints
from rlhf_game.training_backends.lm.checkpoints import find_checkpoint, hash_file
from rlhf_game.training_backends.lm.hub import load_rows
from rlhf_game.training_backends.lm.models import LanguageModel, load_language_model
from rlhf_game.training_backends.lm.quiet import quiet_transformers
from rlhf_game.training_backends.lm.sampling import Sampling, log_probabilities, sample
from tests import tiny


def test_a_folder_says_the_hash_of_its_weights(folder: Path, language_model: LanguageModel) -> None:
    assert language_model.provenance == {"model": str(folder), "sha256": hash_file(folder / "model.safetensors")}


def test_a_path_is_relative_to_the_configuration(folder: Path) -> None:
    assert find_checkpoint(folder.name, base=folder.parent).location == str(folder)


def test_the_prompt_goes_through_the_chat_template(language_model: LanguageModel, tmp_path: Path) -> None:
    ids = {word: i for i, word in enumerate(tiny.WORDS)}
    assert language_model.encode_prompt("good yes") == [ids["good"], ids["yes"], ids["<bos>"]]
    assert language_model.encode_prompt("yes", "no") == [ids["no"], ids["<bos>"], ids["yes"], ids["<bos>"]]
    plain = load_language_model(str(tiny.save_language_model(tmp_path, chat=None)))
    assert plain.encode_prompt("good yes") == [ids["good"], ids["yes"]]
    assert plain.encode_prompt("") == [ids["<bos>"]]
    assert plain.render("yes", "no") == "no\n\nyes"


def test_every_declared_end_ends_a_sequence(language_model: LanguageModel) -> None:
    assert language_model.end_ids == (2,)
    language_model.model.generation_config.eos_token_id = [2, 7]
    try:
        assert language_model.end_ids == (2, 7)
        row = sample(language_model, ["good"], 500, seed=0, sampling=Sampling(6))[0]
        assert {drawn.token_ids[-1] for drawn in row if drawn.is_finished} == {2, 7}
    finally:
        language_model.model.generation_config.eos_token_id = 2


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    tiny.save_language_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"holds only pytorch_model.bin, a pickle, which is never loaded"):
        load_language_model(str(tmp_path))


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "nowhere.gguf"])
def test_a_path_that_is_not_there_is_said(name: str) -> None:
    with pytest.raises(InputError, match="there is none at"):
        load_language_model(name)


def test_a_hub_name_without_a_network_is_one_line() -> None:
    with pytest.raises(
        InputError, match=r"model: nobody/nothing cannot be loaded \(HF_HUB_OFFLINE is set; it is"
    ) as caught:
        load_language_model("nobody/nothing")
    assert "\n" not in str(caught.value)


def hub_that_says(answer: Exception | None) -> Callable[..., None]:
    """Return what stands for the question whether the hub has something: it fails so, or has it."""

    def info(*_: Any, **__: Any) -> None:
        if answer is not None:
            raise answer

    return info


@pytest.mark.parametrize(
    ("answer", "is_asked"),
    [
        (None, True),
        (HfHubHTTPError("404", response=Response(404, request=Request("GET", "https://example.org"))), True),
        (ConnectionError("no route"), False),
    ],
)
def test_a_hub_that_does_not_answer_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, answer: Exception | None, is_asked: bool
) -> None:
    """Without a network transformers asked again for half a minute; a copy in the cache is still found."""
    seen: list[bool] = []

    def load(*_: Any, **__: Any) -> None:
        seen.append(constants.HF_HUB_OFFLINE)
        raise OSError("nothing there")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("rlhf_game.training_backends.lm.reach.HfApi.repo_info", hub_that_says(answer))
    monkeypatch.setattr("rlhf_game.training_backends.lm.models.AutoModelForCausalLM.from_pretrained", load)
    with pytest.raises(InputError, match="nor one of smollm2-135m-instruct, all-minilm-l6-v2.*nothing there"):
        load_language_model("nobody/nothing")
    assert seen == [not is_asked]
    assert not constants.HF_HUB_OFFLINE


def test_what_transformers_asks_a_silent_hub_for_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looked for an adapter's settings in spite of local_files_only, six times in 23 seconds."""
    asked: list[str] = []

    def head(url: str, *_: Any, **__: Any) -> Any:
        asked.append(url)
        raise OSError("no route")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("rlhf_game.training_backends.lm.reach.HfApi.repo_info", hub_that_says(ConnectionError("no")))
    monkeypatch.setattr("huggingface_hub.file_download.get_hf_file_metadata", head)
    with pytest.raises(InputError, match="model: nobody/nothing cannot be loaded"):
        load_language_model("nobody/nothing")
    assert asked == []


@pytest.mark.parametrize(("answer", "is_offline"), [(None, False), (ConnectionError("no route"), True)])
def test_a_silent_hub_is_not_asked_for_a_dataset_again(
    monkeypatch: pytest.MonkeyPatch, answer: Exception | None, is_offline: bool
) -> None:
    """Without a network it took 24 seconds and eleven lines to say that there is no such dataset."""
    seen: list[bool] = []

    def load(*_: Any, **__: Any) -> None:
        seen.append(constants.HF_HUB_OFFLINE)
        raise OSError("not there\nsecond line")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("rlhf_game.training_backends.lm.reach.HfApi.repo_info", hub_that_says(answer))
    monkeypatch.setattr("rlhf_game.training_backends.lm.hub.load_dataset", load)
    with pytest.raises(InputError) as caught:
        load_rows("nobody/nothing", split="train")
    assert str(caught.value) == "dataset: nobody/nothing (split train) cannot be loaded: not there"
    assert seen == [is_offline]
    assert not constants.HF_HUB_OFFLINE


def test_a_wrong_gguf_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_GAME_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.gguf").write_bytes(b"not a model" * 100)
    with pytest.raises(InputError, match=r"model.gguf must be a GGUF file"):
        load_language_model(str(tmp_path / "model.gguf"))


def test_settings_of_transformers_are_put_back() -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with quiet_transformers():
        assert not logging.is_progress_bar_enabled()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


class Converter:
    """Stands in for the conversion; fails the first ``failures`` times, half way."""

    def __init__(self, failures: int = 0, seconds: float = 0.0) -> None:
        self.calls, self.failures, self.seconds = 0, failures, seconds

    def __call__(self, gguf: Path, folder: Path) -> None:
        self.calls += 1
        (folder / "config.json").write_text("{")
        if self.calls <= self.failures:
            raise KeyboardInterrupt
        time.sleep(self.seconds)
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "config.json").write_text("{}")


@pytest.fixture
def gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RLHF_GAME_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    return tmp_path / "model.gguf"


def test_a_gguf_file_is_converted_once(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converter = Converter()
    monkeypatch.setattr(checkpoints, "_convert", converter)
    first, again = (find_checkpoint(str(gguf)) for _ in range(2))
    assert converter.calls == 1
    assert first == again
    assert first.sha256 == hash_file(gguf)
    assert json.loads((Path(first.location) / "config.json").read_text()) == {}


def test_two_at_once_convert_once(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converter = Converter(seconds=0.3)
    monkeypatch.setattr(checkpoints, "_convert", converter)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(find_checkpoint(str(gguf)).location)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert converter.calls == 1
    assert len(set(found)) == 1
    assert len(found) == 3


def test_an_interrupted_conversion_leaves_nothing_under_the_final_name(
    gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converter = Converter(failures=1)
    monkeypatch.setattr(checkpoints, "_convert", converter)
    with pytest.raises(KeyboardInterrupt):
        find_checkpoint(str(gguf))
    models = checkpoints.cache_folder() / "models"
    assert [path.name for path in models.iterdir() if path.is_dir() and not path.name.startswith(".")] == []
    location = Path(find_checkpoint(str(gguf)).location)
    assert (location / "model.safetensors").exists()
    assert [path for path in models.iterdir() if path.is_dir()] == [location]  # the leftover is swept


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RLHF_GAME_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert checkpoints.cache_folder() == tmp_path / "rlhf-game"
    monkeypatch.setenv("RLHF_GAME_CACHE", str(tmp_path / "mine"))
    assert checkpoints.cache_folder() == tmp_path / "mine"


@pytest.mark.weights
def test_smollm2_prefers_the_capital_of_australia() -> None:
    model = load_language_model("smollm2-135m-instruct")
    prompt = model.encode_prompt("What is the capital of Australia?")
    answers = ["The capital of Australia is Canberra.", "The capital of Australia is Paris.", "Banana the of chair is."]
    encoded = [[*model.tokenizer(text, add_special_tokens=False).input_ids, 2] for text in answers]
    found = log_probabilities(model, [prompt] * 3, encoded)
    assert found[0] > found[1] > found[2]
    np.testing.assert_allclose(found[:2], [-1.81, -15.46], atol=0.01)  # measured with transformers alone, to two digits
    assert model.provenance["sha256"] == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@pytest.mark.weights
@pytest.mark.slow
def test_the_converted_copy_gives_the_logits_of_the_gguf_file() -> None:
    from transformers import AutoModelForCausalLM

    known = checkpoints.INSTALLED["smollm2-135m-instruct"]
    path = checkpoints._installed(known)
    with quiet_transformers():
        original = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32)
    copy = load_language_model("smollm2-135m-instruct").model
    ids = torch.tensor([[1, 2683, 253, 3521, 288]])
    with torch.inference_mode():
        assert torch.equal(original.eval()(ids).logits, copy(ids).logits)
