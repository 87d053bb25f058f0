r"""Exported rewards under the engines' own code, which is nowhere in this project: verl 0.9.1 and OpenRLHF 0.11.2.

Run where they are installed without their own dependencies on GPUs, say by

    pip install --no-deps --target ENGINES verl==0.9.1 openrlhf==0.11.2 omegaconf antlr4-python3-runtime==4.9.3 \
        hydra-core tensordict pyvers orjson codetiming pylatexenc aiohttp yarl multidict propcache frozenlist \
        aiosignal aiohappyeyeballs
    PYTHONPATH=ENGINES python -m pytest -m slow tests/outcomes/test_engines_of_others.py
"""

import asyncio
import runpy
import shlex
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from pyarrow import parquet
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.cli.runner import run as command
from tests.outcomes.test_exporting import TEXTS, expected, export

__all__ = ["export"]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the engines' own
PLACE = 1


def words(folder: Path) -> list[str]:
    return shlex.split((folder / "launch.sh").read_text().split("set -e\n")[1].replace("\\\n", ""))


def test_verl_reads_the_launch_line_and_asks_the_reward(export: Callable[..., Path]) -> None:
    """Hydra composes verl's own configuration, and its reward manager scores a batch of verl's own kind."""
    verl = pytest.importorskip("verl")
    hydra = pytest.importorskip("hydra")
    import torch
    from verl.experimental.reward_loop.reward_loop import migrate_legacy_reward_impl
    from verl.trainer.ppo.reward import load_reward_manager

    folder = export("verl")
    given = [word for word in words(folder) if "=" in word]
    with hydra.initialize_config_dir(str(Path(verl.__file__).parent / "trainer" / "config"), version_base=None):
        config = hydra.compose("ppo_trainer", overrides=given)
    assert config.algorithm.kl_ctrl.kl_coef == 0.25
    odd = folder.parent / "a 'b' \"c\", d=e {f} [g] ${h} \\i \\' \\${j} \\\\"
    assert command("export", "verl", folder.parent / "config.json", "-o", odd).code == 0
    with hydra.initialize_config_dir(str(Path(verl.__file__).parent / "trainer" / "config"), version_base=None):
        there = hydra.compose("ppo_trainer", overrides=[word for word in words(odd) if "=" in word])
    assert there.data.train_files == str(odd / "prompts.parquet")
    config = migrate_legacy_reward_impl(config)
    tokenizer = AutoTokenizer.from_pretrained(folder.parent / "model")
    manager = load_reward_manager(config, tokenizer)
    row = parquet.read_table(folder / "prompts.parquet").to_pylist()[PLACE]
    totals, rewards = expected(folder, [PLACE] * len(TEXTS))
    for k, text in enumerate(TEXTS):
        ids = torch.tensor([[*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]])
        batch = verl.DataProto.from_single_dict(
            {"responses": ids, "attention_mask": torch.ones_like(ids), **{key: _column(row[key]) for key in row}}
        )
        found = manager.loop.run_until_complete(manager.run_single(batch))
        assert found["reward_score"] == pytest.approx(totals[k])
        assert found["reward_extra_info"]["group_kind"] == pytest.approx(rewards[0, k])
    manager.loop.close()


def of_bytes() -> PreTrainedTokenizerFast:
    """As models have them that are trained today: what is decoded is what was read, spaces and all."""
    known = Tokenizer(models.BPE(vocab={c: k for k, c in enumerate(pre_tokenizers.ByteLevel.alphabet())}, merges=[]))
    known.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    known.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=known, bos_token="<bos>", eos_token="<eos>")
    made.chat_template = "{% for m in messages %}<bos>{{ m['role'] }}\n{{ m['content'] }}<eos>\n{% endfor %}"
    return made


@pytest.fixture
def without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """What OpenRLHF imports beside its own reward loader and needs a GPU for: nothing of it is asked here."""
    for name in ("vllm", "deepspeed", "deepspeed.utils", "flash_attn", "openrlhf.trainer.ray"):
        monkeypatch.setitem(sys.modules, name, MagicMock(__spec__=ModuleSpec(name, None), __path__=[]))
    for name in ("vllm_engine", "launcher", "ppo_actor", "ppo_critic"):
        monkeypatch.setitem(sys.modules, f"openrlhf.trainer.ray.{name}", MagicMock())


def test_openrlhf_reads_the_launch_line(
    export: Callable[..., Path], without_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openrlhf")
    read: list[Any] = []
    parse = ArgumentParser.parse_args

    def parsed(parser: ArgumentParser, *arguments: Any) -> Any:
        read.append(parse(parser, *arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(ArgumentParser, "parse_args", parsed)
    given = words(export("openrlhf"))
    monkeypatch.setattr(sys, "argv", given[2:-1])
    with pytest.raises(KeyboardInterrupt):
        runpy.run_module("openrlhf.cli.train_ppo_ray", run_name="__main__")
    known = vars(read[0])
    assert (known["algo.kl.init_coef"], known["algo.kl.estimator"]) == (0.25, "k1")
    assert known["algo.advantage.estimator"] == "rloo"
    assert tuple(known["reward.clip_range"]) == (-5.0, 5.0)


def test_openrlhf_asks_the_reward_of_what_its_engine_said(export: Callable[..., Path], without_gpus: None) -> None:
    pytest.importorskip("openrlhf")
    from openrlhf.datasets.prompts_dataset import PromptDataset
    from openrlhf.datasets.utils import blending_datasets
    from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    folder = export("openrlhf")
    tokenizer = of_bytes()
    tokenizer.save_pretrained(folder.parent / "model")
    data = SimpleNamespace(input_key="input", label_key="label", apply_chat_template=True)
    strategy = SimpleNamespace(print=print, is_rank_0=lambda: True, args=SimpleNamespace(data=data))
    rows = blending_datasets(str(folder / "prompts.jsonl"), strategy=strategy)
    _, prompt, label, _ = PromptDataset(rows, tokenizer, strategy)[PLACE]
    executor = SingleTurnAgentExecutor([str(folder / "rewards.py")])
    totals, rewards = expected(folder, [PLACE] * len(TEXTS))

    class Engine:
        async def generate(self, ids: Any, parameters: Any, multi_modal_data: Any = None) -> Any:
            return SimpleNamespace(outputs=[SimpleNamespace(token_ids=said, finish_reason="stop", logprobs=None)])

    for k, text in enumerate(TEXTS):
        said = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        parameters = SimpleNamespace(max_tokens=8, logprobs=None)
        found = asyncio.run(executor.execute(prompt, label, parameters, 64, tokenizer, Engine()))
        one = SamplesGenerator._process_response_into_experience(None, found)
        assert one.rewards.tolist() == pytest.approx([totals[k]])
        assert one.info["reward"].tolist() == pytest.approx([totals[k]])
        assert one.info["group_brief"].tolist() == pytest.approx([rewards[1, k]])


def _column(value: Any) -> Any:
    import numpy as np

    column = np.empty(1, dtype=object)
    column[0] = value
    return column
